"""What a VM does to prepare an imported image, in a stock system without booting it.

The files of a stock image are changed in an overlay, in namespaces that end with the program. What
needs a running system stays out: cloud-init's wait, and GRUB's look at the disks.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from ai_how.guest.outside_files import OutsideFiles
from ai_how.images.manifest import Image
from ai_how.images.preparing import PLACE, Heard
from ai_how.images.store import ImageStore
from ai_how.process import Completed, run
from ai_how.vm_management.preparing.vm import USER, render_whole_job
from apt_proxy import serving_as_proxy
from stock_image import ROOT_START, SECTOR, SUITES, StockImage, get_stock_image

pytestmark = [pytest.mark.libvirt, pytest.mark.long]

SENTINEL = "Sesame-9137-open"
SCRIPT_S = 900
# What the tests' own system does not do in there, each by what it leaves instead.
LEFT_OUT = {"cloud-init": "exit 0", "update-grub": "echo update-grub >> /run/called"}
# In a PID namespace of its own, so that no service that a package starts would stay.
RUN = f"""\
mount -t proc proc "$1/proc"
mount -t tmpfs tmpfs "$1/run"
mount --bind /dev "$1/dev"
mkdir -p "$1{PLACE}"
tar -x -C "$1{PLACE}" -f "$2"
chroot "$1" useradd --create-home --shell /bin/sh {USER}
chroot "$1" mkdir -p /root/.ssh
set +e
chroot "$1" sh {PLACE}/prepare.sh {USER}
code=$?
cp "$1/run/called" "$1.called"
exit $code
"""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A stock system after prepare.sh, and what that said."""

    root: Path
    changed: Path
    """The files that differ from those of the stock image."""
    said: Heard
    asked: list[str]
    called: str

    def text(self, path: str) -> str:
        return (self.root / path).read_text()

    def is_there(self, path: str) -> bool:
        place = self.root / path
        return place.is_symlink() or place.exists()


@pytest.fixture(scope="module", params=SUITES)
def stock(request: pytest.FixtureRequest, is_long: bool) -> StockImage:
    if request.param != "trixie" and not is_long:
        pytest.skip("one suite shows the script: --long")
    return get_stock_image(request.param, "bios")


@contextmanager
def system_of(stock: StockImage, place: Path) -> Iterator[tuple[Path, Path]]:
    """The files of a stock image, to be changed, and the directory of those that are."""
    raw, below, over, root = (place / name for name in ("raw", "below", "over", "root"))
    for one in (below, over, root):
        one.mkdir()
    run(["qemu-img", "convert", "-O", "raw", stock.disk, raw])
    run(["mount", "-n", "-o", f"ro,loop,offset={ROOT_START * SECTOR}", raw, below])
    run(["mount", "-n", "-t", "tmpfs", "-o", "size=2g", "tmpfs", over])
    (over / "upper").mkdir()
    (over / "work").mkdir()
    layers = f"lowerdir={below},upperdir={over / 'upper'},workdir={over / 'work'}"
    run(["mount", "-n", "-t", "overlay", "-o", layers, "overlay", root])
    try:
        for name, instead in LEFT_OUT.items():
            program = root / "usr/local/sbin" / name
            program.write_text(f"#!/bin/sh\n{instead}\n")
            program.chmod(0o755)
        yield root, over / "upper"
    finally:
        for one in (root, over, below):
            run(["umount", "-n", one], check=False)
        raw.unlink()


@pytest.fixture(scope="module")
def prepared(stock: StockImage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prepared]:
    place = tmp_path_factory.mktemp("prepare")
    with system_of(stock, place) as (root, changed), serving_as_proxy(stock.repository) as served:
        said, done = prepare(place, root, f"http://someone:{SENTINEL}@127.0.0.1:{served.port}")
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        yield Prepared(root, changed, said, served.asked, (place / "root.called").read_text())


def prepare(place: Path, root: Path, proxy: str) -> tuple[Heard, Completed]:
    outside = OutsideFiles({"http_proxy": proxy}, {"Acquire::http::Proxy": proxy})
    (place / "job.tar").write_bytes(render_whole_job(outside))
    spaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc"]
    words = [*spaces, "sh", "-euc", RUN, "sh", root, place / "job.tar"]
    done = run(words, timeout_s=SCRIPT_S, check=False)
    said = Heard(an_image(place), lambda _share, _what: None)
    for line in done.stdout.splitlines():
        said.hear(line)
    return said, done


def an_image(place: Path) -> Image:
    blank = place / "blank.raw"
    blank.write_bytes(bytes(1 << 20))
    return ImageStore(place / "images").import_file(blank)


def test_what_is_missing_comes_from_the_distribution_by_the_proxy(prepared: Prepared) -> None:
    said = prepared.said
    assert said.is_finished
    assert said.failure is None
    assert {"slurmctld", "slurmd", "munge", "openmpi-bin", "chrony"} <= set(said.missing)
    assert "openssh-server" not in said.missing, "it is in the image"
    assert any(path.endswith(".deb") for path in prepared.asked)
    listed = {line.split()[0]: line.split()[1] for line in said.packages}
    assert set(said.missing) <= set(listed)
    assert said.slurm
    assert listed["slurmctld"].startswith(said.slurm)
    assert said.has_pmix
    assert said.os == "debian"


