"""The kubeconfig that a user gets: where the API is, who may read it, and what stays as it was."""

import json
import os
import stat
from base64 import b64decode, b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cli_runner import Cli
from cloud_world import KUBE, remember_kube
from ruamel.yaml import YAML
from test_docs_json import assert_documented

from ai_how.cloud import kubeconfig
from ai_how.cloud.manager import CloudManager
from ai_how.cloud.merged import read_merged
from ai_how.cloud.pki import read_admin
from ai_how.host.ports import listen
from ai_how.state.cluster_state import read_state, write_state
from ai_how.state.models import ClusterState
from ai_how.state.paths import ClusterPaths
from kube_facts import ensure_pki, make_facts

USE = ("cloud", "kubeconfig", "--cluster", "kube")


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    return Cli(tmp_path, monkeypatch, capsys)


def kube(cli: Cli, host: str = "embedded") -> ClusterPaths:
    """A cluster with keys."""
    paths = remember_kube(cli, host=host)
    ensure_pki(paths.secrets / "pki", make_facts())
    return paths


def read(text: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = YAML(typ="safe", pure=True).load(text)
    return found


def server_of(text: str) -> str:
    return str(read(text)["clusters"][0]["cluster"]["server"])


def test_it_is_a_private_file_of_the_cluster(cli: Cli) -> None:
    paths = kube(cli)
    ended = cli(*USE)
    assert (ended.code, ended.err) == (0, "")
    told, use = ended.out.splitlines()
    server = server_of(paths.kubeconfig.read_text())
    assert told == f"the kubeconfig of kube is {paths.kubeconfig}, for {server}"
    assert use == f"to use it: export KUBECONFIG={paths.kubeconfig}"
    assert stat.S_IMODE(paths.kubeconfig.stat().st_mode) == 0o600
    user = read(paths.kubeconfig.read_text())["users"][0]["user"]
    admin = read_admin(paths.secrets / "pki")
    assert b64decode(user["client-key-data"]) == admin.key


def test_a_port_of_the_loopback_leads_to_nodes_in_a_network_of_their_own(cli: Cli) -> None:
    paths = kube(cli)
    cli(*USE)
    server = server_of(paths.kubeconfig.read_text())
    address, _, number = server.removeprefix("https://").partition(":")
    assert address == "127.0.0.1"
    kept = json.loads(paths.kept_ports.read_text())["ports"]
    assert kept == [{"node": "control-plane-01", "port": 6443, "host_port": int(number)}]
    cli(*USE)
    assert server_of(paths.kubeconfig.read_text()) == server, "it stays the same"
    with listen(address, int(number)):
        assert server not in cli(*USE).out, "unless another program has it"


def test_nodes_of_this_host_are_reached_at_their_own_address(cli: Cli) -> None:
    paths = kube(cli, host="test:///default")
    cli(*USE)
    assert server_of(paths.kubeconfig.read_text()) == "https://10.77.0.10:6443"
    assert not paths.kept_ports.exists()


def test_it_is_printed_and_written_nowhere(cli: Cli) -> None:
    paths = kube(cli)
    ended = cli(*USE, "--stdout")
    assert (ended.code, ended.err) == (0, "")
    assert server_of(ended.out).startswith("https://127.0.0.1:")
    assert not paths.kubeconfig.exists()


@pytest.mark.parametrize("is_named", [True, False])
def test_it_becomes_an_entry_of_the_users_own(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, is_named: bool
) -> None:
    kube(cli)
    path = cli.home / "home/.kube/config"
    if is_named:
        path = cli.home / "mine"
        monkeypatch.setenv("KUBECONFIG", f"{path}{os.pathsep}other")
    path.parent.mkdir(parents=True, exist_ok=True)
    former = "apiVersion: v1\nkind: Config\n# mine\npreferences: {colors: true}\n"
    path.write_text(former)
    ended = cli(*USE, "--merge")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines()[-1] == "to use it: kubectl --context ai-how-kube get nodes"
    assert [one["name"] for one in read(path.read_text())["contexts"]] == ["ai-how-kube"]
    assert "# mine" in path.read_text()
    cli(*USE, "--merge")
    assert len(read(path.read_text())["users"]) == 1
    ended = cli(*USE, "--unmerge")
    assert (ended.code, ended.out) == (0, f"kube is not in {path}\n")
    assert not read(path.read_text()).get("contexts")
    assert "# mine" in path.read_text()


DESTROY = ("cloud", "destroy", "--force", "--cluster", "kube")


def contexts(path: Path) -> list[str]:
    return [one["name"] for one in read(path.read_text())["contexts"] or ()]


def test_a_destroyed_cluster_leaves_no_entry_and_all_else(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = kube(cli, host="test:///default")
    own, other = cli.home / "home/.kube/config", cli.home / "other"
    cli(*USE, "--merge")
    monkeypatch.setenv("KUBECONFIG", str(other))
    former = "apiVersion: v1\nkind: Config\n# mine\ncontexts:\n- name: work\n  context: {}\n"
    other.write_text(former)
    cli(*USE, "--merge")
    monkeypatch.delenv("KUBECONFIG")
    assert contexts(own) == ["ai-how-kube"]
    assert contexts(other) == ["work", "ai-how-kube"]
    ended = cli(*DESTROY)
    assert (ended.code, ended.err) == (0, "")
    assert not paths.root.exists()
    assert contexts(own) == []
    assert other.read_text().startswith(former)
    assert "kube" not in other.read_text().removeprefix(former)


def test_what_was_taken_out_before_is_no_business_of_a_destroy(cli: Cli) -> None:
    paths = kube(cli, host="test:///default")
    own = cli.home / "home/.kube/config"
    cli(*USE, "--merge")
    cli(*USE, "--unmerge")
    assert json.loads(paths.kubeconfigs.read_text())["files"] == []
    own.write_text("no: [kubeconfig")
    assert cli(*DESTROY).err == ""
    assert own.read_text() == "no: [kubeconfig"


def test_the_entry_of_another_cluster_of_the_same_name_stays(cli: Cli) -> None:
    paths = kube(cli, host="test:///default")
    own = cli.home / "home/.kube/config"
    cli(*USE, "--merge")
    ca = json.loads(paths.kubeconfigs.read_text())["ca"]
    theirs = own.read_text().replace(ca, b64encode(b"another CA").decode())
    assert theirs != own.read_text()
    own.write_text(theirs)
    assert cli(*DESTROY).err == ""
    assert own.read_text() == theirs


@pytest.mark.parametrize("is_locked", [True, False])
def test_an_entry_that_cannot_be_taken_out_is_told_with_the_command(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, is_locked: bool
) -> None:
    paths = kube(cli, host="test:///default")
    own = cli.home / "home/.kube/config"
    cli(*USE, "--merge")
    former = own.read_text()
    monkeypatch.setattr(kubeconfig, "_LOCK_S", 0.05)
    if is_locked:
        own.with_name("config.lock").touch()
    else:
        own.write_text("no: [kubeconfig")
    ended = cli(*DESTROY)
    assert ended.code == 0
    assert not paths.root.exists()
    command = f"KUBECONFIG={own} ai-how cloud kubeconfig --unmerge --cluster kube"
    assert ended.err.startswith(f"warning: {own} is ")
    assert ended.err.rstrip().endswith(f"it still has an entry of kube. To remove it: {command}")
    own.with_name("config.lock").unlink(missing_ok=True)
    own.write_text(former)
    monkeypatch.setenv("KUBECONFIG", str(own))
    assert cli(*USE, "--unmerge").code == 0
    assert contexts(own) == []


def test_a_damaged_note_does_not_keep_a_cluster(cli: Cli) -> None:
    paths = kube(cli, host="test:///default")
    cli(*USE, "--merge")
    for text in ("", "[]", '{"ca": 1, "files": 2}', '{"files": []}'):
        paths.kubeconfigs.write_text(text)
        assert read_merged(paths) is None
    assert cli(*DESTROY).code == 0
    assert cli(*USE, "--unmerge").code == 0
    assert contexts(cli.home / "home/.kube/config") == []


def test_in_json_it_says_where_everything_is(cli: Cli) -> None:
    paths = kube(cli)
    told = json.loads(cli(*USE, "--json").out)
    server = server_of(paths.kubeconfig.read_text())
    assert told == {
        "cluster": "kube",
        "file": str(paths.kubeconfig),
        "context": "ai-how-kube",
        "server": server,
    }
    own = str(cli.home / "home/.kube/config")
    assert json.loads(cli(*USE, "--merge", "--json").out) == told | {"file": own}
    gone = json.loads(cli(*USE, "--unmerge", "--json").out)
    assert_documented("`cloud …`", told, gone)
    assert gone == {"cluster": "kube", "file": own, "context": None, "server": None}


def test_what_cannot_be_is_said(cli: Cli) -> None:
    ended = cli(*USE)
    assert (ended.code, ended.err.splitlines()[0]) == (3, "error: there is no cluster kube")
    ended = cli(*USE, "--merge", "--unmerge")
    assert ended.code == 2
    assert "exclude each other" in ended.err
    remember_kube(cli)
    ended = cli(*USE)
    assert ended.code == 3
    assert "the keys of the cluster are not in" in ended.err


def test_certificates_are_made_anew_and_all_nodes_are_told(cli: Cli) -> None:
    paths = kube(cli)
    state = get_state(paths)
    write_state(paths, state.model_copy(update={"config_digest": "0" * 64}))
    pki = paths.secrets / "pki"
    kept = {one.name: one.read_bytes() for one in pki.glob("*ca.pem")}
    ended = cli("cloud", "start", "--cluster", "kube", "--rotate-certs")
    assert "the file of the cluster kube is not stored here" in ended.err
    assert (pki / "admin.pem").exists(), "it was refused before"
    paths.spec.write_text(KUBE)
    ended = cli("cloud", "start", "--cluster", "kube", "--rotate-certs", "--dry-run")
    assert ended.code == 2
    assert (pki / "admin.pem").exists()
    CloudManager(roots=cli.roots, name="kube").rotate_certificates()
    assert get_state(paths).config_digest == ""
    assert {one.name: one.read_bytes() for one in pki.glob("*ca.pem")} == kept
    assert not (pki / "admin.pem").exists()


def test_what_was_never_started_has_no_certificates_to_replace(cli: Cli) -> None:
    CloudManager(roots=cli.roots, name="kube").rotate_certificates()
    assert read_state(cli.roots.cluster("kube")) is None


def get_state(paths: ClusterPaths) -> ClusterState:
    state = read_state(paths)
    assert state is not None
    return state
