"""`hpc run`, the whole program, hit at each frame that it and the controller exchange.

Its ssh is a relay that runs the real other end here; SLURM's commands are small scripts.
"""

import json
import os
import secrets
import shlex
import subprocess  # noqa: TID251  the program is killed while it runs
import sys
import time
from pathlib import Path

import pytest
from cli_runner import GOOD, Cli
from test_run_from_here import TOOLS
from test_state_models import cluster_state

from ai_how.state.cluster_state import write_state
from ai_how.state.paths import ensure_private_directory
from ledger import Points

RELAY = Path(__file__).parents[1] / "frame_relay.py"
JOB = "echo begun; sleep 0.5; cat a > made; mkdir -p deep; echo deep > deep/made; echo over"
NEVER = 10_000
# A command that begins in a copy of its directory on a small disk, in a mount namespace of its own.
AS_ROOT = [] if os.getuid() == 0 else ["--user", "--map-root-user"]
MOUNT = (
    'cp -a "$0" "$0.kept" && mount -t tmpfs -o size=64k none "$0" && cp -a "$0.kept/." "$0"'
    ' && rm -r "$0.kept" && cd "$0" && exec "$@"'
)
SMALL = ["unshare", *AS_ROOT, "--mount", "sh", "-c", MOUNT]
END_S = 120


