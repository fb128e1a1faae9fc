"""Boots an imported image in a VM of its own, runs prepare.sh there by ssh, and keeps its disk."""

import base64
import os
import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from uuid import UUID

from ai_how.errors import DeadlineError, HostError, ImageError, ToolError
from ai_how.guest.cloud_seed import render_user_data, write_seed
from ai_how.guest.outside_files import DIRECTORY, OutsideFiles
from ai_how.guest.serial_log import read_console
from ai_how.guest.ssh import Login, ensure_key, render_first_login
from ai_how.host.checks import MIB
from ai_how.images import qemu_img
from ai_how.images.copying import remove_tree
from ai_how.images.manifest import DISK, Image
from ai_how.images.preparing import PLACE, Heard, finish_prepared, render_job
from ai_how.images.store import ImageStore
from ai_how.libvirt_client.client import LibvirtClient
from ai_how.libvirt_client.facts import DomainInfo, Mark
from ai_how.libvirt_client.network_xml import NetworkHost
from ai_how.process import Argument, dying_with_us, get_tool, run, run_lines
from ai_how.spec.identity import mac_address
from ai_how.spec.images import Firmware
from ai_how.vm_management.disks.manager import DiskManager
from ai_how.vm_management.disks.space import GIB
from ai_how.vm_management.networks.definition import NetworkDefinition, render_network
from ai_how.vm_management.nodes.domain_definition import (
    Accel,
    CpuDefinition,
    CpuTopology,
    DiskCache,
    DomainDefinition,
)
from ai_how.vm_management.nodes.node_domain import choose_cpu_mode
from ai_how.vm_management.preparing.drafts import PREPARING_ID, network_uuid, vm_uuid
from ai_how.vm_management.xml.render import render_domain
from ai_how.waiting import Deadline, wait_until

USER, NAME = "ai-how-prepare", "prepare"
MEMORY_MIB = 2048
ADDED_GIB = 2
"""The room on its disk for what is added, beyond what the image has."""
BOOT_S = 900.0
LOGIN_S = 60.0
SCRIPT_S = 3600
OFF_S = 300.0
_TAIL_LINES = 15
_UNHEARD = 'exec "$@" > /dev/null 2>&1'
_BOOTED, _PREPARED, _CONVERTED = 0.2, 0.9, 0.99

