"""Healing: what is planned, what each act does, the bound, the log, and what stops it."""

import json
import os
import signal
import stat
import threading
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from ai_how.errors import GuestError, HostError, LockedError
from ai_how.hpc import healing as slurm
from ai_how.hpc.kind import SLURM
from ai_how.hpc.manager import HpcManager
from ai_how.libvirt_client.vm_state import VmState
from ai_how.monitoring.heal_log import (
    BEGUN,
    DONE,
    KEPT_LINES,
    LARGEST_BYTES,
    HealLog,
    HealRecord,
)
from ai_how.monitoring.healing import Hands, Mend, heal, plan_healing
from ai_how.monitoring.health import mends_of
from ai_how.monitoring.model import Finding
from ai_how.state.cluster_state import write_state
from ai_how.state.lock import held_lock
from ai_how.state.paths import Roots, ensure_private_directory
from cluster_bench import draft_of, read_hpc
from local_agent import LocalAgent

NODE = "compute-01"
NOW = 1_800_000_000.0
MENDS = mends_of(SLURM)


def finding(name: str, *, subject: str = NODE, heals: bool = True, **more: Any) -> Finding:
    return Finding(
        id=name, severity="critical", subject=subject, text="x", since=NOW, heals=heals, **more
    )


def record(at: float, *, word: str = BEGUN, name: str = "munge-down") -> HealRecord:
    return HealRecord(at=at, id=name, subject=NODE, what="start munge", word=word)


@pytest.fixture
def cluster(tmp_path):
    roots = Roots(state=tmp_path / "s", data=tmp_path / "d", cache=tmp_path / "c")
    made = HpcManager(roots=roots, name="demo")
    ensure_private_directory(made.paths.root)
    state = draft_of(read_hpc(name="demo"), storage=tmp_path / "storage").state
    write_state(made.paths, state.model_copy(update={"host_uri": "test:///default"}))
    return made


class Line:
    """A client that is only asked for the names of nodes."""

    def learn(self, uuid: object, name: str) -> None:
        pass


def run(cluster: HpcManager, acts: dict[str, Any], *names: str, **how: Any) -> list[Any]:
    """Heal findings of these names by these acts."""
    mends = {
        name: Mend(0, lambda _one: "mend it", lambda _one, a=act: a) for name, act in acts.items()
    }
    planned = plan_healing([finding(name) for name in names], mends, resumes_paused=False)
    done = heal(
        cluster, planned, clock=lambda: NOW, open_client=lambda _place: nullcontext(Line()), **how
    )
    return [(one.id, one.outcome) for one in done]


def words(cluster: HpcManager) -> list[tuple[str, str]]:
    return [(one.id, one.word) for one in HealLog(cluster.paths.heals).read()]


def test_what_a_user_drained_is_never_planned():
    drained = finding("node-out-of-service", heals=False)
    assert plan_healing([drained], MENDS, resumes_paused=True) == []


def test_a_vm_that_was_paused_by_hand_is_resumed_only_if_that_is_asked_for():
    paused = finding("vm-paused", heals=False)
    assert plan_healing([paused], MENDS, resumes_paused=False) == []
    [one] = plan_healing([paused], MENDS, resumes_paused=True)
    assert one.what == f"resume the VM of {NODE}"


def test_what_others_depend_on_is_mended_first():
    names = ["node-out-of-service", "slurmd-down", "munge-down", "nfs-down", "disk-io-error"]
    planned = plan_healing([finding(name) for name in names], MENDS, resumes_paused=False)
    found = [one.finding.id for one in planned]
    assert found == [
        "disk-io-error",
        "munge-down",
        "nfs-down",
        "slurmd-down",
        "node-out-of-service",
    ]


def test_an_act_is_logged_before_and_after(cluster):
    seen = []
    assert run(
        cluster, {"munge-down": lambda _hands: seen.extend(words(cluster))}, "munge-down"
    ) == [("munge-down", "done")]
    assert seen == [("munge-down", BEGUN)]
    assert words(cluster) == [("munge-down", BEGUN), ("munge-down", DONE)]
    assert stat.S_IMODE(cluster.paths.heals.stat().st_mode) == 0o600


def test_the_first_act_that_fails_is_the_last(cluster):
    def fail(_hands: Hands) -> None:
        raise GuestError("it did not help")

    acts = {"munge-down": fail, "slurmd-down": lambda _hands: None}
    assert run(cluster, acts, "munge-down", "slurmd-down") == [("munge-down", "failed")]
    assert words(cluster)[-1] == ("munge-down", "failed")
    assert HealLog(cluster.paths.heals).read()[-1].error == "it did not help"


def test_a_finding_is_mended_three_times_an_hour_and_others_go_on(cluster):
    acts = {"munge-down": lambda _hands: None, "slurmd-down": lambda _hands: None}
    for _ in range(3):
        assert run(cluster, acts, "munge-down") == [("munge-down", "done")]
    assert run(cluster, acts, "munge-down", "slurmd-down") == [
        ("munge-down", "left"),
        ("slurmd-down", "done"),
    ]
    assert run(cluster, acts, "munge-down", dry_run=True) == [("munge-down", "left")]


