"""What `ai-how gpu list`, `explain` and `doctor` print, and how they end."""

import io
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from cli_runner import GOOD, Cli
from test_nvidia_smi import Smi
from test_state_models import cluster_state, node

from ai_how.cli import main
from ai_how.clusters.move_card import CardMove, NodeOf
from ai_how.gpu.models import Gpu
from ai_how.state.cluster_state import write_state
from ai_how.state.leases import Lease, write_lease
from ai_how.state.paths import ClusterPaths, ensure_private_directory
from gpu_host import (
    A40,
    GEFORCE,
    H100,
    INTEL,
    L40S,
    NETWORK,
    NIC,
    NVIDIA,
    RADEON,
    SOUND,
    T4,
    THREE_D,
    UHD,
    GpuHost,
)

NARROW = 80
UUID = "4b20d080-1b54-4048-85b3-a6a62d165c01"


class Terminal(io.StringIO):
    """Keeps what is printed, and says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GpuHost:
    """The machine that the verbs look at."""
    monkeypatch.setattr("ai_how.gpu.nvidia_smi.find_tool", lambda _name: None)
    host = GpuHost(tmp_path / "host")
    monkeypatch.setattr("ai_how.cli.gpu.MACHINE", host.root)
    return host


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    home = tmp_path / "home"
    home.mkdir()
    return Cli(home, monkeypatch, capsys)


def remember(cli: Cli, name: str = "demo", *hostdevs: str) -> ClusterPaths:
    """A cluster whose node compute-01 has these devices in its definition."""
    paths = cli.roots.cluster(name)
    ensure_private_directory(paths.root)
    write_state(paths, cluster_state(name=name, nodes=(node("compute-01", 11),)))
    paths.xml.mkdir(exist_ok=True)
    xml = f"<domain><devices>{''.join(hostdevs)}</devices></domain>"
    (paths.xml / "demo-compute-01.xml").write_text(xml)
    return paths


def pci(bus: str, function: str) -> str:
    where = f"domain='0x0000' bus='0x{bus}' slot='0x00' function='0x{function}'"
    return f"<hostdev type='pci'><source><address {where}/></source></hostdev>"


MDEV = f"<hostdev type='mdev'><source><address uuid='{UUID}'/></source></hostdev>"


def test_a_host_without_gpus_says_so(host: GpuHost, cli: Cli) -> None:
    for words in (("list",), ("explain",)):
        ended = cli("gpu", *words)
        assert (ended.code, ended.out, ended.err) == (0, "this host has no GPU\n", "")
        assert json.loads(cli("gpu", *words, "--json").out) == []
    ended = cli("gpu", "doctor")
    assert (ended.code, ended.out) == (0, "ok       gpus  this host has no GPU\n")


def test_a_list_has_a_line_for_each_card(host: GpuHost, cli: Cli) -> None:
    host.add_geforce(driver="nvidia")
    host.add_l40s()
    host.add_a40(vfs=0)
    remember(cli, "demo", pci("65", "0"), pci("65", "1"))
    ended = cli("gpu", "list")
    assert (ended.code, ended.err) == (0, "")
    rows = [
        [cell.strip() for cell in line.split("  ") if cell.strip()]
        for line in ended.out.splitlines()
    ]
    assert rows == [
        ["ADDRESS", "CARD", "DRIVER", "WHOLE", "VGPU", "MIG", "DEFINED IN"],
        [A40, "NVIDIA A40", "nvidia", "yes", "not now", "no", "-"],
        [L40S, "NVIDIA L40S", "nvidia", "not now", "yes", "no", "-"],
        [GEFORCE, "NVIDIA GeForce RTX 4090", "nvidia", "yes", "no", "no", "demo/compute-01"],
        ["why, and what can be done: ai-how gpu explain"],
    ]


def test_what_is_explained_is_all_that_is_known(host: GpuHost, cli: Cli) -> None:
    host.add_geforce(driver="nvidia", module_users=4)
    host.write(f"proc/driver/nvidia/gpus/{GEFORCE}/information", "Device Minor: \t 0\n")
    host.add_process(812, "Xorg", "/dev/nvidia0")
    remember(cli, "demo", pci("65", "0"))
    ended = cli("gpu", "explain", "65:00.0")
    assert (ended.code, ended.err) == (0, "")
    no_vgpu = (
        "NVIDIA's driver offers no vGPU on a GeForce, and from Ampere on signed firmware has "
        "SR-IOV switched off: it can only be passed whole"
    )
    softdeps = "softdep nvidia pre: vfio-pci\\nsoftdep snd_hda_intel pre: vfio-pci\\n"
    at_boot = (
        f"printf 'options vfio-pci ids=10de:2684,10de:22ba\\n{softdeps}' | "
        "sudo tee /etc/modprobe.d/vfio-gpu.conf && sudo update-initramfs -u  # then reboot"
    )
    assert ended.out.splitlines() == [
        "card         NVIDIA GeForce RTX 4090 (AD102)",
        "functions    0000:65:00.0 VGA 10de:2684, driver nvidia",
        "             0000:65:00.1 audio 10de:22ba, driver snd_hda_intel",
        "IOMMU group  12, also with",
        "             0000:64:00.0 bridge, in nobody's way",
        "display      not the boot display",
        "used by      Xorg (pid 812, display server): /dev/nvidia0",
        "NUMA node    1",
        "memory       -",
        "BARs         0: 16 MiB, 1: 32 GiB, 3: 32 MiB",
        "link         2.5 GT/s x16, up to 16 GT/s x16",
        "nvidia-smi   nvidia-smi is not installed",
        "defined in   demo/compute-01",
        "whole: not now (2 functions: VGA, audio)",
        "  Xorg (pid 812, display server) has /dev/nvidia0 open",
        "    sudo systemctl stop display-manager",
        "  its driver nvidia is in use: give the card to vfio-pci at boot",
        f"    {at_boot}",
        "vGPU: no (a GeForce has none)",
        f"  {no_vgpu}",
        "MIG: no (it has none)",
    ]


def test_vfs_and_types_are_explained_and_long_lists_are_cut(host: GpuHost, cli: Cli) -> None:
    host.add_l40s(vfs=2)
    host.set("0000:5e:00.5", nvidia__current_vgpu_type="1148")
    host.add_t4(15, UUID)
    for number in range(300, 310):
        host.add_mdev_type(T4, f"nvidia-{number}", "GRID T4-X", 0)
    t4, l40s = cli("gpu", "explain").out.split("\n\n")
    assert "SR-IOV       2 of 32 VFs\n" in l40s
    first = "0000:5e:00.4, driver nvidia, 1147 NVIDIA L40S-1Q, and 1 more types"
    assert f"             {first}\n" in l40s
    assert "             0000:5e:00.5, driver nvidia, vGPU type 1148, 1147 NVIDIA L40S" in l40s
    assert "mdev types   nvidia-222 (GRID T4-1B): 15 free, 1 made\n" in t4
    assert "             and 4 more (--json)\n" in t4


def test_a_function_in_a_group_of_its_own_is_told(host: GpuHost, cli: Cli) -> None:
    host.add_radeon()
    out = cli("gpu", "explain", RADEON).out
    assert "functions    0000:0b:00.0 VGA 1002:744c, driver amdgpu\n" in out
    assert "0000:0b:00.1 audio 1002:ab30, driver snd_hda_intel, IOMMU group 21\n" in out


def test_what_cannot_be_read_is_said_to_be_unknown(host: GpuHost, cli: Cli) -> None:
    host.add_uhd()
    host.hide(host.device(UHD) / "boot_vga")
    host.hide(host.device(UHD) / "resource")
    out = cli("gpu", "explain", UHD).out
    assert "display      unknown; monitor on DP-1\n" in out
    assert "BARs         -\n" in out
    assert "unreadable   boot_vga, resource\n" in out


@pytest.mark.parametrize(
    ("asked", "code", "said"),
    [
        ("0000:99:00.0", 3, "error: there is no GPU at 0000:99:00.0\n"),
        ("99:00.0", 3, "error: there is no GPU at 0000:99:00.0\n"),
        (NIC, 3, f"error: there is no GPU at {NIC}\n"),
        ("RTX", 2, "error: RTX is no PCI address\n  an address is such as 0000:65:00.0\n"),
    ],
)
def test_an_address_of_no_gpu_is_refused(
    host: GpuHost, cli: Cli, asked: str, code: int, said: str
) -> None:
    host.add_geforce()
    host.add(NIC, (INTEL, 0x1533), NETWORK)
    ended = cli("gpu", "explain", asked)
    assert (ended.code, ended.out, ended.err) == (code, "", f"{said}hint: ai-how gpu list\n")


def test_json_has_the_model_and_the_answers(host: GpuHost, cli: Cli) -> None:
    host.add_t4(15, UUID)
    host.add_geforce()
    remember(cli, "demo", MDEV)
    first, second = json.loads(cli("gpu", "list", "--json").out)
    assert (first["gpu"]["address"], first["defined_in"]) == (T4, ["demo/compute-01"])
    assert first["gpu"]["mdev_types"][0]["uuids"] == [UUID]
    assert second["gpu"]["functions"][1]["address"] == SOUND
    assert second["gpu"]["bars"][1] == {
        "number": 1,
        "size_bytes": 32 << 30,
        "is_prefetchable": True,
    }
    assert [(one["what"], one["answer"]) for one in second["abilities"]] == [
        ("whole", "yes"),
        ("vgpu", "no"),
        ("mig", "no"),
    ]
    assert json.loads(cli("gpu", "explain", "65:00", "--json").out) == second


def test_a_command_of_ours_is_completed_in_both_forms(host: GpuHost, cli: Cli) -> None:
    host.add_geforce(driver="nvidia", module_users=4)
    host.add_process(700, "sleep")
    (host.root / "proc/700/fd").rename(host.root / "gone")
    host.hide(host.root / "proc/700/fd")
    expected = f"sudo ai-how --state-dir s gpu explain {GEFORCE}"
    assert f"    {expected}\n" in cli("--state-dir", "s", "gpu", "explain").out
    told = json.loads(cli("--state-dir", "s", "gpu", "explain", "--json").out)
    assert expected in [one["advice"] for one in told[0]["abilities"][0]["hurdles"]]
    doctor = cli("--state-dir", "s", "gpu", "doctor").out
    assert "hint     processes     open files of other users' processes cannot be seen\n" in doctor
    assert "sudo ai-how --state-dir s gpu doctor\n" in doctor


def test_doctor_fails_for_what_must_be_mended(host: GpuHost, cli: Cli) -> None:
    host.add_geforce()
    host.switch_iommu_off()
    ended = cli("gpu", "doctor")
    assert ended.code == 3
    edit = """s/^GRUB_CMDLINE_LINUX=['\\"]/&intel_iommu=on iommu=pt /"""
    grub = f'sudo sed -i "{edit}" /etc/default/grub'
    assert ended.out.splitlines() == [
        "failure  iommu         the IOMMU is off: no card can be passed to a VM",
        f"                       {grub} && sudo update-grub  # then reboot",
        "warning  65:00.0       NVIDIA GeForce RTX 4090: whole: not now",
        "ok       65:00.0 vgpu  no: a GeForce has none",
    ]
    told = json.loads(cli("gpu", "doctor", "--json").out)
    assert told["is_able"] is False
    assert told["checks"][0]["advice"] == f"{grub} && sudo update-grub  # then reboot"


def test_doctor_fails_for_a_shared_group(host: GpuHost, cli: Cli) -> None:
    host.add_geforce()
    host.add(NIC, (INTEL, 0x1533), NETWORK, group=12)
    ended = cli("gpu", "doctor")
    assert ended.code == 3
    assert f"failure  65:00.0       its IOMMU group also has {NIC} (Intel I210" in ended.out


def test_doctor_warns_of_a_use_and_ends_well(host: GpuHost, cli: Cli) -> None:
    host.add_uhd()
    host.add_radeon()
    host.add_process(812, "gnome-shell", "/dev/dri/card0", "/dev/dri/card1")
    ended = cli("gpu", "doctor")
    assert ended.code == 0
    lines = ended.out.splitlines()
    assert lines[0] == "ok       iommu         on"
    assert "warning  00:02.0       it is the display that the host booted with" in lines
    open_by = "gnome-shell (pid 812, display server) has /dev/dri/card1 open"
    assert f"warning  0b:00.0       {open_by}" in lines
    assert not [line for line in lines if line.startswith("failure")]


def test_doctor_says_what_could_not_be_asked(
    host: GpuHost, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.add(H100, (NVIDIA, 0x2330), THREE_D, group=80, driver="nvidia")
    (host.root / "usr/share/misc/pci.ids").unlink()
    out = cli("gpu", "doctor").out
    assert "hint     nvidia-smi    nvidia-smi is not installed: MIG state and memory of" in out
    assert "sudo apt-get install nvidia-smi\n" in out
    assert "pci.ids is not installed: cards have numbers" in out
    assert "sudo apt-get install pci.ids\n" in out
    smi = Smi(tmp_path / "bin", monkeypatch)
    monkeypatch.setattr("ai_how.gpu.nvidia_smi.find_tool", lambda name: smi.directory / name)
    smi.does("echo No devices were found; exit 6")
    out = cli("gpu", "doctor").out
    said = "nvidia-smi failed (exit code 6): No devices were found"
    assert f"warning  nvidia-smi    {said}: MIG state" in out


def test_mig_is_shown_where_nvidia_smi_tells_it(
    host: GpuHost, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.add(H100, (NVIDIA, 0x2330), THREE_D, group=80, driver="nvidia")
    smi = Smi(tmp_path / "bin", monkeypatch)
    monkeypatch.setattr("ai_how.gpu.nvidia_smi.find_tool", lambda name: smi.directory / name)
    out = cli("gpu", "explain", H100).out
    assert "memory       81559 MiB\n" in out
    assert "MIG          on on the host, 2 instances\n             1g.10gb: 5 of 7 free\n" in out
    pending = smi.directory / "query.xml"
    pending.write_text(pending.read_text().replace("<pending_mig>Enabled", "<pending_mig>Disabled"))
    out = cli("gpu", "doctor").out
    assert "a change of the MIG mode waits for a reset of the card" in out
    assert f"sudo nvidia-smi --gpu-reset -i {H100}\n" in out


def test_only_nodes_that_a_cluster_has_are_said_to_have_a_card(host: GpuHost, cli: Cli) -> None:
    """Definitions of removed nodes, damaged ones and damaged states say nothing."""
    host.add_geforce()
    paths = remember(cli, "demo", pci("65", "1"))
    (paths.xml / "demo-compute-09.xml").write_text((paths.xml / "demo-compute-01.xml").read_text())
    remember(cli, "other", "<hostdev type='pci'><source><address bus='x'/></source></hostdev>")
    (remember(cli, "torn", pci("65", "0")).xml / "demo-compute-01.xml").write_text("<domain>")
    remember(cli, "lost", pci("65", "0")).state.write_text("{")
    remember(cli, "usb", "<hostdev type='usb'><source/></hostdev>", pci("66", "0"))
    [card] = json.loads(cli("gpu", "list", "--json").out)
    assert card["defined_in"] == ["demo/compute-01"]


@pytest.mark.parametrize("verb", ["list", "explain", "doctor"])
def test_on_a_terminal_nothing_but_a_command_is_wider_than_eighty_columns(
    host: GpuHost, cli: Cli, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    host.add_geforce(driver="nvidia", module_users=4)
    host.add_uhd()
    host.add_radeon()
    host.add_l40s()
    host.add(NIC, (INTEL, 0x1533), NETWORK, group=12)
    host.add_process(812, "gnome-shell", "/dev/dri/card0", "/dev/dri/card1", "/dev/nvidiactl")
    for name, value in (("COLUMNS", str(NARROW)), ("NO_COLOR", "1"), ("TERM", "dumb")):
        monkeypatch.setenv(name, value)
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    main(["gpu", verb])
    lines = terminal.getvalue().splitlines()
    assert RADEON in terminal.getvalue() or verb == "doctor"
    commands = ("sudo ", "printf ", "echo ", "ls ", "choose ")
    wide = [line for line in lines if len(line) > NARROW]
    assert [line for line in wide if not line.lstrip().startswith(commands)] == []


def test_doctor_names_a_device_that_did_not_come_back(host: GpuHost, cli: Cli) -> None:
    host.add_geforce(driver="vfio-pci")
    lease = Lease(
        device=GEFORCE,
        owner=uuid4(),
        cluster="demo",
        kind="hpc",
        node="compute-01",
        driver="nvidia",
        boot="",
        taken_at=datetime.now(UTC),
    )
    write_lease(cli.roots.leases, lease)
    found = f"{GEFORCE} has the driver vfio-pci; before compute-01 of demo got it, it had nvidia"
    document = json.loads(cli("gpu", "doctor", "--json").out)
    [check] = [one for one in document["checks"] if one["name"] == "lease"]
    assert (check["status"], check["found"]) == ("warning", found)
    assert check["advice"].endswith(
        f"echo | sudo tee /sys/bus/pci/devices/{GEFORCE}/driver_override"
    )
    assert found in "".join(cli("gpu", "doctor").out.split("\n"))
    host.bind(GEFORCE, "nvidia")
    assert "lease" not in cli("gpu", "doctor").out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--to", "demo"), 2, "error: 'demo' is not CLUSTER/NODE\n"),
        (
            ("--to", "demo/x", "--force", "--timeout", "5"),
            2,
            "error: --timeout cannot be used with ",
        ),
        (
            ("--to", "demo/compute-01"),
            3,
            "error: the file of the cluster demo is not stored here\n",
        ),
        (("--to", "none/compute-01"), 3, "error: there is no cluster none\n"),
    ],
)
def test_a_move_that_cannot_be_is_refused(
    host: GpuHost, cli: Cli, words: tuple[str, ...], code: int, said: str
) -> None:
    host.add_geforce()
    remember(cli, "demo", pci("65", "0"))
    ended = cli("gpu", "move", GEFORCE, *words)
    assert (ended.code, ended.out) == (code, "")
    assert ended.err.startswith(said)


@pytest.mark.parametrize(
    ("words", "waits_s"),
    [((), 1e9), (("--timeout", "5"), 5.0), (("--force",), None)],
    ids=["waits", "waits so long", "does not wait"],
)
def test_a_move_says_what_it_does_and_what_is_off_now(
    host: GpuHost,
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    waits_s: float | None,
) -> None:
    host.add_geforce()
    remember(cli, "demo")
    cli.roots.cluster("demo").spec.write_text(GOOD)
    planned: list[CardMove] = []

    def plan_move(card: Gpu, target: NodeOf, *rest: Any, **more: Any) -> CardMove:
        made = CardMove(
            card=card,
            target=target,
            spec=rest[0],
            source_file=rest[1],
            source=NodeOf(more["manager_of"]("other"), "compute-02"),
            is_target_on=True,
            choice={},
        )
        planned.append(made)
        return made

    def carry_out(made: CardMove, *, waits_s: float | None, tell: Callable[[str], None]) -> None:
        tell(f"stopping {made.stops[0]}, waiting {waits_s}")

    monkeypatch.setattr("ai_how.clusters.move_card.plan_move", plan_move)
    monkeypatch.setattr("ai_how.clusters.move_card.carry_out", carry_out)
    asked = ("gpu", "move", "65:00.0", "--to", "demo/compute-01", *words)
    ended = cli(*asked)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines() == [
        f"stopping other/compute-02, waiting {waits_s}",
        f"demo/compute-01 runs with {GEFORCE}",
        "other/compute-02 is off; to start it again: ai-how hpc start --cluster other compute-02",
    ]
    assert planned[0].target.manager.machine == host.root
    assert json.loads(cli(*asked, "--json").out) == {
        "card": GEFORCE,
        "node": "demo/compute-01",
        "stopped": ["other/compute-02", "demo/compute-01"],
    }
