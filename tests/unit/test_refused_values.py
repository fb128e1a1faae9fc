"""Names, subnets, files and addresses of hosts that must go no further than the door."""

import os
import re
import resource
import sys
from ipaddress import IPv4Network
from pathlib import Path

import libvirt  # noqa: TID251  what it would do of its own accord is the question
import pytest
from cli_runner import GOOD, Cli
from test_libvirt_uri import REFUSED as REFUSED_URIS
from test_spec_reader import BOMB

from ai_how.errors import HostError, SpecError
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.libvirt_client.connection import open_connection
from ai_how.libvirt_client.uri import read_uri
from ai_how.process import run
from ai_how.spec.reader import read_spec_text
from ai_how.vm_management.networks.subnets import choose_subnet, find_taken_subnets
from shapes import CLUSTER

MIB = 1 << 20


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> Cli:
    home = tmp_path / "deep" / "home"
    home.mkdir(parents=True)
    return Cli(home, monkeypatch, capsys)


def everything(directory: Path) -> set[str]:
    return {str(path) for path in directory.rglob("*")}


# --- names

BAD_NAMES = (
    *("", ".", "..", "...", "/", "//", "../x", "../../etc", "a/b", "a/../b", "./a", "/etc/passwd"),
    *(
        "a\\b",
        "..\\x",
        "a\0b",
        "\0",
        "a\nb",
        "a\r",
        "a\tb",
        " a",
        "a ",
        "a b",
        "\u202ea",
        "\x1b[0m",
    ),
    *(
        "-a",
        "a-",
        "-",
        "--force",
        "-rf",
        "_a",
        "a_b",
        "A",
        "aB",
        "ä",
        "\uff21",
        "a.b",
        "a.",
        ".a",
        "~",
    ),
    *("~root", "$HOME", "${HOME}", "`id`", "$(id)", "a;b", "a|b", "a&b", "a>b", "a*", "a?", "[a]"),
    *("a:b", "a,b", "a=b", "a%2fb", "%2e%2e", "a@b", "a#b", "a!b", "'a'", '"a"', "<a>", "{a}"),
    *("a" * 41, "a" * 300, "a" * 5000, ".embedded", ".crashes", ".host.lock", "con.", "a^b"),
)
assert len(set(BAD_NAMES)) >= 60


@pytest.mark.fault("S02", "bad names for a cluster, by option and by file")
def test_a_bad_name_is_refused_and_makes_no_file_anywhere(cli, tmp_path, points):
    made = cli.write("cluster.yaml", GOOD)
    before = everything(tmp_path)
    for name in BAD_NAMES:
        if name and "\0" not in name:
            for verb in (("status",), ("destroy", "--force")):
                ended = cli("hpc", *verb, "--cluster", name)
                assert ended.code == 2, (name, verb, ended)
        quoted = '"' + name.encode("unicode_escape").decode().replace('"', '\\"') + '"'
        made.write_text(GOOD.replace("name: demo", f"name: {quoted}"))
        for verb in (("hpc", "start", "--dry-run"), ("hpc", "destroy", "--force")):
            assert cli("--connect", "test:///default", *verb, made).code == 2, (name, verb)
    assert everything(tmp_path) == before
    points(len(BAD_NAMES))


@pytest.mark.fault("S02", "bad names for an image")
def test_a_bad_name_for_an_image_is_refused_and_makes_no_file_anywhere(cli, tmp_path, points):
    disk = cli.home / "disk.qcow2"
    run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "1M"])
    outside = everything(tmp_path) - everything(cli.home)
    names = [name for name in BAD_NAMES if name and "\0" not in name]
    # An image's name may have capitals, dots and underscores, and 80 characters.
    allowed = {"A", "aB", "a_b", "a.b", "a.", "con.", "a-", "a" * 41}
    for name in names:
        ended = cli("image", "import", "--name", name, "--", disk)
        if name in allowed:
            assert ended.code == 0
            assert cli("image", "rm", name).code == 0
        else:
            assert ended.code in {2, 3}, (name, ended)
    assert everything(tmp_path) - everything(cli.home) == outside
    images = cli.roots.images
    assert {path.name for path in images.iterdir()} == {".lock", ".sources"}
    # What was imported from that file, under a name that is not of the user's making.
    [record] = (images / ".sources").iterdir()
    assert re.fullmatch(r"[0-9a-f]{64}\.json", record.name)
    points(len(names))


# --- YAML

