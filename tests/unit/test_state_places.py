"""The state's directory is read-only, full, a link, another's or open to all."""

import os
import shlex
import shutil
import stat
import sys
from pathlib import Path
from uuid import uuid4

import pytest
from test_state_models import cluster_state

from ai_how.errors import HostError, StateError
from ai_how.hpc.manager import HpcManager
from ai_how.plan.journal import Journal
from ai_how.process import run
from ai_how.state import files
from ai_how.state.cluster_state import read_state, render_state, restore_state, write_state
from ai_how.state.lock import held_lock
from ai_how.state.paths import ClusterPaths, Roots, default_roots, ensure_private_directory
from savers import written

STATE = cluster_state()
TEST_HOST = f"test://{Path(__file__).resolve().parents[1] / 'driver' / 'test_node.xml'}"

# Tries all that the state's room writes, and says how each ended.
WRITER = """
import sys
from pathlib import Path
from uuid import UUID
from ai_how.errors import AiHowError
from ai_how.plan.journal import Journal
from ai_how.state.cluster_state import read_state, remove_state, restore_state, write_state
from ai_how.state.lock import held_lock
from ai_how.state.paths import ClusterPaths, ensure_private_directory

paths = ClusterPaths(Path(sys.argv[1]))

def lock():
    with held_lock(paths.lock, doing="hpc start"):
        pass

def journal():
    Journal.create(paths.journal, verb="start", op_id=UUID(int=1), cluster="demo", note={})

acts = {
    "directory": lambda: ensure_private_directory(paths.ssh),
    "lock": lock,
    "save": lambda: write_state(paths, read_state(paths)),
    "restore": lambda: restore_state(paths, 1),
    "removal": lambda: remove_state(paths),
    "journal": journal,
    "read": lambda: read_state(paths).serial,
}
for name in sys.argv[2:]:
    try:
        answer = acts[name]()
    except AiHowError as error:
        print(name, type(error).__name__, error.brief, "|", error.hint)
    else:
        print(name, answer if name == "read" else "done")
"""


def run_on(mount: str, root: Path, *acts: str) -> list[str]:
    """Try these on a directory (`$2`) over which something is mounted, where only they see it."""
    as_user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    script = f'set -e; {mount}; exec "$0" -c "$@"'
    done = run(
        ["unshare", *as_user, "--mount", "sh", "-c", script, sys.executable, WRITER, root, *acts],
        env={"PYTHONPATH": os.pathsep.join(sys.path)},
        timeout_s=300,
    )
    return done.stdout.splitlines()


@pytest.fixture
def paths(tmp_path) -> ClusterPaths:
    """A cluster with two backups."""
    return written(tmp_path, STATE, 3)


@pytest.mark.fault("F17", "the directory mounted read-only")
def test_a_read_only_directory_is_told_and_what_it_holds_is_read(paths, points):
    before = paths.state.read_bytes()
    acts = ("directory", "lock", "save", "restore", "removal", "journal")
    told = run_on('mount --bind "$2" "$2"; mount -o remount,bind,ro "$2"', paths.root, *acts)
    assert [line.split()[:2] for line in told] == [
        ["directory", "HostError"],
        ["lock", "HostError"],
        ["save", "StateError"],
        ["restore", "StateError"],
        ["removal", "StateError"],
        ["journal", "StateError"],
    ]
    assert [line for line in told if "Read-only file system" not in line] == []
    assert paths.state.read_bytes() == before
    points(len(acts))


@pytest.mark.fault("F47", "the state and the journal on a tmpfs without space")
@pytest.mark.fault("F13", "a tmpfs without space")
def test_a_full_disk_is_told_and_the_state_on_it_is_whole(paths):
    shutil.copytree(paths.root, f"{paths.root}.copy")
    mount = (
        'mount -t tmpfs -o size=64k tmpfs "$2"; cp -a "$2.copy/." "$2";'
        ' cat /dev/zero >"$2/filler" 2>/dev/null || true'
    )
    told = run_on(mount, paths.root, "save", "journal", "read", "lock")
    for name, line in zip(("save", "journal"), told, strict=False):
        assert line.startswith(f"{name} StateError")
        assert line.endswith(f"No space left on device | df -h {paths.root}")
    assert told[2:] == ["read 3", "lock done"]


@pytest.fixture
def roots(tmp_path, monkeypatch) -> Roots:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return default_roots(ensure_private_directory(tmp_path / "state"))


def manager_of(roots: Roots, said: list[str] | None = None) -> HpcManager:
    warn = (said if said is not None else []).append
    return HpcManager(roots=roots, name="demo", connect=TEST_HOST, warn=warn)


HERE = STATE.model_copy(update={"host_uri": TEST_HOST})


@pytest.mark.fault("F17", "a link in the directory's place")
@pytest.mark.fault("S19", "a link in the directory's place")
@pytest.mark.parametrize("verb", ["stop", "destroy"])
def test_nothing_is_changed_through_a_link_to_another_directory(roots, tmp_path, verb):
    elsewhere = written(ensure_private_directory(tmp_path / "elsewhere"), HERE, 2)
    before = {path: path.stat().st_mtime_ns for path in elsewhere.root.rglob("*")}
    (roots.state / "demo").symlink_to(elsewhere.root)
    with pytest.raises(HostError, match="demo is not a directory") as refused:
        getattr(manager_of(roots), verb)()
    assert refused.value.hint == f"ls -ld {roots.state / 'demo'}"
    assert {path: path.stat().st_mtime_ns for path in elsewhere.root.rglob("*")} == before


