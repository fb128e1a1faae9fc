"""Simulated GPUs: what slurmd, the node and its users are told, letter by letter."""

import base64
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from test_slurm_config import CONTROLLER, lines_of

from ai_how.clusters.desired_cluster import DesiredCluster
from ai_how.clusters.observation import Observed
from ai_how.clusters.status import status_of
from ai_how.clusters.workload import GpuUse
from ai_how.hpc.gpus import GPUS_UNIT, GRES_UNIT, cards_of, render_fake_gpus, render_list
from ai_how.hpc.identities import build_identities, config_digest, ensure_secrets, slurm_nodes
from ai_how.hpc.kind import SLURM
from ai_how.hpc.node_identity import NodeIdentity
from ai_how.hpc.plan import plan_start
from ai_how.hpc.slurm_config import render_cgroup_conf, render_gres_conf, render_slurm_conf
from ai_how.hpc.steps import AwaitReady
from ai_how.hpc.workload import SINFO, node_readiness, observe_workload, read_gpus
from ai_how.process import run
from ai_how.spec.models import SimulatedGpusSpec
from ai_how.state.models import ClusterState
from ai_how.state.paths import ClusterPaths, StoragePaths
from cluster_bench import draft_of, everything_seen, make_image, read_hpc, rendering_of

NODE = UUID("3b7c1f0e-7f0e-4c56-9a35-0a4c4ea1f011")
SMI = Path(__file__).parents[2] / "src/ai_how/hpc/guest_files/nvidia-smi"
EIGHT = "gpu: {simulated: {type: a100, count: 8, links: 12}}"
SLICES = "gpu: {simulated: {type: a100, count: 2, mig: {3g.20gb: 1, 1g.5gb: 3}}}"


def file_of(*gpus: str) -> str:
    node = "cpu_cores: 4, memory_gb: 1, disk_gb: 10"
    return f"compute_nodes: [{', '.join(f'{{{node}, {one}}}' for one in gpus)}]"


def draft(*gpus: str, former: ClusterState | None = None) -> DesiredCluster:
    return draft_of(read_hpc(nodes=file_of(*gpus)), former)


def spec(**simulated: object) -> SimulatedGpusSpec:
    return SimulatedGpusSpec.model_validate({"type": "a100", "count": 2} | simulated)


def identities_of(desired: DesiredCluster, directory: Path) -> dict[str, NodeIdentity]:
    paths = ClusterPaths(directory)
    ensure_secrets(desired.state, paths)
    made = build_identities(desired, paths, has_host_clock=True)
    return {name: one() for name, one in made.items()}


def test_slurm_conf_has_the_gpus_of_each_node():
    made = draft(EIGHT, SLICES, "auto_start: true")
    text = render_slurm_conf("hpc", CONTROLLER, slurm_nodes(made), made.section.slurm_config)
    assert lines_of(text, "GresTypes") == ["GresTypes=gpu"]
    assert [line.split(" State")[0].split()[7:] for line in lines_of(text, "NodeName")] == [
        ["Gres=gpu:a100:8"],
        ["Gres=gpu:1g.5gb:6,gpu:3g.20gb:2"],
        [],
    ]
    # slurmctld without slurmdbd does not start with it.
    assert "AccountingStorageTRES" not in text


def test_without_gpus_nothing_is_different(tmp_path):
    made = draft("auto_start: true")
    text = render_slurm_conf("hpc", CONTROLLER, slurm_nodes(made), made.section.slurm_config)
    assert "gpu" not in text.lower()
    assert "ConstrainDevices" not in render_cgroup_conf()
    for identity in identities_of(made, tmp_path).values():
        assert not [entry.path for entry in identity.entries() if "gpu" in entry.path]
        assert GPUS_UNIT not in identity.services()
    assert all("gpus" not in node for node in made.state.as_record()["nodes"])


def test_jobs_are_held_to_their_gpus():
    assert "ConstrainDevices=yes\n" in render_cgroup_conf(has_gpus=True)