RUN = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
from ai_how.cli import main
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
code = main(["validate", sys.argv[1]])
print("grew", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, "code", code)
"""
BOMBS = {
    "aliases": BOMB,
    "a scalar of 100 MiB": "a: " + "x" * (100 * MIB),
    "a tag that runs code": "a: !!python/object/apply:os.system ['touch canary']\n",
    "another": "a: !!python/object/new:os.system ['touch canary']\n",
    "a module": "a: !!python/module:canary\n",
    "nested": "[" * 500_000,
    "keys given twice": "".join("a: 1\n" for _ in range(100)),
}


@pytest.mark.fault("S03", "bombs and tags, in a process with 1 GiB")
@pytest.mark.parametrize("case", BOMBS)
def test_a_hostile_file_costs_little_and_runs_nothing(tmp_path, case):
    (tmp_path / "bomb.yaml").write_text(BOMBS[case])
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = run(
        [sys.executable, "-c", RUN, "bomb.yaml"],
        cwd=tmp_path,
        env={"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    words = done.stdout.split()
    assert words[-1] == "2"
    assert int(words[-3]) < 100 * 1024
    assert now.ru_utime - spent.ru_utime < 10
    assert [path.name for path in tmp_path.iterdir()] == ["bomb.yaml"]


# --- subnets

ROUTES = """[{"dst":"default","gateway":"192.168.7.1","dev":"eth0"},
{"dst":"192.168.7.0/24","dev":"eth0"},{"dst":"10.8.0.0/16","dev":"vpn0"},
{"dst":"172.17.0.0/16","dev":"docker0"},{"type":"blackhole","dst":"10.64.0.0/10"},
{"dst":"0.0.0.0/1","dev":"vpn0"},{"dst":"10.1.2.3","dev":"vpn0"}]"""
ADDRESSES = """[{"ifname":"eth1","addr_info":[{"family":"inet","local":"10.9.0.3","prefixlen":22}]},
{"ifname":"br0","addr_info":[{"family":"inet","local":"192.168.50.1","prefixlen":28}]}]"""
NETWORKS = (
    "<network><name>default</name><ip address='192.168.122.1' netmask='255.255.255.0'/></network>",
)
RESOLV = "nameserver 10.5.5.5\n"

NEVER = (
    *("0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1", "0.0.0.0/8", "8.8.8.0/24", "1.1.1.0/28"),
    *("100.64.0.0/16", "127.0.0.0/8", "127.0.0.0/24", "169.254.0.0/16", "169.254.169.0/24"),
    *("224.0.0.0/24", "240.0.0.0/24", "255.255.255.0/24", "192.0.2.0/24", "198.18.0.0/16"),
    *("172.15.0.0/16", "172.32.0.0/16", "192.167.0.0/16", "192.169.0.0/16", "9.0.0.0/16"),
    *("11.0.0.0/16", "10.0.0.0/8", "10.0.0.0/15", "172.16.0.0/12", "192.168.0.0/15"),
    *("10.0.0.0/29", "10.0.0.0/30", "10.0.0.0/31", "10.0.0.0/32", "10.0.0.1/24", "fd00::/64"),
    *("10.0.0.0", "10.0.0/24", "10.0.0.0/33", "010.0.0.0/24", "10.0.0.0/0.0.0.0", "all"),
)
TAKEN = (
    *("192.168.7.0/24", "192.168.7.128/25", "192.168.0.0/16", "10.8.0.0/16", "10.8.200.0/24"),
    *("172.17.0.0/16", "172.17.5.0/24", "10.64.0.0/16", "10.127.255.0/24", "10.9.3.0/24"),
    *("10.9.0.0/22", "192.168.50.0/28", "192.168.50.0/24", "192.168.122.0/24", "10.5.5.0/24"),
    *("192.168.122.240/28", "10.1.2.0/28", "10.1.0.0/16"),
)
FREE = (
    *("10.0.0.0/16", "10.10.0.0/16", "10.128.0.0/16", "10.9.4.0/24", "10.1.2.16/28"),
    *("172.16.0.0/16", "172.18.0.0/24", "172.31.255.240/28", "192.168.8.0/24", "192.168.121.0/24"),
    *("192.168.50.16/28", "192.168.123.0/24", "10.5.6.0/24", "10.63.0.0/16"),
)


@pytest.mark.fault("S28", "subnets that no cluster may have, and that one may")
def test_a_file_takes_private_subnets_of_a_sane_size_only(points):
    for subnet in (*NEVER, *FREE, *TAKEN):
        text = GOOD.replace("name: demo", f"name: demo\n    network: {{subnet: '{subnet}'}}")
        found = [str(one) for one in read_spec_text(text, "f", {})[1]]
        if subnet in NEVER or IPv4Network(subnet).prefixlen not in range(16, 29):
            assert found, subnet
            assert "clusters.hpc.network.subnet: found" in found[0]
        else:
            assert found == []
    points(len(NEVER))
    assert len(NEVER) + len(TAKEN) + len(FREE) >= 60


@pytest.mark.fault("S28", "routes, links, networks and name servers of a host")
def test_a_subnet_that_the_host_uses_is_refused_and_no_other(points):
    taken = find_taken_subnets(ROUTES, ADDRESSES, NETWORKS, RESOLV)
    for subnet in map(IPv4Network, TAKEN):
        with pytest.raises(HostError, match="is in use on this host"):
            choose_subnet(subnet, taken, CLUSTER)
    for subnet in map(IPv4Network, FREE):
        assert choose_subnet(subnet, taken, CLUSTER) == subnet
    chosen = choose_subnet(None, taken, CLUSTER)
    assert not [one for one in taken if one.subnet.overlaps(chosen)]
    points(len(TAKEN) + len(FREE))


# --- hosts


@pytest.fixture
def bait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Surroundings in which libvirt would run a program of another's; the canary of each."""
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/canary\n")
    program.chmod(0o755)
    for name in ("ssh", "nc", "netcat", "socat"):
        (tmp_path / name).symlink_to(program)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", f"qemu+ext:///system?command={program}")
    monkeypatch.setenv("VIRSH_DEFAULT_CONNECT_URI", f"qemu+ext:///system?command={program}")
    config = tmp_path / "config"
    (config / "libvirt").mkdir(parents=True)
    names = ("qemu:///system", "system", "test:///default", "default", "embedded", "auto")
    aliases = ", ".join(f'"{name}=qemu+ext:///system?command={program}"' for name in names)
    (config / "libvirt" / "libvirt.conf").write_text(
        f'uri_aliases = [{aliases}]\nuri_default = "qemu+ext:///system?command={program}"\n'
    )
    monkeypatch.setenv("XDG_CONFIG_HOME", str(config))
    return program


