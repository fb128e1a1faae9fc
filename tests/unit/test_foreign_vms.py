"""Other users' VMs on our libvirt: whatever they are called and carry, they are left alone."""

import json
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from cli_runner import Cli

from ai_how.clusters import cleanup, cluster_access, known_cluster
from ai_how.clusters.observation import observe
from ai_how.errors import OwnershipError
from ai_how.hpc.kind import SLURM
from ai_how.libvirt_client.facts import Mark, read_mark
from ai_how.libvirt_client.vm_state import VmState
from ai_how.state.cluster_state import write_state
from ai_how.state.models import ClusterState
from ai_how.state.paths import ensure_private_directory
from ai_how.vm_management.xml.render import render_domain
from cluster_bench import draft_of, read_hpc
from fake_libvirt import FakeLibvirt, _Domain
from shapes import COMPUTE

TEST_HOST = "test:///default"
FOREIGN = UUID("de000000-7f0e-4c56-9a35-0a4c4ea1f0aa")
HOSTILE = "hpc\u009b31m\u202etxt\u2066"
SEEN_AS = r"hpc\x9b31m\u202etxt\u2066"
# XML cannot hold an escape, and libvirt takes no name with a line end: these are what is left.
BOMB = (
    "<!DOCTYPE d [<!ENTITY a 'xxxxxxxxxx'>"
    + "".join(f"<!ENTITY a{n} '{f'&a{n - 1};' * 10}'>" for n in range(1, 9)).replace("&a0;", "&a;")
    + "]><domain><name>&a8;</name></domain>"
)


class Libvirt(FakeLibvirt):
    """A libvirt in memory that a command opens and closes."""

    def __enter__(self) -> "Libvirt":
        return self

    def __exit__(self, *_: object) -> None:
        """What is on it stays."""

    def add(self, xml: str, uuid: UUID = FOREIGN) -> None:
        self.domains[uuid] = _Domain(xml, VmState.RUNNING)


@pytest.fixture
def libvirt(monkeypatch: pytest.MonkeyPatch) -> Libvirt:
    there = Libvirt()
    for module in (cluster_access, known_cluster, cleanup):
        monkeypatch.setattr(module, "LibvirtClient", lambda *_, **__: there)
    return there


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys) -> Cli:
    return Cli(tmp_path, monkeypatch, capsys)


@pytest.fixture
def state(cli: Cli, tmp_path: Path) -> ClusterState:
    """A cluster that is remembered, of which nothing is on the host."""
    draft = draft_of(read_hpc(), storage=tmp_path / "storage")
    paths = cli.roots.cluster("hpc")
    ensure_private_directory(paths.root)
    return write_state(paths, draft.state.model_copy(update={"host_uri": TEST_HOST}))


def vm(state: ClusterState, name: str, *, uuid: UUID = FOREIGN) -> str:
    """A VM that carries a copy of the cluster's mark."""
    mark = Mark(state.name, state.lineage, "compute-01")
    return render_domain(replace(COMPUTE, name=name, uuid=uuid, mark=mark))


@pytest.mark.fault("S21", "a VM with another's mark at status and destroy")
def test_a_vm_that_carries_a_copy_of_our_mark_is_left_alone_and_named(cli, libvirt, state):
    libvirt.add(vm(state, "someone-elses"))
    before = libvirt.content
    said = "the VM someone-elses has this cluster's mark, but is not one of its nodes"
    assert said in cli("hpc", "status", "--cluster", "hpc").err
    seen = json.loads(cli("--json", "hpc", "status", "--cluster", "hpc").out)
    assert seen["impostors"] == ["someone-elses"]
    ended = cli("hpc", "destroy", "--cluster", "hpc", "--force")
    assert (ended.code, said in ended.err) == (0, True)
    assert libvirt.content == before
    assert not cli.roots.cluster("hpc").is_used


@pytest.mark.fault("S21", "a VM with our name and mark, but another UUID")
@pytest.mark.parametrize("verb", ["status", "stop", "destroy"])
def test_name_and_mark_alone_make_no_vm_ours(cli, libvirt, state, verb):
    libvirt.add(vm(state, "hpc-compute-01"))
    before = libvirt.content
    words = ("--force",) if verb == "destroy" else ()
    ended = cli("hpc", verb, "--cluster", "hpc", *words)
    assert ended.code == OwnershipError.exit_code
    assert f"its UUID is {FOREIGN}" in ended.err
    assert libvirt.content == before


@pytest.mark.fault("S21", "a VM with our UUID and another mark, or none")
@pytest.mark.parametrize("mark", ["another", "none", "broken"])
def test_a_uuid_alone_makes_no_vm_ours(cli, libvirt, state, mark):
    ours = state.nodes[0].uuid
    xml = vm(state, "someone-elses", uuid=ours)
    match mark:
        case "another":
            xml = xml.replace(str(state.lineage), str(FOREIGN))
        case "none":
            xml = xml.replace("urn:ai-how", "urn:other")
        case "broken":
            xml = xml.replace(str(state.lineage), "no-id")
    libvirt.add(xml, ours)
    before = libvirt.content
    ended = cli("hpc", "destroy", "--cluster", "hpc", "--force")
    assert ended.code == OwnershipError.exit_code
    assert "has the UUID of a node, but not the mark of this cluster" in ended.err
    assert libvirt.content == before


@pytest.mark.fault("S31", "control characters in the name of another's VM")
@pytest.mark.parametrize("verb", ["status", "destroy"])
def test_a_name_that_a_terminal_would_obey_is_shown_harmless(cli, libvirt, state, verb):
    libvirt.add(vm(state, HOSTILE))
    words = ("--force",) if verb == "destroy" else ()
    ended = cli("hpc", verb, "--cluster", "hpc", *words)
    assert ended.code == 0
    assert SEEN_AS in ended.err
    for text in (ended.out, ended.err):
        assert all(char.isprintable() or char == "\n" for char in text)


@pytest.mark.fault("S31", "control characters in an error and in JSON")
def test_errors_and_json_with_such_a_name_are_harmless_too(cli, libvirt, state):
    libvirt.add(vm(state, HOSTILE))
    ended = cli("--json", "hpc", "status", "--cluster", "hpc")
    assert ended.out.isascii()
    assert json.loads(ended.out)["impostors"] == [HOSTILE]
    ours = state.nodes[0].uuid
    libvirt.domains.clear()
    libvirt.add(vm(state, HOSTILE, uuid=ours).replace("urn:ai-how", "urn:other"), ours)
    ended = cli("hpc", "status", "--cluster", "hpc")
    assert f"error: the VM {SEEN_AS} has the UUID of a node" in ended.err
    assert cli("--json", "hpc", "status", "--cluster", "hpc").out.isascii()


@pytest.mark.fault("S31", "an entity bomb, and XML that is none, of other VMs")
@pytest.mark.parametrize("xml", [BOMB, "", "<", "<domain/>" * 2, "\0", "<domain>" * 5000])
def test_the_xml_of_other_vms_breaks_nothing(libvirt, state, monkeypatch, xml):
    """The names and UUIDs of a list come from libvirt; the XML is only looked at for our mark."""
    seen = libvirt.define_domain(vm(state, "someone-elses"))
    bad = replace(seen, xml=xml, mark=read_mark(xml))
    monkeypatch.setattr(libvirt, "list_domains", lambda: (bad,))
    assert observe(libvirt, state, SLURM).impostors == ()