def test_slurmd_finds_whole_cards_with_the_cores_of_their_socket_and_their_links():
    [node] = slurm_nodes(draft(EIGHT))
    two = replace(node, sockets=2, cores_per_socket=2)
    assert render_fake_gpus(cards_of(spec(links=12), NODE), two) == (
        "a100|4|0-1|-1,12|/dev/nvidia0|(null)|nvidia_gpu_env\n"
        "a100|4|2-3|12,-1|/dev/nvidia1|(null)|nvidia_gpu_env\n"
    )
    assert render_fake_gpus(cards_of(spec(count=1), NODE), node) == (
        "a100|4|(null)|(null)|/dev/nvidia0|(null)|nvidia_gpu_env\n"
    )


def test_with_nvml_slurmd_looks_for_the_gpus_itself(tmp_path):
    made = draft(EIGHT.replace("links: 12", "nvml: true"), EIGHT)
    assert render_gres_conf(slurm_nodes(made)).splitlines()[1:] == [
        "NodeName=compute-01 AutoDetect=nvml"
    ]
    identities = identities_of(made, tmp_path)
    files = {e.path: e.content for e in identities["compute-01"].gpu_files}
    assert files["etc/ai-how/fake_gpus.conf"] == ""
    assert "bus\t7\tffff:08:00.0\n" in str(files["etc/ai-how/gpus"])
    controller = {e.path: e.content for e in identities["controller"].entries()}
    assert "AutoDetect=nvml" in str(controller["etc/slurm/gres.conf"])
    # slurmctld is told to read all again where this file differs, and only there.
    assert "AutoDetect in gres.conf: compute-01:nvml\n" in str(controller["etc/slurm/slurm.conf"])
    other = {e.path: e.content for e in identities["compute-02"].gpu_files}
    assert "bus" not in str(other["etc/ai-how/gpus"])
    assert other["etc/ai-how/fake_gpus.conf"]


def test_nvml_knows_of_each_card_what_slurmd_asks_for():
    [node] = slurm_nodes(draft(EIGHT))
    two = replace(node, sockets=2, cores_per_socket=2, threads_per_core=2)
    listed = [
        line.split("\t") for line in render_list(cards_of(spec(links=12), NODE), two).splitlines()
    ]
    assert [row[1:] for row in listed if row[0] == "cpus"] == [["0", "0-3"], ["1", "4-7"]]
    assert [row[1:] for row in listed if row[0] == "links"] == [["0", "-1,12"], ["1", "12,-1"]]
    cards = cards_of(spec(mig={"3g.20gb": 1, "1g.5gb": 1}), NODE)
    listed = [line.split("\t") for line in render_list(cards, two).splitlines()]
    # The minor number of a slice's access is where NVIDIA's list has it: 3 + (card * 15 + id) * 9.
    assert [row[1:] for row in listed if row[0] == "slice"] == [
        ["0", "1", "12"],
        ["0", "7", "66"],
        ["1", "1", "147"],
        ["1", "7", "201"],
    ]


def test_a_node_without_nvml_is_told_what_it_always_was():
    cards = cards_of(spec(links=4), NODE)
    kinds = {line.split("\t")[0] for line in render_list(cards).splitlines()}
    assert kinds == {"dev", "gpu"}
    assert "nvml" not in repr(spec(nvml=True))


def test_slurmd_finds_slices_with_their_device_files_and_uuids():
    [node] = slurm_nodes(draft(SLICES))
    cards = cards_of(spec(count=1, mig={"3g.20gb": 1, "1g.5gb": 1}), NODE)
    large, small = cards[0].slices
    caps = "/dev/nvidia-caps/nvidia-cap"
    assert render_fake_gpus(cards, node) == (
        f"3g.20gb|4|(null)|(null)|/dev/nvidia0,{caps}12,{caps}13|{large.uuid}|nvidia_gpu_env\n"
        f"1g.5gb|4|(null)|(null)|/dev/nvidia0,{caps}66,{caps}67|{small.uuid}|nvidia_gpu_env\n"
    )


def test_no_line_is_longer_than_slurmd_reads():
    [node] = slurm_nodes(draft(EIGHT))
    name = "x" * 40
    full = spec(type=name, count=16, memory_gb=1, links=1023)
    slices = spec(type="h200", count=16, mig={"1g.18gb": 7})
    for cards in (cards_of(full, NODE), cards_of(slices, NODE)):
        assert max(map(len, render_fake_gpus(cards, node).splitlines())) < 255


