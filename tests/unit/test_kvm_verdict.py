"""KVM's truth, with programs of ours in QEMU's place."""

import errno
import json
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ai_how.host.boot_sector import MESSAGE, render_boot_disk
from ai_how.host.kvm import KvmVerdict, choose_accelerator, explain_refusal, kvm_verdict

FakeQemu = Callable[[str], None]

BANNER = 'echo "[    0.000000] Linux version 6.12.1"'


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """Opens for reading and writing, as /dev/kvm does."""
    path = tmp_path / "kvm"
    path.touch()
    return path


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    path = tmp_path / "vmlinuz"
    path.touch()
    return path


@pytest.fixture
def fake_qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeQemu:
    """Puts a shell script on PATH as QEMU; each boot adds its arguments to the file `boots`."""
    tools = tmp_path / "tools"
    tools.mkdir()
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")

    def install(script: str) -> None:
        path = tools / "qemu-system-x86_64"
        path.write_text(
            "#!/bin/sh\n"
            '[ "$1" = --version ] && { echo "QEMU emulator version 7.2.22"; exit; }\n'
            f'echo "$$ $*" >> "{tmp_path}/boots"\n{script}\n'
        )
        path.chmod(0o755)

    return install


def boots(tmp_path: Path) -> list[str]:
    seen = tmp_path / "boots"
    return seen.read_text().splitlines() if seen.exists() else []


def has_ended(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_guest_that_boots_proves_kvm_and_is_ended(
    tmp_path: Path, device: Path, kernel: Path, fake_qemu: FakeQemu
) -> None:
    fake_qemu(f"{BANNER}; exec sleep 60")
    verdict = kvm_verdict(kernel=kernel, cache=tmp_path / "c/kvm.json", device=device)
    assert verdict == KvmVerdict(True, "a guest ran under it", f"booting {kernel}")
    pid, _, arguments = boots(tmp_path)[0].partition(" ")
    assert has_ended(int(pid))
    assert "-accel kvm" in arguments
    assert f"-kernel {kernel}" in arguments
    assert "-drive" not in arguments


@pytest.mark.fault("F38", "a guest that hangs")
def test_a_guest_that_hangs_disproves_kvm_within_the_deadline(
    tmp_path: Path, device: Path, kernel: Path, fake_qemu: FakeQemu
) -> None:
    fake_qemu("exec sleep 60")
    before = time.monotonic()
    verdict = kvm_verdict(kernel=kernel, cache=tmp_path / "c/kvm.json", deadline_s=3, device=device)
    assert time.monotonic() - before < 20
    assert not verdict.works
    assert verdict.why == f"{device} can be opened, but a guest hangs under it"
    assert verdict.remedy == f"rm {tmp_path}/c/kvm.json  # to try again"
    assert has_ended(int(boots(tmp_path)[0].split()[0]))


@pytest.mark.fault("F38", "a QEMU that refuses")
def test_a_qemu_that_refuses_is_quoted_and_asked_again(
    tmp_path: Path, device: Path, kernel: Path, fake_qemu: FakeQemu
) -> None:
    fake_qemu("printf 'ioctl(KVM_CREATE_VM) failed: \\033[31mbusy\\n' >&2; exit 1")
    cache = tmp_path / "c/kvm.json"
    verdict = kvm_verdict(kernel=kernel, cache=cache, device=device)
    assert not verdict.works
    assert verdict.why == "QEMU refuses: ioctl(KVM_CREATE_VM) failed: [31mbusy"
    fake_qemu(BANNER)
    assert kvm_verdict(kernel=kernel, cache=cache, device=device).works


@pytest.mark.fault("F38", "a QEMU that crashes")
def test_a_qemu_that_crashes_is_not_made_to_crash_again(
    tmp_path: Path, device: Path, kernel: Path, fake_qemu: FakeQemu
) -> None:
    fake_qemu("echo 'Assertion failed' >&2; kill -ABRT $$")
    cache = tmp_path / "c/kvm.json"
    verdicts = [kvm_verdict(kernel=kernel, cache=cache, device=device) for _ in range(2)]
    assert verdicts[0] == verdicts[1]
    assert verdicts[0].why == f"{device} can be opened, but QEMU crashes: Assertion failed"
    assert len(boots(tmp_path)) == 1


def test_without_a_kernel_the_newest_of_boot_is_taken(
    tmp_path: Path, device: Path, fake_qemu: FakeQemu
) -> None:
    boot = tmp_path / "boot"
    boot.mkdir()
    for version, mtime in (("6.1.0", 100), ("6.12.0", 300), ("5.10.0", 200)):
        (boot / f"vmlinuz-{version}").touch()
        os.utime(boot / f"vmlinuz-{version}", (mtime, mtime))
    fake_qemu(BANNER)
    verdict = kvm_verdict(kernel=None, cache=tmp_path / "c/kvm.json", device=device, boot=boot)
    assert verdict.decided_by == f"booting {boot}/vmlinuz-6.12.0"


def test_without_any_kernel_a_boot_sector_decides(
    tmp_path: Path, device: Path, fake_qemu: FakeQemu
) -> None:
    fake_qemu(f"echo '{MESSAGE}'")
    verdict = kvm_verdict(
        kernel=None, cache=tmp_path / "c/kvm.json", device=device, boot=tmp_path / "none"
    )
    assert verdict == KvmVerdict(True, "a guest ran under it", "booting a boot sector")
    assert "-drive file=" in boots(tmp_path)[0]


def test_the_boot_disk_ends_its_first_sector_with_the_mark_that_firmware_looks_for() -> None:
    disk = render_boot_disk()
    assert disk[510:512] == b"\x55\xaa"
    # The program knows by number where its descriptors and its message are.
    assert disk[0xB8:0xBE] == bytes.fromhex("1700a07c0000")
    assert disk[0xBE:].startswith(MESSAGE.encode() + b"\r\n\0")


@pytest.mark.fault("S13", "the verdict on KVM")
def test_a_verdict_is_remembered_for_our_eyes_only(
    tmp_path: Path, device: Path, kernel: Path, fake_qemu: FakeQemu
) -> None:
    fake_qemu(BANNER)
    cache = tmp_path / "c/kvm.json"
    first = kvm_verdict(kernel=kernel, cache=cache, device=device)
    assert kvm_verdict(kernel=kernel, cache=cache, device=device) == first
    assert len(boots(tmp_path)) == 1
    assert stat.S_IMODE(cache.stat().st_mode) == 0o600


@pytest.mark.parametrize("change", ["boot", "kernel", "qemu", "damage", "nonsense"])
def test_a_verdict_about_other_things_is_not_believed(
    tmp_path: Path, device: Path, kernel: Path, fake_qemu: FakeQemu, change: str
) -> None:
    fake_qemu(BANNER)
    cache = tmp_path / "c/kvm.json"
    kvm_verdict(kernel=kernel, cache=cache, device=device)
    seen = json.loads(cache.read_text())
    match change:
        case "boot":
            seen["key"]["boot_id"] = "another"
            cache.write_text(json.dumps(seen))
        case "kernel":
            kernel.write_text("newer")
        case "qemu":
            fake_qemu(f"{BANNER}; exit 0")
        case "damage":
            cache.write_text(cache.read_text()[:40])
        case "nonsense":
            cache.write_text("[1]")
    assert kvm_verdict(kernel=kernel, cache=cache, device=device).works
    assert len(boots(tmp_path)) == 2


def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, device: Path, kernel: Path, fake_qemu: FakeQemu
) -> None:
    fake_qemu(BANNER)
    (tmp_path / "file").touch()
    assert kvm_verdict(kernel=kernel, cache=tmp_path / "file/kvm.json", device=device).works