Watch = Callable[[float, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparingVm:
    """The VM that boots an image to prepare it: what it gets of its host."""

    image: Image
    draft: Path
    """Of the storage: its disk, its seed, its serial log."""
    subnet: IPv4Network
    accel: Accel
    cpu_model: str | None
    vcpus: int
    firmware: Firmware
    base: Path
    """The disk of the image in the storage, below its own."""

    @property
    def gateway(self) -> IPv4Address:
        return self.subnet[1]

    @property
    def address(self) -> IPv4Address:
        return self.subnet[2]

    @property
    def disk_bytes(self) -> int:
        return (-(-self.image.manifest.virtual_size_bytes // GIB) + ADDED_GIB) * GIB

    @property
    def console(self) -> Path:
        return self.draft / "console.log"

    @property
    def uuid(self) -> UUID:
        return vm_uuid(self.draft)

    @property
    def name(self) -> str:
        """That of its network, too."""
        return f"ai-how-prepare-{self.uuid.hex[:8]}"

    @property
    def mac(self) -> str:
        return mac_address(self.uuid, NAME)

    def network(self) -> NetworkDefinition:
        return NetworkDefinition(
            name=self.name,
            uuid=network_uuid(self.draft),
            mark=Mark("", PREPARING_ID, ""),
            bridge=f"ahp{self.uuid.hex[:8]}",
            subnet=self.subnet,
            gateway=self.gateway,
            domain="ai-how.internal",
            hosts=(NetworkHost(self.mac, NAME, self.address),),
        )

    def domain(self) -> DomainDefinition:
        mode, model = choose_cpu_mode(self.cpu_model, self.accel)
        return DomainDefinition(
            mark=Mark("", PREPARING_ID, ""),
            name=self.name,
            uuid=self.uuid,
            genid=self.uuid,
            title=f"a machine in which the image {self.image.name} is prepared",
            memory_mib=MEMORY_MIB,
            vcpus=self.vcpus,
            accel=self.accel,
            cpu=CpuDefinition(mode, CpuTopology(1, self.vcpus, 1), model),
            disk=self.draft / DISK,
            backing_chain=(self.base,),
            network=self.name,
            mac=self.mac,
            console_log=self.console,
            is_uefi=self.firmware == "uefi",
            has_screen=True,
            nvram=self.draft / "nvram.fd" if self.firmware == "uefi" else None,
            seed=self.draft / "seed.iso",
            disk_cache=DiskCache.UNSAFE,  # what is lost in a crash is made again
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Helpers:
    """What a preparation uses besides its VM."""

    store: ImageStore
    client: LibvirtClient
    proxy: Sequence[str]
    """The ProxyCommand of ssh; empty where guests can be reached directly."""
    outside: OutsideFiles
    uplink_trouble: str | None


def run_preparation(vm: PreparingVm, helpers: Helpers, watch: Watch) -> Image:
    """Turn the image of a VM, whose network is up, into an image of ours.

    Raises ImageError that says what the guest said; the caller ends the VM in any case.
    """
    client = helpers.client
    with helpers.store.draft() as draft:
        ssh = _make_files(vm, helpers, draft)
        watch(0.02, "booting")
        client.boot_transient(render_domain(vm.domain()))
        _wait_for_login(vm, client, ssh, watch)
        heard = Heard(vm.image, lambda share, what: watch(_BOOTED + share * 0.7, what))
        _run_script(vm, helpers, ssh, heard)
        watch(_PREPARED, "shutting down")
        _wait_until_off(vm, client)
        remove_tree(draft / "ssh")
        _require_readable(vm)
        watch(_PREPARED, "converting the disk")
        qemu_img.convert(
            vm.draft / DISK,
            draft / DISK,
            source_format="qcow2",
            on_progress=lambda done: watch(
                _PREPARED + done * (_CONVERTED - _PREPARED), "converting the disk"
            ),
        )
        return finish_prepared(helpers.store, draft, vm.image, heard, vm.firmware)


def _make_files(vm: PreparingVm, helpers: Helpers, draft: Path) -> list[Argument]:
    """Its seed, and the command that logs in to it."""
    place = draft / "ssh"
    place.mkdir(mode=0o700)
    public = ensure_key(place / "id", "ai-how")
    write_seed(
        vm.draft / "seed.iso",
        instance=vm.uuid,
        hostname=NAME,
        user_data=render_user_data(USER, public),
    )
    vm.console.touch(mode=0o600)
    login = Login(str(vm.address), USER, place / "id", place / "known_hosts")
    (place / "config").write_text(render_first_login(NAME, login, helpers.proxy))
    ssh = get_tool("ssh", package="openssh-client")
    return [ssh, "-F", place / "config", "-o", "BatchMode=yes", "--", NAME]


def _wait_for_login(
    vm: PreparingVm, client: LibvirtClient, ssh: Sequence[Argument], watch: Watch
) -> None:
    deadline, begun = Deadline.after(BOOT_S), time.monotonic()
    while True:
        info = client.find_domain(vm.uuid)
        if info is None or not info.state.is_running:
            raise _no_login(vm, "it ended before it let us in")
        _require_disk(vm, info)
        with suppress(ToolError):
            if run(_unheard([*ssh, "true"]), timeout_s=LOGIN_S, check=False).returncode == 0:
                return
        if not deadline.remaining_s:
            raise _no_login(vm, f"it did not let us in within {BOOT_S:.0f} s")
        # How long it takes is not known: half of what is left with each minute.
        share = 1 - 0.5 ** ((time.monotonic() - begun) / 60)
        watch(0.02 + share * (_BOOTED - 0.02), "booting")
        time.sleep(0.5)


def _no_login(vm: PreparingVm, why: str) -> ImageError:
    try:
        said = read_console(vm.console, 0)
    except OSError:
        said = ""
    lines = [line for line in said.splitlines() if line.strip()][-_TAIL_LINES:]
    other = "uefi" if vm.firmware == "bios" else "bios"
    name = shlex.quote(vm.image.name)
    return ImageError(
        f"the image {vm.image.name} cannot be prepared for a cluster: {why}",
        details="\n".join(["It needs cloud-init with NoCloud, and an ssh server.", *lines]),
        hint=f"ai-how image show {name}  # its firmware; another one: `firmware: {other}`",
    )


def _require_disk(vm: PreparingVm, info: DomainInfo | None) -> None:
    """Raise HostError if the VM waits for its disk: QEMU pauses it when the host has no room."""
    if info is None or not info.waits_for_disk:
        return
    place = vm.draft.parent
    raise HostError(
        f"the image {vm.image.name} cannot be prepared for a cluster: "
        "its VM is paused on an I/O error of its disk",
        details=f"{place} has {shutil.disk_usage(place).free / MIB:.1f} MiB free.",
        hint=f"df -h {shlex.quote(str(place))}  # is it full?",
    )


def _run_script(vm: PreparingVm, helpers: Helpers, ssh: Sequence[Argument], heard: Heard) -> None:
    sent = base64.b64encode(render_whole_job(helpers.outside)).decode()
    take = f"sudo mkdir -m 0700 -p {PLACE} && base64 -d | sudo tar -x -C {PLACE} -f - && "
    take += f"sudo date -s @{int(time.time())} > /dev/null"
    try:
        run(_unheard([*ssh, take]), stdin=sent, timeout_s=BOOT_S)
        timeout = get_tool("timeout", package="coreutils")
        argv = [timeout, str(SCRIPT_S), *ssh, f"sudo sh {PLACE}/prepare.sh {USER}"]
        run_lines(dying_with_us(argv), on_line=heard.hear)
    except ToolError as error:
        if not heard.is_finished:
            _require_disk(vm, helpers.client.find_domain(vm.uuid))
            raise heard.explain(helpers.uplink_trouble, error.details) from error
    if not heard.is_finished or heard.is_too_old:
        raise heard.explain(helpers.uplink_trouble)


def render_whole_job(outside: OutsideFiles) -> bytes:
    """The tar archive of what the VM gets to prepare its image, and to reach the outside by."""
    more = {"identity": f'OUTSIDE="{outside.digest}"\n'}
    if outside.digest:
        more |= {
            f"outside.d/{path.removeprefix(DIRECTORY).lstrip('/')}": text
            for path, text, _ in outside.files()
        }
    return render_job(more)


def _unheard(argv: Sequence[Argument]) -> list[Argument]:
    """The command without its output, of which a guest could send without end."""
    return [get_tool("sh"), "-c", _UNHEARD, "sh", *argv]


def _require_readable(vm: PreparingVm) -> None:
    if not os.access(vm.draft / DISK, os.R_OK):
        raise HostError(
            f"the image {vm.image.name} cannot be prepared for a cluster: "
            "libvirt left its disk to a user whose files only root can read",
            hint=f"ai-how --connect embedded image build {shlex.quote(vm.image.name)}",
        )


def _wait_until_off(vm: PreparingVm, client: LibvirtClient) -> None:
    def is_off() -> bool:
        info = client.find_domain(vm.uuid)
        return info is None or not info.state.is_on

    try:
        wait_until(is_off, Deadline.after(OFF_S), f"the end of the VM of {vm.image.name}")
    except DeadlineError as error:
        raise HostError(
            f"the image {vm.image.name} cannot be prepared for a cluster: "
            f"it did not shut down within {OFF_S:.0f} s"
        ) from error


def make_disk(vm: PreparingVm, disks: DiskManager) -> None:
    """Create the disk of a VM. Under the host-wide lock nobody removes the base as unused."""
    disks.ensure_base(vm.image)
    qemu_img.make_overlay(vm.draft / DISK, base=vm.base, virtual_bytes=vm.disk_bytes)
    (vm.draft / DISK).chmod(0o600)


def start_network(vm: PreparingVm, client: LibvirtClient) -> None:
    """Create the network of a VM. The caller holds the host-wide lock, and removes it."""
    client.define_network(render_network(vm.network()))
    client.start_network(network_uuid(vm.draft))