class Whole:
    """A user's directory, the home of a controller, and the program between them."""

    def __init__(self, cli: Cli) -> None:
        paths = cli.roots.cluster("demo")
        ensure_private_directory(paths.root)
        write_state(paths, cluster_state())
        self.cli, self.mark = cli, secrets.token_hex(8)
        self.file = cli.write("cluster.yaml", GOOD)
        self.here, self.guest, self.tools = (cli.home / one for one in ("here", "guest", "tools"))
        for directory in (self.here, self.guest, self.tools):
            directory.mkdir()
        self.log = cli.home / "frames"
        (self.here / "a").write_text("a\n")
        (self.here / "b").write_text("b\n")
        for name, text in TOOLS.items():
            self._tool(name, text)

    def _tool(self, name: str, text: str) -> None:
        (self.tools / name).write_text(text)
        (self.tools / name).chmod(0o755)

    def run(
        self, *words: str, point: int = NEVER, action: str = "cut", is_small: bool = False
    ) -> tuple[int, str, str]:
        """Run it, with the action at that frame; its exit code, output and errors.

        With `is_small` the directory is on a disk of its own, which has room for some files.
        """
        relay = shlex.join([sys.executable, str(RELAY), str(self.log), str(point), action])
        self._tool(
            "ssh",
            '#!/bin/sh\nuntil [ "$1" = -- ]; do shift; done; shift 2\n'
            f'HOME={shlex.quote(str(self.guest))} exec {relay} "$*"\n',
        )
        self.log.write_text("")
        (self.tools / "cancelled").unlink(missing_ok=True)
        env = {
            **os.environ,
            "PATH": f"{self.tools}:{os.environ['PATH']}",
            "TOOLS": str(self.tools),
            "AI_HOW_TEST": self.mark,
        }
        argv = [sys.executable, "-m", "ai_how", "-c", str(self.file), "hpc", "run", *words]
        if is_small:
            argv = [*SMALL, str(self.here), *argv]
        done = subprocess.run(  # noqa: S603
            argv,
            cwd=self.here,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert "this is a bug" not in done.stderr, done.stderr
        return done.returncode, done.stdout, done.stderr

    def frames(self) -> list[str]:
        return self.log.read_text().split()

    def left(self) -> list[str]:
        """The command lines of processes of ours, and of the job's, that have not ended."""
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            try:
                if self.mark.encode() in (place / "environ").read_bytes():
                    found.append((place / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue
        return found

    def wait_until_nothing_runs(self) -> None:
        until = time.monotonic() + END_S
        while left := self.left():
            assert time.monotonic() < until, left
            time.sleep(0.05)

    def jobs(self) -> list[str]:
        """The jobs that the controller keeps; nothing else is where they are kept."""
        kept = list((self.guest / ".ai-how" / "jobs").glob("*"))
        found = [json.loads((one / "about").read_text())["job"] for one in kept]
        links = [one.name for one in (self.guest / ".ai-how").glob("job-*")]
        assert sorted(links) == sorted(f"job-{job}" for job in found)
        return found

    def require_nothing_left(self) -> None:
        self.wait_until_nothing_runs()
        self.jobs()
        assert list(self.here.rglob(".ai-how*")) == []
        assert list(self.guest.rglob("*.part")) == []

    def reset(self) -> None:
        for name in ("made", "deep/made"):
            (self.here / name).unlink(missing_ok=True)


@pytest.fixture
def whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Whole:
    return Whole(Cli(tmp_path, monkeypatch, capsys))


def points_of(whole: Whole, is_long: bool) -> list[tuple[int, str]]:
    """The frames of a run that nothing disturbs, or where the most is at stake."""
    for text in ("first\n", "second\n"):  # only the first one sends `b` as well
        whole.reset()
        (whole.here / "a").write_text(text)
        code, out, err = whole.run("--", "sh", "-c", JOB)
        assert (code, out) == (0, "begun\nover\n"), err
    assert (whole.here / "deep" / "made").read_text() == "deep\n"
    found = list(enumerate(whole.frames()))
    kinds = {kind: number for number, kind in found}
    assert {">q", ">m", "<w", ">c", "<j", ">k", "<o", "<d", "<r", ">g", "<c"} <= set(kinds)
    return found if is_long else [(kinds[kind], kind) for kind in (">c", "<j", ">g")]


@pytest.mark.fault("J02", "SIGINT and SIGTERM to the program at each frame")
def test_a_signal_at_any_frame_cancels_the_job_or_leaves_its_files(
    whole: Whole, is_long: bool, points: Points
) -> None:
    asked = points_of(whole, is_long)
    points(len(asked))
    for number, _ in asked:
        whole.reset()
        (whole.here / "a").write_text(f"at {number}\n")
        signal_name = ("SIGINT", "SIGTERM")[number % 2]
        code, _, err = whole.run("--", "sh", "-c", JOB, point=number, action=signal_name)
        whole.require_nothing_left()
        kind = whole.frames()[number]
        seen = (number, kind, whole.frames(), err)
        # With the news that it is over may come that it was cancelled, or not any more.
        assert code == 130 or (code == 0 and (whole.here / "made").exists()), seen
        if kind in ("<w", ">c"):
            assert "interrupted" in err, seen
        if kind in ("<r", ">g") and code == 130:
            assert "not all of its files have come" in err, seen
            job = err.rpartition("--attach ")[2].split()[0]
            assert whole.run("--attach", job)[0] == 0
            assert (whole.here / "made").read_text() == f"at {number}\n"
    assert whole.run("--", "sh", "-c", JOB)[:2] == (0, "begun\nover\n")


@pytest.mark.fault("J01", "SIGKILL to the program at each frame, and a lost connection")
@pytest.mark.parametrize("action", ["SIGKILL", pytest.param("cut", marks=pytest.mark.long)])
def test_a_kill_or_a_lost_connection_at_any_frame_loses_no_job_and_leaves_nothing(
    whole: Whole, is_long: bool, points: Points, action: str
) -> None:
    asked = points_of(whole, is_long)
    points(len(asked))
    for number, _ in asked:
        whole.reset()
        (whole.here / "a").write_text(f"{action} at {number}\n")
        before = set(whole.jobs())
        code, _, err = whole.run("--", "sh", "-c", JOB, point=number, action=action)
        kind = whole.frames()[number]
        seen = (number, kind, whole.frames(), code, err)
        assert code == (-9 if action == "SIGKILL" else 3), seen
        whole.wait_until_nothing_runs()
        [*new] = set(whole.jobs()) - before
        was_cancelled = (whole.tools / "cancelled").exists()
        if was_cancelled or not new:
            # Nobody had learned its number.
            assert kind in (">q", ">m", "<w", ">c", "<j", ">k"), seen
        else:
            code, out, err = whole.run("--attach", new[0])
            assert (code, out) == (0, "begun\nover\n"), (seen, err)
            assert (whole.here / "made").read_text() == f"{action} at {number}\n", seen
    assert whole.run("--", "sh", "-c", JOB)[:2] == (0, "begun\nover\n")
    whole.require_nothing_left()


@pytest.mark.fault("J03", "files are removed here, and there, in the middle of their copy")
def test_files_that_vanish_while_they_are_copied_are_left_out(whole: Whole) -> None:
    (whole.here / "deep").mkdir()
    (whole.here / "deep" / "c").write_text("c\n")
    remove = f"rm -r {shlex.quote(str(whole.here))}/b {shlex.quote(str(whole.here))}/deep"
    shown = json.loads(whole.run("--json", "--", "ls", point=2, action=remove)[1])
    assert whole.frames()[2] == "<w"
    assert (shown["sent"], shown["output"], shown["received"]) == (["a"], "a\ndeep\n", []), shown
    shape = points_of(whole, is_long=True)
    [point] = [at for at, kind in shape if kind == ">g"]
    whole.reset()
    (whole.here / "a").write_text("other\n")
    there = shlex.quote(str(whole.guest / "run"))
    shown = json.loads(
        whole.run("--json", "--", "sh", "-c", JOB, point=point, action=f"rm {there}/*/made")[1]
    )
    assert (shown["exit_code"], shown["received"]) == (0, ["deep/made"]), shown
    assert not (whole.here / "made").exists()


@pytest.mark.fault("J03", "no room, no right to write, or a limit here when the results come")
@pytest.mark.parametrize(
    ("action", "said"),
    [
        ("cat /dev/zero > filler || true", "No space left on device"),
        pytest.param("mount -o remount,ro .", "Read-only file system", marks=pytest.mark.long),
        pytest.param(
            "prlimit --pid $(ps -o ppid= -p $PPID | tr -d ' ') --fsize=1:1",
            "File too large",
            marks=pytest.mark.long,
        ),
    ],
)
def test_results_that_cannot_be_written_are_told_with_the_way_to_have_them(
    whole: Whole, action: str, said: str
) -> None:
    shape = points_of(whole, is_long=True)
    [point] = [at for at, kind in shape if kind == "<r"]
    (whole.here / "a").write_text("other\n")
    code, out, err = whole.run(
        "--", "sh", "-c", JOB, point=point, action=f"cd {whole.here}; {action}", is_small=True
    )
    assert (code, out) == (3, "begun\nover\n"), err
    assert "is over, but not all of its files can be written here" in err
    assert f"{whole.here / 'deep' / 'made'}: {said}" in err or f"{whole.here}/deep: {said}" in err
    assert not list(whole.here.rglob(".ai-how*"))
    job = err.rpartition("--attach ")[2].split()[0]
    whole.reset()
    assert whole.run("--attach", job)[0] == 0
    assert (whole.here / "made").read_text() == "other\n"