def test_every_device_file_and_uuid_is_there_once():
    cards = cards_of(spec(count=16, mig={"3g.20gb": 1, "2g.10gb": 1, "1g.5gb": 2}), NODE)
    files = [file for card in cards for one in card.slices for file in one.files]
    assert len({file.minor for file in files}) == len({file.path for file in files}) == 16 * 4 * 2
    assert len({one.uuid for card in cards for one in (card, *card.slices)}) == 16 * 5
    assert cards == cards_of(spec(count=16, mig={"3g.20gb": 1, "2g.10gb": 1, "1g.5gb": 2}), NODE)


def test_a_node_gets_its_files_and_makes_them_before_slurmd(tmp_path):
    made = identities_of(draft(EIGHT, "auto_start: true"), tmp_path)
    ours, other = made["compute-01"], made["compute-02"]
    assert {entry.path for entry in ours.gpu_files} == {
        "etc/ai-how/gpus",
        "etc/ai-how/fake_gpus.conf",
        "etc/ai-how/make-gpus",
        "etc/ai-how/nvidia-smi",
        f"etc/systemd/system/{GPUS_UNIT}",
    }
    services = ours.services()
    assert services.index(GPUS_UNIT) < services.index("slurmd.service")
    assert other.gpu_files == ()
    assert GPUS_UNIT not in other.services()
    config = next(e for e in made["controller"].entries() if e.path.endswith("cgroup.conf"))
    assert "ConstrainDevices=yes" in str(config.content)


@pytest.mark.parametrize(("version", "restarts"), [("22.05.8", True), ("24.11.5", False)])
def test_an_older_slurmctld_is_restarted_for_other_gpus(tmp_path, version, restarts):
    image = make_image(tmp_path / "image")
    manifest = image.manifest.model_copy(update={"slurm_version": version})
    images = {manifest.digest: replace(image, manifest=manifest)}
    for gpus, expected in ((EIGHT, restarts), ("auto_start: true", False)):
        made = replace(draft(gpus), images=images)
        controller = identities_of(made, tmp_path)["controller"]
        services = controller.services()
        assert (GRES_UNIT in services) is expected
        made_of = {entry.path for entry in controller.gpu_files}
        assert ("etc/ai-how/restart-for-gres" in made_of) is expected
        assert ("etc/slurm/gres.conf" in made_of) is (gpus == EIGHT)
        if expected:
            assert services.index(GRES_UNIT) < services.index("slurmctld.service")


def test_a_node_that_has_no_gpus_any_more_is_told_so(tmp_path):
    former = draft(EIGHT).state
    after = draft("auto_start: true", former=former)
    assert after.state.get_node("compute-01").gpus == {}
    files = {e.path: e.content for e in identities_of(after, tmp_path)["compute-01"].gpu_files}
    assert files["etc/ai-how/gpus"] == files["etc/ai-how/fake_gpus.conf"] == ""
    text = render_slurm_conf("hpc", CONTROLLER, slurm_nodes(after), after.section.slurm_config)
    assert "gpu" not in text.lower()
    # And so for ever: it may have been off until then.
    assert draft("auto_start: true", former=after.state).state.get_node("compute-01").gpus == {}


def test_a_node_that_is_no_longer_in_the_file_keeps_its_gpus():
    former = draft("auto_start: true", EIGHT).state
    _, node = slurm_nodes(draft("auto_start: true", former=former))
    assert (node.name, node.gpus) == ("compute-02", {"a100": 8})


@pytest.mark.parametrize(
    "other",
    [
        "gpu: {simulated: {type: a100, count: 7, links: 12}}",
        "gpu: {simulated: {type: a100, count: 8, links: 4}}",
        "gpu: {simulated: {type: a100, count: 8, links: 12, memory_gb: 80}}",
        "auto_start: true",
    ],
)
def test_running_nodes_hear_of_every_change(other):
    made = draft(EIGHT)
    assert config_digest(made) != config_digest(draft(other, former=made.state))
    assert config_digest(made) == config_digest(draft(EIGHT, former=made.state))


def test_running_nodes_hear_that_nvml_is_asked():
    few = EIGHT.replace("links: 12", "links: 2")
    made = draft(few)
    by_nvml = draft(few.replace("links: 2", "links: 2, nvml: true"), former=made.state)
    assert config_digest(made) != config_digest(by_nvml)
    assert by_nvml.state.get_node("compute-01").gpus == {"a100": 8}


