"""What nvidia-smi answers, and fakes of it on PATH that do not.

The outputs are written after NVIDIA's documents and issue threads, not recorded here: no machine of
ours has such a card.
"""

import os
import time
from pathlib import Path

import pytest

from ai_how.errors import HostError
from ai_how.gpu.inventory import read_machine
from ai_how.gpu.models import Mig, MigProfile
from ai_how.gpu.nvidia_smi import SmiAnswer, SmiCard, ask_nvidia_smi, read_cards, read_profiles
from gpu_host import GEFORCE, H100, NVIDIA, RADEON, THREE_D, GpuHost

HEAD = """\
<?xml version="1.0" ?>
<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">
"""
XML = f"""\
{HEAD}<nvidia_smi_log>
\t<timestamp>Sun Nov 29 20:00:00 2026</timestamp>
\t<driver_version>550.163.01</driver_version>
\t<cuda_version>12.4</cuda_version>
\t<attached_gpus>2</attached_gpus>
\t<gpu id="00000000:65:00.0">
\t\t<product_name>NVIDIA GeForce RTX 4090</product_name>
\t\t<mig_mode><current_mig>N/A</current_mig><pending_mig>N/A</pending_mig></mig_mode>
\t\t<mig_devices>None</mig_devices>
\t\t<gpu_virtualization_mode>
\t\t\t<virtualization_mode>None</virtualization_mode>
\t\t\t<host_vgpu_mode>N/A</host_vgpu_mode>
\t\t</gpu_virtualization_mode>
\t\t<fb_memory_usage><total>24564 MiB</total><reserved>360 MiB</reserved></fb_memory_usage>
\t</gpu>
\t<gpu id="00000000:AF:00.0">
\t\t<product_name>NVIDIA H100 80GB HBM3</product_name>
\t\t<mig_mode><current_mig>Enabled</current_mig><pending_mig>Enabled</pending_mig></mig_mode>
\t\t<mig_devices>
\t\t\t<mig_device><index>0</index><gpu_instance_id>9</gpu_instance_id></mig_device>
\t\t\t<mig_device><index>1</index><gpu_instance_id>10</gpu_instance_id></mig_device>
\t\t</mig_devices>
\t\t<gpu_virtualization_mode>
\t\t\t<virtualization_mode>Host VGPU</virtualization_mode>
\t\t\t<host_vgpu_mode>SR-IOV</host_vgpu_mode>
\t\t</gpu_virtualization_mode>
\t\t<fb_memory_usage><total>81559 MiB</total></fb_memory_usage>
\t</gpu>
</nvidia_smi_log>
"""
LGIP = """\
+-----------------------------------------------------------------------------+
| GPU instance profiles:                                                      |
| GPU   Name             ID    Instances   Memory     P2P    SM    DEC   ENC  |
|                              Free/Total   GiB              CE    JPEG  OFA  |
|=============================================================================|
|   1  MIG 1g.10gb       19     5/7        9.75       No     16     1     0   |
|                                                             1     1     0   |
+-----------------------------------------------------------------------------+
|   1  MIG 1g.10gb+me    20     1/1        9.75       No     16     1     0   |
|                                                             1     1     1   |
+-----------------------------------------------------------------------------+
|   1  MIG 7g.80gb        0     0/1        79.12      No     132    7     0   |
|                                                             8     7     1   |
+-----------------------------------------------------------------------------+
"""
PROFILES = (
    MigProfile("1g.10gb", 19, 5, 7, 9.75),
    MigProfile("1g.10gb+me", 20, 1, 1, 9.75),
    MigProfile("7g.80gb", 0, 0, 1, 79.12),
)


