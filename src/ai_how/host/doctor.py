"""Everything that can be found out about the host before a start, in one list."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ai_how.host.checks import Check, Status, check_host
from ai_how.host.facts import read_facts
from ai_how.host.kvm import KvmVerdict, kvm_verdict
from ai_how.host.logout import find_end, user_name
from ai_how.host.name_checks import check_names
from ai_how.host.place import Choice, choose_host, saves_for_root
from ai_how.host.running import find_supervisor
from ai_how.host.share_server import find_virtiofsd, install_virtiofsd
from ai_how.host.uefi import INSTALL_UEFI, has_uefi
from ai_how.host.uplink import STARTING, read_uplink
from ai_how.state.paths import Roots


def run_doctor(roots: Roots, *, kind: str, kernel: Path | None = None) -> tuple[Check, ...]:
    """Check the host; the first time after a boot of the host this boots a test guest.

    `kernel` is the kernel of an image: KVM must run guests of that image. The advice has the verbs
    of this `kind` of clusters.
    """
    choice = choose_host()
    facts = read_facts(directories=(roots.state, roots.data, roots.cache))
    facts = replace(facts, host=choice.asked)
    verdict = kvm_verdict(kernel=kernel, cache=roots.kvm_verdict)
    host = find_supervisor(roots.embedded)
    if host:
        trouble = read_uplink(roots.embedded, host)
        no_uplink = None if trouble == STARTING else trouble
        facts = replace(facts, is_embedded_up=True, no_uplink=no_uplink)
    logout = check_logout(Path("/"), kind=kind, supervisor=host.pid if host else None)
    about = (
        check_names(facts),
        check_virtiofsd(Path("/")),
        check_imported_images(Path("/")),
        *check_choice(choice, kind=kind),
        logout,
    )
    return (check_kvm(verdict), *check_host(facts), *about)


def check_choice(choice: Choice, *, kind: str) -> Iterator[Check]:
    """Where new clusters run by default, and what is missing there."""
    status = Status.HINT if choice.advice else Status.OK
    yield Check("host", status, f"auto is {choice.asked}: {choice.why}", choice.advice)
    if why := saves_for_root(choice.asked):
        found = f"{why}, and QEMU's logs as well: nodes always boot"
        yield Check("saved memory", Status.HINT, found, f"ai-how --connect embedded {kind} start")


def check_kvm(verdict: KvmVerdict) -> Check:
    """KVM only affects speed: guests are emulated without it."""
    status = Status.OK if verdict.works else Status.WARNING
    return Check("kvm", status, f"{verdict.why} ({verdict.decided_by})", verdict.remedy)


def check_virtiofsd(root: Path) -> Check:
    """Only nodes that share directories of the host need it."""
    if program := find_virtiofsd(root):
        return Check("virtiofsd", Status.OK, str(program))
    found = "not installed: nodes cannot have virtio_fs_mounts"
    return Check("virtiofsd", Status.HINT, found, install_virtiofsd(root))


def check_imported_images(root: Path) -> Check:
    """Whether cloud images of others can boot here, as far as that is known."""
    tested = "Debian 12 and 13 are tested; Ubuntu, AlmaLinux and Rocky Linux are not"
    if has_uefi(root):
        return Check("images of others", Status.OK, tested)
    found = f"by BIOS only: there is no UEFI firmware for VMs. {tested}"
    return Check("images of others", Status.HINT, found, INSTALL_UEFI)


def check_logout(root: Path, *, kind: str, supervisor: int | None = None) -> Check:
    """Whether clusters on the embedded host survive a logout; `supervisor` is a running host's."""
    why = find_end(root, pid=supervisor)
    if why is None:
        return Check("logout", Status.OK, "clusters on the embedded host keep running")
    advice = f"sudo loginctl enable-linger {user_name()}"
    if supervisor:
        advice = f"{advice} && ai-how {kind} stop && ai-how host down && ai-how {kind} start"
    return Check("logout", Status.WARNING, why, advice)