def test_the_state_is_read_by_versions_that_know_no_gpus_where_there_are_none():
    state = draft(EIGHT, "auto_start: true").state
    record = json.loads(json.dumps(state.as_record()))
    assert [node.get("gpus") for node in record["nodes"]] == [None, {"a100": 8}, None]
    assert ["gpus" in node for node in record["nodes"]] == [False, True, False]
    assert ClusterState.model_validate_json(json.dumps(record)) == state


def test_ready_gives_a_gpu_to_the_job_of_each_gpu_node_and_to_no_other(tmp_path):
    made = draft(EIGHT, "auto_start: true")
    image = make_image(tmp_path / "image")
    images = {image.manifest.digest: image}
    inputs = rendering_of(made, StoragePaths(tmp_path), ClusterPaths(tmp_path), images)
    plan = plan_start(made, Observed(), inputs)
    [step] = [one for one in plan.steps if isinstance(one, AwaitReady)]
    assert (step.nodes, step.gpu_nodes) == (("compute-01", "compute-02"), ("compute-01",))
    nothing = plan_start(made, everything_seen(made), inputs)
    assert nothing.steps == ()


TOLD = (
    "compute-01   |gpu:a100:8(S:0)     |gpu:a100:2(IDX:0,5)    \n"
    "compute-02   |gpu:1g.5gb:6,gpu:3g.20gb:2|gpu:1g.5gb:1(IDX:3),gpu:3g.20gb:0(IDX:N/A)\n"
    "compute-03   |(null)   |gpu:0   \n"
    "compute-04   |gpu:4   |gpu:1(IDX:0)   \n"
    "\n"
    "compute-01|mixed|none\n"
)


def test_what_sinfo_says_of_gpus_is_read():
    assert read_gpus(TOLD) == {
        "compute-01": (GpuUse("a100", 8, 2),),
        "compute-02": (GpuUse("1g.5gb", 6, 1), GpuUse("3g.20gb", 2, 0)),
        "compute-04": (GpuUse("gpu", 4, 1),),
    }


def test_what_a_hostile_controller_says_of_gpus_is_no_number_without_end():
    assert read_gpus("compute-01|gpu:a100:" + "9" * 9999 + "|gpu:a100:1") == {"compute-01": ()}
    assert read_gpus("compute-01|gpu:\x1b[31m:8|gpu:0") == {"compute-01": ()}