class Smi:
    """A fake nvidia-smi: `query` is its script for `-q -x`, `mig` for `mig -lgip`."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        directory.mkdir()
        monkeypatch.setattr("ai_how.gpu.inventory.PATIENCE_S", 60)
        (directory / "query.xml").write_text(XML)
        (directory / "lgip").write_text(LGIP)
        monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
        self.does()

    def does(self, query: str | None = None, mig: str | None = None) -> None:
        query = query or f"cat {self.directory}/query.xml"
        mig = mig or f"cat {self.directory}/lgip"
        program = self.directory / "nvidia-smi"
        log = f'echo "$@" >> {self.directory}/calls'
        cases = f'case "$*" in "-q -x") {query};; "mig -lgip") {mig};; *) exit 9;; esac'
        program.write_text(f"#!/bin/sh\n{log}\n{cases}\n")
        program.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        file = self.directory / "calls"
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Smi:
    return Smi(tmp_path / "bin", monkeypatch)


def test_both_lists_together_are_the_answer(smi: Smi) -> None:
    answer = ask_nvidia_smi(patience_s=60)
    mig = Mig(is_enabled=True, is_pending=False, instances=2, profiles=PROFILES)
    assert answer == SmiAnswer(
        {
            GEFORCE: SmiCard("NVIDIA GeForce RTX 4090", 24564, "None", can_mig=False),
            H100: SmiCard("NVIDIA H100 80GB HBM3", 81559, "Host VGPU", can_mig=True, mig=mig),
        },
        "550.163.01",
    )


def test_without_mig_the_profiles_are_not_asked_for(smi: Smi) -> None:
    (smi.directory / "query.xml").write_text(XML.replace(">Enabled<", ">Disabled<"))
    card = ask_nvidia_smi(patience_s=60).cards[H100]
    assert card.mig == Mig(is_enabled=False, is_pending=False, instances=2, profiles=())
    assert card.can_mig
    assert smi.calls == ["-q -x"]


def test_a_mode_that_waits_for_a_reset_is_pending() -> None:
    text = XML.replace("<current_mig>Enabled", "<current_mig>Disabled")
    mig = read_cards(text).cards[H100].mig
    assert mig
    assert (mig.is_enabled, mig.is_pending) == (False, True)


def test_an_old_driver_that_knows_no_mig_leaves_it_open() -> None:
    text = f"{HEAD}<nvidia_smi_log><gpu id='0000000A:01:00.0'><x/></gpu></nvidia_smi_log>"
    assert read_cards(text).cards == {"000a:01:00.0": SmiCard()}


def test_profiles_are_read_by_card() -> None:
    assert read_profiles(LGIP) == {1: PROFILES}
    assert read_profiles("No MIG-enabled devices found.") == {}


REFUSED = {
    "rubbish": ("echo what; head -c 3000 /dev/urandom", "this XML cannot be read"),
    "nothing": ("true", "this XML cannot be read"),
    "half": ("head -c 700 {xml}", "this XML cannot be read"),
    "another document": ("echo '<html/>'", "nvidia-smi answered something else: <html>"),
    "a doctype of its own": (
        """echo '<!DOCTYPE nvidia_smi_log [<!ENTITY a "b">]><nvidia_smi_log/>'""",
        "XML with a DOCTYPE (nvidia_smi_log) is refused",
    ),
    "a driver that is gone": (
        "echo; echo NVIDIA-SMI has failed because it could not communicate; exit 9",
        "nvidia-smi failed (exit code 9): NVIDIA-SMI has failed because it could not communicate",
    ),
    "silence": ("exit 15", "nvidia-smi failed (exit code 15)"),
    "100 MB": ("head -c 100000000 /dev/zero", "nvidia-smi printed more than 16777216 bytes"),
    "death": ("kill -9 $$", "nvidia-smi failed (exit code -9)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_answer_that_is_none_is_a_trouble_and_no_error(smi: Smi, case: str) -> None:
    script, trouble = REFUSED[case]
    smi.does(script.format(xml=smi.directory / "query.xml") if "{xml}" in script else script)
    answer = ask_nvidia_smi(patience_s=60)
    assert answer.cards == {}
    assert answer.trouble is not None
    assert answer.trouble.startswith(trouble)


def test_one_that_hangs_costs_its_patience_and_no_more(smi: Smi) -> None:
    smi.does("sleep 300 & wait")
    begun = time.monotonic()
    assert ask_nvidia_smi(patience_s=0.5).trouble == "nvidia-smi did not answer within 0.5 s"
    assert time.monotonic() - begun < 20


def test_both_calls_share_one_patience(smi: Smi) -> None:
    smi.does(mig="sleep 300")
    begun = time.monotonic()
    answer = ask_nvidia_smi(patience_s=2)
    assert answer.trouble is not None
    assert answer.trouble.startswith("mig -lgip: nvidia-smi did not answer within ")
    assert answer.cards[H100].memory_mib == 81559, "what was told already is kept"
    assert time.monotonic() - begun < 20


def test_profiles_that_fail_leave_the_rest(smi: Smi) -> None:
    smi.does(mig="echo Insufficient Permissions; exit 4")
    answer = ask_nvidia_smi(patience_s=60)
    expected = "mig -lgip: nvidia-smi failed (exit code 4): Insufficient Permissions"
    assert answer.trouble == expected
    assert answer.cards[H100].mig == Mig(True, False, 2, ())


def test_it_is_asked_only_where_a_card_has_its_driver(smi: Smi, tmp_path: Path) -> None:
    """It would load the driver, and make device nodes."""
    host = GpuHost(tmp_path / "host")
    host.add_radeon()
    host.add_geforce(driver="nouveau")
    machine = read_machine(host.root)
    assert smi.calls == []
    assert machine.smi_trouble is None
    host.bind(GEFORCE, "nvidia")
    assert read_machine(host.root).gpus[1].memory_mib == 24564
    assert smi.calls == ["-q -x", "mig -lgip"]


def test_what_it_tells_is_in_the_inventory(smi: Smi, tmp_path: Path) -> None:
    host = GpuHost(tmp_path / "host")
    host.add_geforce(driver="nvidia")
    host.add(H100, (NVIDIA, 0x2330), THREE_D, driver="nvidia")
    host.add_radeon()
    machine = read_machine(host.root)
    by_address = {gpu.address: gpu for gpu in machine.gpus}
    assert by_address[H100].mig == Mig(True, False, 2, PROFILES)
    assert (by_address[H100].can_mig, by_address[GEFORCE].can_mig) == (True, False)
    assert by_address[RADEON].mig is None
    assert machine.has_vgpu_driver, "it says Host VGPU"
    smi.does("exit 1")
    troubled = read_machine(host.root)
    assert troubled.smi_trouble == "nvidia-smi failed (exit code 1)"
    assert [gpu.address for gpu in troubled.gpus] == [gpu.address for gpu in machine.gpus]
    assert not troubled.has_vgpu_driver


def test_a_document_that_is_none_is_an_error() -> None:
    with pytest.raises(HostError, match=r"^this XML cannot be read"):
        read_cards("<nvidia_smi_log>")