def test_no_service_starts_before_a_node_has_its_identity(prepared: Prepared) -> None:
    wants = prepared.root / "etc/systemd/system/multi-user.target.wants"
    wanted = {path.name for path in wants.iterdir()}
    assert "ai-how-role.service" in wanted
    later = {"slurmd.service", "slurmctld.service", "munge.service", "ssh.service"}
    later |= {"chrony.service", "chronyd.service", "nfs-server.service"}
    assert wanted & later == set()
    units = prepared.root / "etc/systemd/system"
    for masked in ("systemd-networkd.service", "systemd-resolved.service", "apt-daily.timer"):
        assert (units / masked).readlink() == Path("/dev/null"), masked
    assert not prepared.is_there("usr/sbin/policy-rc.d")


def test_what_would_be_the_same_in_all_nodes_is_gone(prepared: Prepared) -> None:
    gone = (
        *("etc/munge/munge.key", "etc/ssh/ssh_host_ed25519_key", "etc/ssh/ssh_host_rsa_key"),
        *("etc/hostname", "etc/resolv.conf", "var/lib/systemd/random-seed", "var/lib/cloud"),
        *("etc/netplan/90-default.yaml", "root/.ssh", f"home/{USER}", "etc/passwd-"),
        *("etc/initramfs-tools/update-initramfs.conf.ai-how", "etc/ai-how"),
    )
    assert [path for path in gone if prepared.is_there(path)] == []
    assert prepared.text("etc/machine-id") == ""
    assert USER not in prepared.text("etc/passwd") + prepared.text("etc/group")
    assert "update_initramfs=yes" in prepared.text("etc/initramfs-tools/update-initramfs.conf")


def test_a_controller_does_not_mount_what_it_serves(prepared: Prepared) -> None:
    """The generator has what is in /etc/exports mounted before the server starts."""
    generators = sorted((prepared.root / "usr/lib/systemd/system-generators").iterdir())
    [name] = [one.name for one in generators if one.name.startswith("nfs-server")]
    masked = prepared.root / "etc/systemd/system-generators" / name
    assert masked.readlink() == Path("/dev/null")


def test_what_a_node_starts_at_once_can_be_put_in_order(prepared: Prepared) -> None:
    units = "munge slurmctld slurmd nfs-server chrony ai-how-after ai-how-clock ai-how-grow ssh"
    together = prepared.root / "etc/systemd/system/together.service"
    wants = "".join(f"Wants={one}.service\n" for one in units.split())
    together.write_text(f"[Unit]\n{wants}[Service]\nExecStart=/bin/true\n")
    look = ["chroot", prepared.root, "systemd-analyze", "verify", "--man=no", "together.service"]
    done = run(look, check=False)
    together.unlink()
    assert "cycl" not in done.stdout + done.stderr


def test_nothing_of_the_account_that_let_us_in_is_left(prepared: Prepared) -> None:
    done = run(["grep", "-rl", USER, prepared.root / "etc"], check=False)
    assert done.stdout == ""


def test_a_node_starts_without_its_boot_partition(prepared: Prepared) -> None:
    lines = [line.split() for line in prepared.text("etc/fstab").splitlines()]
    options = {words[1]: words[3].split(",") for words in lines}
    assert "nofail" in options["/boot/efi"]
    assert "umask=077" in options["/boot/efi"]
    assert "nofail" not in options["/"]


def test_the_password_of_the_proxy_is_in_no_file(prepared: Prepared) -> None:
    look = ["grep", "-r", "-l", "-a", "-F"]
    assert run([*look, "ai-how", prepared.changed], check=False).stdout, "the look finds something"
    assert run([*look, SENTINEL, prepared.changed], check=False).stdout == ""


def test_it_boots_without_a_menu(prepared: Prepared) -> None:
    assert prepared.called == "update-grub\n"
    settings = prepared.root / "etc/default/grub.d"
    read = f"for one in {settings}/*.cfg; do . $one; done; set"
    told = run(["sh", "-c", read]).stdout
    assert re.search(r"^GRUB_TIMEOUT='?0'?$", told, re.MULTILINE)
    line = re.search(r"^GRUB_CMDLINE_LINUX='(.*)'$", told, re.MULTILINE)
    assert line
    assert "net.ifnames=0" in line[1]
    assert told.count("console=ttyS0") <= 2


def test_what_lacks_is_named_where_nothing_reaches_the_packages(
    stock: StockImage, tmp_path: Path
) -> None:
    with system_of(stock, tmp_path) as (root, _):
        said, done = prepare(tmp_path, root, "http://127.0.0.1:1")
    assert done.returncode == 1
    assert not said.is_finished
    alone = said.explain("pasta is not installed")
    assert alone.brief.endswith("it lacks packages, and VMs have no uplink: pasta is not installed")
    assert "slurmctld" in (alone.details or "")
    other = said.explain(None)
    assert other.brief.endswith("its packages cannot be installed")
    assert "127.0.0.1" in (other.details or ""), "apt says what it could not reach"
    assert other.hint
