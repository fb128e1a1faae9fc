"""Whether VMs can have UEFI: by QEMU's descriptions of firmware, as the packages have them."""

import json
from pathlib import Path

import pytest

from ai_how.errors import HostError
from ai_how.host.checks import Status
from ai_how.host.doctor import check_imported_images
from ai_how.host.uefi import require_uefi

PLAIN = {
    "interface-types": ["uefi"],
    "targets": [{"architecture": "x86_64", "machines": ["pc-i440fx-*", "pc-q35-*"]}],
    "features": ["acpi-s3", "verbose-dynamic"],
}


def describe(root: Path, name: str, text: str) -> None:
    path = root / "usr/share/qemu/firmware" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(PLAIN | {"features": ["enrolled-keys", "secure-boot"]}),
        json.dumps(PLAIN | {"interface-types": ["bios"]}),
        json.dumps(PLAIN | {"targets": [{"architecture": "aarch64"}]}),
        "{}",
        "[]",
        "no json",
        None,
    ],
)
def test_a_host_without_plain_uefi_says_what_to_install(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        describe(tmp_path, "40-other.json", text)
    with pytest.raises(HostError, match="no UEFI firmware for VMs") as caught:
        require_uefi(tmp_path)
    assert caught.value.hint == "sudo apt-get install ovmf  # Fedora: edk2-ovmf"
    check = check_imported_images(tmp_path)
    assert (check.status, check.advice) == (Status.HINT, caught.value.hint)


def test_a_host_with_it_boots_both(tmp_path: Path) -> None:
    describe(tmp_path, "40-broken.json", "no json")
    describe(tmp_path, "60-plain.json", json.dumps(PLAIN))
    require_uefi(tmp_path)
    assert check_imported_images(tmp_path).status is Status.OK