@pytest.mark.fault("S23", "URIs that run a program, by every way in")
def test_no_uri_runs_a_program(cli, bait, points):
    canary = bait.parent / "canary"
    uris = [uri for uri in REFUSED_URIS if uri not in {"", "auto"}]
    uris += [f"qemu+ext:///system?command={bait}", f"qemu+ssh://h/system?netcat={bait}"]
    uris += [f"qemu+libssh2://h/system?command={bait}", f"test+ext:///default?command={bait}"]
    cli.write("cluster.yaml", GOOD)
    for uri in uris:
        with pytest.raises(SpecError):
            read_uri(uri)
        with pytest.raises(SpecError):
            LibvirtClient(uri).version()
        assert cli("--connect", uri, "hpc", "status").code == 2
        file = cli.write("other.yaml", f"host: {{uri: '{uri}'}}\n{GOOD}")
        assert cli("hpc", "start", "--dry-run", file).code == 2
    assert not canary.exists()
    points(len(uris))
    assert len(uris) >= 40


@pytest.mark.fault("S23", "LIBVIRT_DEFAULT_URI and aliases in libvirt.conf")
def test_surroundings_choose_no_host(cli, bait):
    program = (
        "from ai_how.libvirt_client.client import LibvirtClient\n"
        "from ai_how.errors import AiHowError\n"
        "print(LibvirtClient('test:///default').version().libvirt)\n"
        "try:\n"
        "    LibvirtClient('qemu:///system').version()\n"
        "except AiHowError as error:\n"
        "    print(error.brief)\n"
    )
    # Whoever asks for the default, or for an alias, would have run it: the bait is good.
    tempted = "import libvirt\ntry: libvirt.open(None)\nexcept libvirt.libvirtError: pass\n"
    names = ("PATH", "LIBVIRT_DEFAULT_URI", "XDG_CONFIG_HOME")
    env = {name: os.environ[name] for name in names}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    canary = bait.parent / "canary"
    run([sys.executable, "-c", program], env=env)
    assert not canary.exists()
    run([sys.executable, "-c", tempted], env=env)
    assert canary.exists()


@pytest.mark.fault("S23", "the flags and the URI of every connection")
def test_libvirt_is_told_to_know_no_aliases(monkeypatch):
    opened: list[tuple[str, int]] = []

    def open_auth(uri: str, _auth: object, flags: int) -> object:
        opened.append((uri, flags))
        raise libvirt.libvirtError("not here")

    monkeypatch.setattr(libvirt, "openAuth", open_auth)
    for uri in ("qemu:///system", "qemu+unix:///system?socket=/run/s", "qemu+ssh://h/system"):
        with pytest.raises(libvirt.libvirtError):
            open_connection(read_uri(uri))
    assert {flags for _, flags in opened} == {libvirt.VIR_CONNECT_NO_ALIASES}
