"""Logging in: keys for us alone whatever the umask, and a configuration that ssh itself reads."""

import os
import stat
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from ai_how.clusters.secrets import write_ssh_files
from ai_how.guest.ssh import (
    ensure_key,
    ensure_munge_key,
    read_user_keys,
    render_known_hosts,
    render_ssh_config,
    ssh_argv,
)
from ai_how.hpc.identities import ensure_secrets
from ai_how.process import run
from ai_how.state.paths import ClusterPaths
from cluster_bench import draft_of, read_hpc

NO_AGENT = ["-o", "IdentityAgent=none"]
STRANGE = ["plain", "two words", "50%d off %h", "it's", 'say "hi"', "ä$HOME`id`", "back\\slash"]
DRAFT = draft_of(read_hpc())


@pytest.fixture(params=[0o000, 0o077], ids=oct)
def umask(request):
    former = os.umask(request.param)
    yield
    os.umask(former)


def paths_in(directory: Path) -> ClusterPaths:
    directory.mkdir(parents=True, exist_ok=True)
    return ClusterPaths(directory / "hpc")


def understood(config: Path, host: str) -> dict[str, str]:
    """What ssh makes of a configuration, without connecting."""
    lines = shown(config, host)
    return {key: value for key, _, value in (line.partition(" ") for line in lines)}


def shown(config: Path, host: str) -> list[str]:
    return run(["ssh", "-G", "-F", config, "--", host]).stdout.splitlines()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.fault("S13", "umask 000 and 077")
def test_keys_are_for_us_alone_under_any_umask(tmp_path, umask):
    paths = paths_in(tmp_path)
    ensure_secrets(DRAFT.state, paths)
    write_ssh_files(DRAFT.state, paths, [])
    assert mode(paths.munge_key) == 0o600
    assert mode(paths.ssh_key) == 0o600
    assert [mode(paths.host_key(node.name)) for node in DRAFT.state.nodes] == [0o600] * 3
    for directory in (paths.root, paths.secrets, paths.ssh):
        assert mode(directory) == 0o700
    assert mode(paths.known_hosts) == mode(paths.ssh_config) == 0o600


def test_keys_that_are_there_are_kept(tmp_path):
    paths = paths_in(tmp_path)
    ensure_secrets(DRAFT.state, paths)
    files = [path for path in paths.root.rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    assert len(before) == 1 + 2 * 4
    ensure_secrets(DRAFT.state, paths)
    assert {path: path.read_bytes() for path in files} == before


@pytest.mark.fault("F54", "a public key deleted, or cut")
@pytest.mark.parametrize("text", [None, "ssh-ed"])
def test_a_public_key_that_was_lost_is_made_of_its_private_key(tmp_path, text):
    key = tmp_path / "keys" / "id"
    first, private = ensure_key(key, "me"), key.read_bytes()
    public = key.with_name("id.pub")
    public.unlink() if text is None else public.write_text(text)
    assert ensure_key(key, "me") == first
    assert (key.read_bytes(), public.read_text()) == (private, f"{first}\n")


def test_a_private_key_that_was_cut_short_is_made_anew(tmp_path):
    key = tmp_path / "keys" / "id"
    first = ensure_key(key, "me")
    key.write_bytes(key.read_bytes()[:100])
    key.with_name("id.pub").unlink()
    second = ensure_key(key, "me")
    assert second != first
    assert second.startswith("ssh-ed25519 ")
    assert second.endswith(" me")
    assert ensure_key(key, "me") == second


@pytest.mark.fault("S14", "two clusters")
def test_every_munge_key_is_another(tmp_path):
    one, two = (ensure_munge_key(tmp_path / name / "munge.key") for name in "ab")
    assert len(one) == 1024
    assert one != two


def test_only_what_is_a_public_key_is_read_of_the_user(tmp_path):
    home = tmp_path / ".ssh"
    home.mkdir()
    (home / "b.pub").write_text("ssh-ed25519 AAAA me\n")
    (home / "a.pub").write_text("ecdsa-sha2-nistp256 BBBB me\n")
    (home / "cert.pub").write_text("-----BEGIN\n")
    (home / "bytes.pub").write_bytes(b"\xff\xfe")
    (home / "dir.pub").mkdir()
    (home / "id").write_text("ssh-ed25519 private\n")
    assert read_user_keys(tmp_path) == ("ecdsa-sha2-nistp256 BBBB me", "ssh-ed25519 AAAA me")
    assert read_user_keys(tmp_path / "nobody") == ()


@pytest.mark.parametrize(
    "text",
    [
        "ssh-ed25519 AAAA one\nssh-ed25519 BBBB two\n",
        "\n# a comment\nssh-ed25519 AAAA one\n\nssh-ed25519 BBBB two",
    ],
)
def test_a_file_of_several_public_keys_is_several_keys(tmp_path, text):
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "all.pub").write_text(text)
    assert read_user_keys(tmp_path) == ("ssh-ed25519 AAAA one", "ssh-ed25519 BBBB two")