class Controller:
    """A libvirt whose guest runs any program, and prints what sinfo does."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def agent_command(self, uuid: UUID, command: dict[str, Any], timeout_s: float) -> object:
        assert uuid
        assert timeout_s > 0
        arguments = command["arguments"]
        if command["execute"] == "guest-exec":
            self.words = [arguments["path"], *arguments["arg"]]
            return {"pid": 1}
        return {
            "exited": True,
            "exitcode": 0,
            "out-data": base64.b64encode(TOLD.encode()).decode(),
        }


def test_slurm_is_asked_for_gpus_in_the_same_call_and_only_where_there_are_some():
    made, plain = draft(EIGHT), draft("auto_start: true")
    for desired, words in ((made, ["/bin/sh", "-c"]), (plain, list(SINFO)[:2])):
        client = Controller()
        seen = everything_seen(desired).domains
        nodes = observe_workload(client, desired.state, seen).nodes
        assert client.words[:2] == words
        assert nodes is not None
        assert nodes["compute-01"].state == "mixed"
        assert nodes["compute-01"].gpus == (GpuUse("a100", 8, 2),)
        assert set(nodes) == {"compute-01"}
    assert "GresUsed" not in " ".join(client.words)


def test_status_has_what_slurm_says_else_what_was_asked_for():
    state = draft(EIGHT, SLICES).state
    nodes = status_of(SLURM, state, Observed(), {}, {}).nodes
    assert nodes[0].gpus == ()
    assert nodes[1].gpus == (GpuUse("a100", 8, None),)
    seen = replace(node_readiness("compute-01", "mixed", None), gpus=(GpuUse("a100", 8, 2),))
    nodes = status_of(SLURM, state, Observed(readiness={"compute-01": seen}), {}, {}).nodes
    assert nodes[1].gpus == (GpuUse("a100", 8, 2),)


REFUSED = "gres/gpu count reported lower than configured (7 < 8)"


def test_a_node_that_slurm_drained_for_its_gpus_is_undrained_by_a_start():
    """Once they are right: until then its state is `inval`."""
    assert node_readiness("compute-01", "drained", REFUSED).is_closed_by_us
    assert not node_readiness("compute-01", "inval", REFUSED).is_closed_by_us
    assert node_readiness("compute-01", "drained", "my gpu").is_drained


def smi(tmp_path: Path, *words: str, hidden: tuple[str, ...] = ()) -> tuple[int, str]:
    """Our nvidia-smi, with files in place of devices; `hidden` are those of other jobs."""
    cards = cards_of(spec(count=2, mig={"3g.20gb": 1, "1g.5gb": 1}), NODE)
    listed = render_list(cards).replace("/dev/", f"{tmp_path}/")
    for path in re.findall(rf"{tmp_path}/\S+", listed):
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).touch()
    for name in hidden:
        (tmp_path / name).unlink()
    (tmp_path / "list").write_text(listed)
    done = run(
        ["/bin/sh", str(SMI), *words], check=False, env={"AI_HOW_GPUS": str(tmp_path / "list")}
    )
    return done.returncode, re.sub("-[0-9a-f]{8}-[0-9a-f-]{27}", "-…", done.stdout + done.stderr)


def test_nvidia_smi_lists_what_may_be_opened(tmp_path):
    code, said = smi(tmp_path, "-L")
    assert code == 0
    assert said.splitlines() == [
        "GPU 0: Simulated a100 40GB (UUID: GPU-…)",
        "  MIG 3g.20gb     Device  0: (UUID: MIG-…)",
        "  MIG 1g.5gb      Device  1: (UUID: MIG-…)",
        "GPU 1: Simulated a100 40GB (UUID: GPU-…)",
        "  MIG 3g.20gb     Device  0: (UUID: MIG-…)",
        "  MIG 1g.5gb      Device  1: (UUID: MIG-…)",
    ]


def test_nvidia_smi_numbers_the_gpus_of_a_job_from_0(tmp_path):
    hidden = ("nvidia0", "nvidia-caps/nvidia-cap147")
    assert smi(tmp_path, hidden=hidden) == (
        0,
        """\
+-----------------------------------------------------------------------+
| simulated GPUs: no card, no driver, no CUDA                           |
+-----------------------------------------------------------------------+
| GPU  Name                            Device                    Memory |
+-----------------------------------------------------------------------+
|   0  Simulated a100 40GB             /dev/nvidia1           40960 MiB |
|        MIG 0   1g.5gb                                        5120 MiB |
+-----------------------------------------------------------------------+
""",
    )


@pytest.mark.parametrize(
    ("form", "lines"),
    [
        ("csv", ["index, memory.total [MiB]", "0, 40960 MiB", "1, 40960 MiB"]),
        ("csv,noheader", ["0, 40960 MiB", "1, 40960 MiB"]),
        ("csv,noheader,nounits", ["0, 40960", "1, 40960"]),
    ],
)
def test_nvidia_smi_answers_queries(tmp_path, form, lines):
    code, said = smi(tmp_path, "--query-gpu=index,memory.total", f"--format={form}")
    assert (code, said.splitlines()) == (0, lines)


@pytest.mark.parametrize("words", [(), ("-L",), ("--query-gpu=name", "--format=csv,noheader")])
def test_nvidia_smi_finds_nothing_where_nothing_was_allotted(tmp_path, words):
    hidden = ("nvidia0", "nvidia1")
    assert smi(tmp_path, *words, hidden=hidden) == (6, "No devices were found\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-q"], "'-q' is not simulated; nvidia-smi --help"),
        (
            ["--query-gpu=temperature.gpu", "--format=csv"],
            "'temperature.gpu' is not simulated; known: index, name, uuid, memory.total",
        ),
        (["--query-gpu=name"], "--query-gpu needs --format=csv"),
    ],
)
def test_nvidia_smi_makes_up_no_numbers(tmp_path, words, said):
    assert smi(tmp_path, *words) == (2, f"nvidia-smi (simulated): {said}\n")