def test_a_killed_act_counts_and_an_old_one_does_not(tmp_path):
    log = HealLog(tmp_path / "heals.jsonl")
    for at in (NOW - 4000, NOW - 100, NOW + 900):
        log.write(record(at))
    log.write(record(NOW - 50, word=DONE))
    log.write(record(NOW - 50, name="slurmd-down"))
    assert log.recent("munge-down", NODE, NOW) == 2
    assert log.recent("munge-down", "compute-02", NOW) == 0


def test_a_dry_run_changes_nothing(cluster):
    def never(_hands: Hands) -> None:
        raise AssertionError

    assert run(cluster, {"munge-down": never}, "munge-down", dry_run=True) == [
        ("munge-down", "planned")
    ]
    assert not cluster.paths.heals.exists()


def test_nothing_is_healed_beside_another_run_nor_after_one_that_was_cut_short(cluster):
    acts = {"munge-down": lambda _hands: None}
    with held_lock(cluster.paths.lock, doing="hpc start"), pytest.raises(LockedError):
        run(cluster, acts, "munge-down")
    cluster.paths.journal.write_text("{}\n")
    with pytest.raises(HostError, match="cut short") as caught:
        run(cluster, acts, "munge-down")
    assert caught.value.hint == "ai-how hpc start"
    assert not cluster.paths.heals.exists()


def test_a_line_that_was_cut_short_swallows_no_other(tmp_path):
    path = tmp_path / "heals.jsonl"
    log = HealLog(path)
    log.write(record(NOW))
    path.write_bytes(path.read_bytes() + b'{"at": 1')
    log.write(record(NOW + 1))
    assert [one.at for one in log.read()] == [NOW, NOW + 1]
    path.write_bytes(b"\xff\xfe\n[]\n7\n" + path.read_bytes())
    assert [one.at for one in log.read()] == [NOW, NOW + 1]