def test_known_hosts_hold_no_comment_of_a_key():
    assert render_known_hosts({"hpc-controller": "ssh-ed25519 AAAA hpc-controller x"}) == (
        "hpc-controller ssh-ed25519 AAAA\n"
    )


@pytest.mark.parametrize("directory", STRANGE)
def test_ssh_finds_our_files_wherever_they_are(tmp_path, directory):
    paths = paths_in(tmp_path / directory)
    ensure_secrets(DRAFT.state, paths)
    write_ssh_files(DRAFT.state, paths, [])
    seen = understood(paths.ssh_config, "compute-01")
    # ssh -G prints a path with its tokens not yet replaced.
    assert seen["identityfile"].replace("%%", "%") == str(paths.ssh_key)
    assert seen["userknownhostsfile"].replace("%%", "%") == str(paths.known_hosts)


@pytest.mark.fault("S11", "what ssh makes of our configuration")
def test_hosts_are_checked_strictly_and_nothing_else_is_asked(tmp_path):
    paths = paths_in(tmp_path)
    ensure_secrets(DRAFT.state, paths)
    write_ssh_files(DRAFT.state, paths, [])
    for host in ("compute-02", "hpc-compute-02"):
        seen = understood(paths.ssh_config, host)
        assert seen["hostname"] == str(IPv4Address("10.77.0.12"))
        assert seen["user"] == "hpc"
        assert seen["hostkeyalias"] == "hpc-compute-02"
        assert seen["stricthostkeychecking"] == "true"
        assert seen["passwordauthentication"] == "no"
        assert seen["updatehostkeys"] == "false"
        assert seen["globalknownhostsfile"] == "/dev/null"
    aliases = [line.split()[0] for line in paths.known_hosts.read_text().splitlines()]
    assert aliases == ["hpc-controller", "hpc-compute-01", "hpc-compute-02"]


@pytest.mark.fault("S12", "odd words in a ProxyCommand")
@pytest.mark.parametrize("word", STRANGE)
def test_a_proxy_command_gets_its_words_unchanged(tmp_path, word):
    paths = paths_in(tmp_path)
    ensure_secrets(DRAFT.state, paths)
    seen = tmp_path / "seen"
    proxy = ["sh", "-c", f'printf "%s\\n" "$@" > {seen}', "sh", word]
    write_ssh_files(DRAFT.state, paths, proxy)
    done = run(["ssh", "-F", paths.ssh_config, "-o", "BatchMode=yes", "compute-01"], check=False)
    assert done.returncode == 255
    assert seen.read_text().splitlines() == [word, "10.77.0.11", "22"]


def test_no_proxy_where_nodes_can_be_reached_directly(tmp_path):
    paths = paths_in(tmp_path)
    assert "ProxyCommand" not in render_ssh_config(DRAFT.state, paths, [])