@pytest.mark.fault("F17", "a directory of another user's")
def test_another_users_directory_is_not_used(tmp_path):
    path = tmp_path / "demo"
    if os.geteuid() == 0:
        path.mkdir()
        os.chown(path, 65534, 65534)
    else:
        path = Path("/usr")
    with pytest.raises(HostError, match=f"{path} belongs to another user") as refused:
        ensure_private_directory(path)
    assert refused.value.hint == f"ls -ld {path}"
    with (
        pytest.raises(HostError, match="belongs to another user"),
        held_lock(path / "lock", doing="hpc start"),
    ):
        pass
    assert not (path / "lock").exists()


@pytest.mark.fault("F17", "a directory that is open to all")
@pytest.mark.fault("S13", "a directory that is open to all")
def test_a_directory_that_was_open_is_ours_alone_from_the_next_command_on(roots):
    paths = written(roots.state, HERE, 2)
    for directory in (roots.state, paths.root, paths.backups):
        directory.chmod(0o777)
    manager_of(roots).stop()
    write_state(paths, read_state(paths) or HERE)
    for directory in (roots.state, paths.root, paths.backups):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


@pytest.mark.fault("S13", "all that the state's room writes, under umask 000 and 077")
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_what_is_remembered_is_for_us_alone_under_any_umask(tmp_path, umask, points):
    former = os.umask(umask)
    try:
        paths = written(tmp_path / "state", STATE, 3)
        restore_state(paths, 1)
        with held_lock(paths.lock, doing="hpc start"):
            Journal.create(paths.journal, verb="start", op_id=uuid4(), cluster="demo", note={})
            modes = {path: stat.S_IMODE(path.stat().st_mode) for path in paths.root.rglob("*")}
    finally:
        os.umask(former)
    assert {"lock", "journal.jsonl", "state.json", "3.json"} <= {path.name for path in modes}
    assert {p: m for p, m in modes.items() if m != (0o700 if p.is_dir() else 0o600)} == {}
    assert stat.S_IMODE(paths.root.stat().st_mode) == 0o700
    assert not paths.root.parent.stat().st_mode & 0o022
    points(len(modes))


@pytest.mark.fault("S18", "a link where the draft of the state would be, its name guessed")
@pytest.mark.parametrize("when", ["before", "in between"])
def test_a_draft_is_never_written_through_a_link(paths, tmp_path, monkeypatch, when):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    guessed = paths.root / ".state.json.0badcafe.draft"
    monkeypatch.setattr(files.secrets, "token_hex", lambda _bytes: "0badcafe")
    state = read_state(paths)
    assert state is not None
    if when == "before":
        guessed.symlink_to(victim)
        assert write_state(paths, state).serial == 4
    else:
        sweep = files.sweep_drafts
        monkeypatch.setattr(
            files, "sweep_drafts", lambda path: (sweep(path), guessed.symlink_to(victim))
        )
        with pytest.raises(StateError, match="could not be written: File exists"):
            write_state(paths, state)
        assert read_state(paths) == state
    assert victim.read_text() == "precious"


@pytest.mark.fault("F16", "the state of another cluster in its place")
def test_a_state_that_was_copied_from_a_neighbour_harms_nobody(roots):
    paths = written(roots.state, HERE, 2)
    neighbour = HERE.model_copy(update={"name": "neighbour", "lineage": uuid4()})
    paths.state.write_text(render_state(neighbour))
    with pytest.raises(StateError, match="belongs to another cluster") as refused:
        manager_of(roots).destroy()
    assert refused.value.details == "It is the state of neighbour, not of demo."
    run(shlex.split(refused.value.hint))
    assert manager_of(roots).get_state().serial == 1


@pytest.mark.fault("F16", "a backup put in the state's place while a journal is there")
def test_a_start_is_undone_also_where_an_older_state_was_put_back(roots):
    paths, said = written(roots.state, HERE, 2), []
    note = {"cluster_id": str(HERE.lineage), "serial": 2, "host": TEST_HOST}
    Journal.create(
        paths.journal, verb="start", op_id=uuid4(), cluster="demo", note=note
    ).close_file()
    run(["install", "-m", "600", paths.backups / "1.json", paths.state])
    manager_of(roots, said).stop()
    assert said[0].startswith("undoing the start that was cut short")
    assert not paths.journal.exists()


@pytest.mark.fault("F15", "a journal of 100 MB, a pipe in its place")
@pytest.mark.parametrize("what", ["zeros", "pipe"])
def test_a_journal_that_is_none_does_not_hold_us_up(paths, what):
    if what == "pipe":
        os.mkfifo(paths.journal)
    else:
        with paths.journal.open("wb") as file:
            file.truncate(100 * 1024 * 1024)
    assert Journal.read(paths.journal, {}) is None


@pytest.mark.fault("F15", "a pipe in the state's place")
def test_a_pipe_in_the_states_place_does_not_hold_us_up(paths):
    paths.state.unlink()
    os.mkfifo(paths.state)
    with pytest.raises(StateError, match="is damaged"):
        read_state(paths)