def test_the_log_does_not_grow_for_ever(tmp_path):
    path = tmp_path / "heals.jsonl"
    line = json.dumps(vars_of(record(NOW))).encode() + b"\n"
    path.write_bytes(line * (LARGEST_BYTES // len(line) + 2))
    log = HealLog(path)
    log.write(record(NOW + 1))
    assert len(log.read()) == KEPT_LINES + 1
    assert log.recent("munge-down", NODE, NOW) > 3


def vars_of(one: HealRecord) -> dict[str, object]:
    return {name: getattr(one, name) for name in one.__dataclass_fields__}


# The acts, with scripts that run here and programs that only say what they would have done


class Guest(LocalAgent):
    """A guest with a systemd, a SLURM and a chronicle of what was called, in a directory."""

    def __init__(self, directory) -> None:
        bin_ = directory / "bin"
        bin_.mkdir()
        self.calls = directory / "calls"
        self.units = directory / "units"
        self.units.mkdir()
        self.said = directory / "sinfo"
        programs = {
            "systemctl": SYSTEMCTL.format(units=self.units, calls=self.calls),
            "sinfo": f"#!/bin/sh\ncat {self.said}\n",
            "scontrol": f'#!/bin/sh\necho "scontrol $*" >> {self.calls}\n'
            f"echo 'idle|Unknown|none' > {self.said}\n",
        }
        for name, text in programs.items():
            (bin_ / name).write_text(text)
            (bin_ / name).chmod(0o755)
        super().__init__(env={**os.environ, "PATH": f"{bin_}:{os.environ['PATH']}"})

    def guest_exec(
        self, path: str, arg: list[str], capture_output: bool, input_data: str = ""
    ) -> Any:
        return super().guest_exec(path, arg, capture_output, input_data)

    def called(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []


SYSTEMCTL = """\
#!/bin/sh
echo "systemctl $*" >> {calls}
case $1 in
is-active) [ -e {units}/$3 ] ;;
start)
    [ ! -e {units}/$2.broken ] || {{ echo "Job for $2 failed" >&2; exit 1; }}
    touch {units}/$2
    ;;
esac
"""


@pytest.fixture
def guest(tmp_path):
    made = Guest(tmp_path)
    yield made
    made.end()


def hands_of(guest: Guest) -> Hands:
    state = draft_of(read_hpc(name="demo")).state
    return Hands(state, guest)  # type: ignore[arg-type]  only its agents are asked


def act(guest: Guest, one: Finding) -> None:
    MENDS[one.id].act(one)(hands_of(guest))


def test_a_service_that_is_dead_is_started(guest):
    act(guest, finding("munge-down", evidence=("munge: failed",)))
    assert guest.called() == [
        "systemctl is-active --quiet munge",
        "systemctl reset-failed munge",
        "systemctl start munge",
        "systemctl is-active --quiet munge",
    ]


def test_a_service_that_came_back_by_itself_is_not_disturbed(guest):
    (guest.units / "slurmd").touch()
    act(guest, finding("slurmd-down", evidence=("slurmd: inactive",)))
    assert guest.called() == ["systemctl is-active --quiet slurmd"]


def test_a_service_that_does_not_start_is_a_failure_with_its_words(guest):
    (guest.units / "munge.broken").touch()
    with pytest.raises(GuestError, match=r"on compute-01: Job for munge failed"):
        act(guest, finding("munge-down", evidence=("munge: failed",)))


def test_only_services_that_the_finding_is_about_are_started(guest):
    one = finding("clock-unkept", evidence=("chrony: failed", "x; reboot: failed"))
    assert MENDS[one.id].what(one) == "start chrony on compute-01"
    act(guest, one)
    assert not [line for line in guest.called() if "reboot" in line or "clock" in line]


def test_a_node_that_slurm_took_out_of_service_is_brought_back(guest):
    guest.said.write_text("drained|slurm|Kill task failed\n")
    act(guest, finding("node-out-of-service"))
    assert guest.called() == [f"scontrol update nodename={NODE} state=resume"]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("drained|alice|fan is broken\n", "by alice: it is left so"),
        ("down|root|fan is broken\n", "by root: it is left so"),
        ("drained|slurm|fan is broken : Not responding\n", "it is left so"),
        ("down*|slurm|Not responding\n", "SLURM gets no answer"),
    ],
)
def test_a_node_that_a_user_drained_meanwhile_is_left_alone(guest, said, why):
    guest.said.write_text(said)
    with pytest.raises(GuestError, match=why):
        act(guest, finding("node-out-of-service"))
    assert guest.called() == []


def test_a_node_that_is_back_already_is_not_touched(guest):
    guest.said.write_text("idle|Unknown|none\n")
    act(guest, finding("node-out-of-service"))
    act(guest, finding("node-not-registered"))
    assert guest.called() == []


@pytest.mark.parametrize(
    ("text", "states", "user", "reason"),
    [
        ("down*|slurm|Not responding", ("down", "not_responding"), "slurm", "Not responding"),
        ("idle|Unknown|none", ("idle",), None, None),
        ("drained~|root|a|b", ("drained",), "root", "a|b"),
    ],
)
def test_what_sinfo_says_of_a_node(text, states, user, reason):
    seen = slurm.read_node(NODE, text)
    assert seen
    assert (seen.states, seen.reason_user, seen.reason) == (states, user, reason)
    assert slurm.read_node(NODE, "") is None


class Paused:
    """A libvirt with one VM that is paused; it runs when it is resumed, or is paused again."""

    def __init__(self, *, by_disk: bool, stays: bool = True) -> None:
        self.resumed = 0
        self.stays = stays
        self.seen = SimpleNamespace(
            state=VmState.PAUSED, waits_for_disk=by_disk, reason_text="I/O error"
        )

    def get_domain(self, _uuid: object) -> SimpleNamespace:
        return self.seen

    def resume_domain(self, _uuid: object) -> None:
        self.resumed += 1
        if self.stays:
            self.seen.state = VmState.RUNNING


def resume(name: str, client: Paused) -> None:
    one = finding(name)
    state = draft_of(read_hpc(name="demo")).state
    MENDS[name].act(one)(Hands(state, client))  # type: ignore[arg-type]  two methods are used


def test_a_vm_that_waits_for_its_disk_is_resumed():
    client = Paused(by_disk=True)
    resume("disk-io-error", client)
    assert client.resumed == 1


def test_a_vm_that_is_paused_again_at_once_is_a_failure():
    with pytest.raises(GuestError, match="paused again at once"):
        resume("disk-io-error", Paused(by_disk=True, stays=False))


@pytest.mark.parametrize(("name", "by_disk"), [("disk-io-error", False), ("vm-paused", True)])
def test_a_vm_that_is_paused_for_another_reason_by_now_is_left_alone(name, by_disk):
    client = Paused(by_disk=by_disk)
    resume(name, client)
    assert client.resumed == 0


def test_every_mend_is_of_an_id_that_exists():
    assert set(MENDS) <= set(SLURM.health().catalogue)
    assert replace(finding("munge-down"), heals=False)


@pytest.mark.fault("M05", "SIGKILL while an act of healing is under way")
def test_a_heal_that_is_killed_leaves_nothing_half_done(cluster):
    """The lock is free, the act counts, and the next heal does it again."""
    ours, theirs = os.pipe()
    if (child := os.fork()) == 0:

        def hang(_hands: Hands) -> None:
            os.write(theirs, b"!")
            threading.Event().wait(60)

        try:
            run(cluster, {"munge-down": hang}, "munge-down")
        finally:
            os._exit(1)
    assert os.read(ours, 1) == b"!"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    for end in (ours, theirs):
        os.close(end)
    assert words(cluster) == [("munge-down", BEGUN)]
    log = HealLog(cluster.paths.heals)
    assert log.recent("munge-down", NODE, NOW) == 1
    assert run(cluster, {"munge-down": lambda _hands: None}, "munge-down") == [
        ("munge-down", "done")
    ]
    assert words(cluster)[1:] == [("munge-down", BEGUN), ("munge-down", DONE)]