@pytest.mark.fault("F38", "no /dev/kvm")
def test_without_the_device_nothing_is_booted(tmp_path: Path, fake_qemu: FakeQemu) -> None:
    fake_qemu(BANNER)
    absent = tmp_path / "absent"
    verdict = kvm_verdict(kernel=None, cache=tmp_path / "c/kvm.json", device=absent)
    assert not verdict.works
    assert verdict.why.startswith(f"{absent} does not exist: ")
    assert verdict.remedy
    assert not boots(tmp_path)


@pytest.mark.fault("F38", "/dev/kvm denied")
def test_a_device_that_we_may_not_use_names_the_group() -> None:
    verdict = explain_refusal(PermissionError(errno.EACCES, "no"), Path("/dev/kvm"))
    assert verdict.why.endswith("has no access to /dev/kvm")
    assert verdict.remedy is not None
    assert verdict.remedy.startswith("sudo usermod -aG kvm ")


@pytest.mark.fault("F38", "a directory for /dev/kvm")
def test_a_device_that_does_not_open_for_another_reason_says_which(tmp_path: Path) -> None:
    verdict = kvm_verdict(kernel=None, cache=tmp_path / "c/kvm.json", device=tmp_path)
    assert verdict.why == f"{tmp_path} cannot be opened: Is a directory"


@pytest.mark.fault("F39", "no QEMU on PATH")
def test_without_qemu_the_package_is_named(
    tmp_path: Path, device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    verdict = kvm_verdict(kernel=None, cache=tmp_path / "c/kvm.json", device=device)
    assert verdict.why == "qemu-system-x86_64 is not installed"
    assert verdict.remedy == "sudo apt-get install qemu-system-x86"


WORKS = KvmVerdict(True, "a guest ran under it", "booting x")
EMULATED = "KVM is not used, guests are emulated and slow: guests hang; to solve it: rm it"
HANGS = KvmVerdict(False, "guests hang", "booting x", "rm it")


@pytest.mark.fault("F38", "every verdict")
@pytest.mark.parametrize(
    ("enable_kvm", "verdict", "accelerator", "warning"),
    [
        (True, WORKS, "kvm", None),
        (None, WORKS, "kvm", None),
        (False, WORKS, "tcg", None),
        (False, HANGS, "tcg", None),
        (False, None, "tcg", None),
        (True, HANGS, "tcg", EMULATED),
        (None, HANGS, "tcg", EMULATED),
    ],
)
def test_kvm_is_used_only_where_it_works_and_its_absence_is_said_once(
    enable_kvm: bool | None, verdict: KvmVerdict | None, accelerator: str, warning: str | None
) -> None:
    chosen = choose_accelerator(enable_kvm=enable_kvm, verdict=verdict)
    assert chosen == (accelerator, warning)