# What people have for all hosts in ~/.ssh/config. It comes after the `Include` of ours.
USUAL = """
Host *
  User root
  Port 2222
  IdentityFile ~/.ssh/id_rsa
  IdentitiesOnly no
  StrictHostKeyChecking ask
  UserKnownHostsFile ~/.ssh/known_hosts
  GlobalKnownHostsFile /etc/ssh/ssh_known_hosts
  UpdateHostKeys yes
  LogLevel QUIET
  PasswordAuthentication yes
  PreferredAuthentications password
  CanonicalizeHostname always
  CanonicalDomains example.org
  ControlMaster auto
  ControlPath ~/.ssh/cm-%r@%h:%p
  ControlPersist 10m
  RemoteCommand tmux
  RequestTTY force
  ProxyJump bastion.example.org
"""


@pytest.mark.parametrize("proxy", [[], ["nc"]], ids=["direct", "proxy"])
def test_what_a_user_has_for_all_hosts_changes_nothing_of_ours(tmp_path, proxy):
    paths = paths_in(tmp_path)
    ensure_secrets(DRAFT.state, paths)
    write_ssh_files(DRAFT.state, paths, proxy)
    own = tmp_path / "config"
    own.write_text(f"Include {paths.ssh_config}\n{USUAL}")
    alone, included = (understood(one, "hpc-compute-01") for one in (paths.ssh_config, own))
    # A second key is tried after ours. Without a control path there is no control socket.
    for free in ("identityfile", "controlmaster", "controlpersist", "canonicaldomains"):
        alone.pop(free, None)
        included.pop(free, None)
    assert included == alone
    first, *_ = [line for line in shown(own, "hpc-compute-01") if line.startswith("identityfile ")]
    assert first == f"identityfile {paths.ssh_key}"
    assert understood(own, "elsewhere")["user"] == "root", "other hosts have the user's settings"


@pytest.mark.fault("S12", "words after the host name")
def test_a_node_name_is_never_an_option_of_ssh(tmp_path):
    paths = paths_in(tmp_path)
    words = ssh_argv(paths, "hpc-compute-01", ["ls", "-l"])
    assert words[1:] == ["-F", str(paths.ssh_config), *NO_AGENT, "--", "hpc-compute-01", "ls -l"]


def test_options_of_ssh_stand_before_the_node(tmp_path):
    words = ssh_argv(paths_in(tmp_path), "hpc-compute-01", [], options=["-N", "-L", "80:h:80"])
    assert words[3:] == [*NO_AGENT, "-N", "-L", "80:h:80", "--", "hpc-compute-01"]


@pytest.mark.parametrize(
    ("options", "is_asked"),
    [
        ([], False),
        (["-t", "-L", "80:h:80"], False),
        (["-A"], True),
        (["-tA"], True),
        (["-o", "ForwardAgent=yes"], True),
        (["-oidentityagent=/run/it"], True),
    ],
)
def test_an_agent_is_asked_only_where_it_is_passed_on_or_named(tmp_path, options, is_asked):
    words = ssh_argv(paths_in(tmp_path), "hpc-compute-01", [], options=options)
    assert ("IdentityAgent=none" not in words) is is_asked


@pytest.mark.parametrize("word", STRANGE)
def test_several_words_arrive_as_they_are_and_one_is_a_line_for_a_shell(tmp_path, word):
    """What sshd does with the command that ssh sends: it hands it to the user's shell."""
    *_, line = ssh_argv(paths_in(tmp_path), "hpc-compute-01", ["printf", "%s|", "a  b", word])
    assert run(["sh", "-c", line]).stdout == f"a  b|{word}|"
    *_, line = ssh_argv(paths_in(tmp_path), "hpc-compute-01", ["echo a  b | tr a c"])
    assert run(["sh", "-c", line]).stdout == "c b\n"
