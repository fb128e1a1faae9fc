"""The trial guests of kvm.py under the real QEMU."""

import os
import time
from contextlib import suppress
from pathlib import Path

import pytest

from ai_how.host.kvm import KVM_DEVICE, Outcome, boot_trial, kvm_verdict
from ai_how.process import get_tool

pytestmark = pytest.mark.libvirt


def own_children() -> set[str]:
    """Ids of the processes that this one started and that have not been waited for."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError):
            if f"PPid:\t{os.getpid()}\n" in status.read_text():
                found.add(status.parent.name)
    return found


def test_the_boot_sector_runs_under_emulation() -> None:
    qemu = get_tool("qemu-system-x86_64", package="qemu-system-x86")
    trial = boot_trial("tcg", qemu=qemu, kernel=None, deadline_s=60)
    assert trial.outcome is Outcome.RAN, trial
    assert own_children() == set()


@pytest.mark.fault("F38", "a QEMU that refuses")
def test_a_qemu_that_ends_by_itself_is_quoted(tmp_path: Path) -> None:
    qemu = get_tool("qemu-system-x86_64", package="qemu-system-x86")
    (tmp_path / "not-a-kernel").touch()
    trial = boot_trial("tcg", qemu=qemu, kernel=tmp_path / "not-a-kernel", deadline_s=60)
    assert trial.outcome is Outcome.REFUSED, trial
    assert "kernel" in trial.last_line


@pytest.mark.fault("F38", "this machine")
def test_the_verdict_on_this_host_comes_in_time_and_leaves_no_guest(tmp_path: Path) -> None:
    before = time.monotonic()
    verdict = kvm_verdict(kernel=None, cache=tmp_path / "c/kvm.json", deadline_s=10)
    assert time.monotonic() - before < 60
    assert verdict.why
    assert verdict.works or verdict.remedy, verdict
    assert verdict.works is False or KVM_DEVICE.exists()
    assert own_children() == set()
