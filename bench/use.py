"""What one does with a cluster that is up, by ai-how and by hand: the same work, alternated."""

import json
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from figures import BenchError, Compared, Results
from running import AI_HOW, Bench, say, users_environment

CLUSTER, OTHER = "used", "by-hand"
NODES = ("controller", "compute-01", "compute-02")
FILE = """version: "1.0"
host: {{uri: embedded}}
clusters:
  hpc:
    name: {name}
    controller: {{cpu_cores: 1, memory_gb: 1, disk_gb: 10}}
    compute_nodes: {{count: 2, cpu_cores: 1, memory_gb: 1, disk_gb: 10}}
"""
# Of what takes a moment, seconds, or a minute.
REPEATS, SOME, FEW = 5, 3, 2
MIB = 8
FILES, FILE_BYTES = 2000, 1024
TASKS, TESTS = 5, 20
PLAYBOOK = "- hosts: all\n  gather_facts: false\n  tasks:\n" + TASKS * (
    '    - ansible.builtin.command: "true"\n'
)
OUR_TESTS = f"""import pytest

@pytest.mark.parametrize("number", range({TESTS}))
def test_a_job(slurm_cluster, number):
    done = slurm_cluster.run(["srun", "echo", str(number)], check=True)
    assert done.stdout == f"{{number}}\\n"
"""
TESTS_BY_HAND = f"""import subprocess

import pytest

@pytest.fixture(scope="session")
def srun():
    def run(line):
        argv = ["ssh", "-F", {{config!r}}, "controller", "srun " + line]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    return run

@pytest.mark.parametrize("number", range({TESTS}))
def test_a_job(srun, number):
    assert srun(f"echo {{{{number}}}}") == f"{{{{number}}}}\\n"
"""

Work = Callable[[], object]


def measure_use(bench: Bench, results: Results) -> None:
    """All of it, on one cluster; the starts come first, on others."""
    use = Use(bench, results)
    results.use_machine = results.machine
    bench.run(f"image warm {use.file}")
    use.first_results()
    bench.run(f"hpc start {use.file}")
    try:
        use.jobs()
        use.commands()
        use.bytes_by_exec()
        use.directories()
        use.playbooks()
        use.tests()
    finally:
        bench.run(f"hpc destroy --force --cluster {CLUSTER}")


@dataclass(frozen=True)
class Use:
    """What is done, and where its figures go."""

    bench: Bench
    results: Results

    @property
    def file(self) -> Path:
        return self.file_of(CLUSTER)

    def file_of(self, name: str) -> Path:
        """The cluster file of that name."""
        file = self.bench.work / f"{name}.yaml"
        file.write_text(FILE.format(name=name))
        return file

    def ssh(self, line: str, *, cluster: str = CLUSTER) -> list[str]:
        """What one types where the configuration of ssh is known."""
        config = self.bench.state / cluster / "ssh" / "config"
        return ["ssh", "-F", str(config), "controller", line]

    def verb(self, words: str) -> list[str]:
        """A verb on the cluster, for any directory."""
        name, _, rest = words.partition(" ")
        return self.bench.argv(f"hpc {name} --cluster {CLUSTER} {rest}")

    def compare(
        self,
        title: str,
        ours: Work,
        by_hand: Work,
        *,
        repeats: int = REPEATS,
        amount: tuple[float, str] | None = None,
    ) -> None:
        """Do the work both ways, in turn, and keep the seconds."""
        say(f"... {title}")
        found: tuple[list[float], list[float]] = ([], [])
        for _ in range(repeats):
            for work, seconds in zip((ours, by_hand), found, strict=True):
                began = time.monotonic()
                work()
                seconds.append(time.monotonic() - began)
        self.keep(title, *found, amount=amount)

    def keep(
        self,
        title: str,
        ours_s: list[float],
        by_hand_s: list[float],
        *,
        amount: tuple[float, str] | None = None,
    ) -> None:
        """More figures of that title, with the load now."""
        old = self.results.use.get(title, Compared())
        self.results.use[title] = Compared(
            [*old.ours_s, *ours_s],
            [*old.by_hand_s, *by_hand_s],
            [*old.load, round(os.getloadavg()[0], 1)],
            *(amount or (0.0, "")),
        )

    def first_results(self) -> None:
        """A new cluster, restored, until a job on both of its nodes has answered."""
        say("... warm, to the first result")
        program = api_program("first", str(self.bench.state))
        file = self.file_of(OTHER)
        ours_s, by_hand_s = [], []
        for _ in range(FEW):
            ours_s.append(float(json.loads(call(program, self.bench.work))))
            began = time.monotonic()
            self.bench.run(f"hpc start {file}")
            call(self.ssh("srun -N2 hostname", cluster=OTHER), self.bench.work)
            by_hand_s.append(time.monotonic() - began)
            self.bench.run(f"hpc destroy --force --cluster {OTHER}")
        self.keep("with ai_how.cluster(), warm, to the first result", ours_s, by_hand_s)

    def jobs(self) -> None:
        """A job that does nothing, in an empty directory."""
        place = self.bench.work / "empty"
        place.mkdir()
        self.compare(
            "hpc run true",
            lambda: call(self.verb("run -- true"), place),
            lambda: call(self.ssh("srun true"), place),
        )

    def commands(self) -> None:
        """One command on a node: as root by the agent, and as the user from Python."""
        self.compare(
            "hpc exec controller true",
            lambda: call(self.verb("exec controller -- true"), self.bench.work),
            lambda: call(self.ssh("sudo true"), self.bench.work),
        )
        say("... Cluster.run")
        program = api_program("calls", str(self.bench.state), str(self.file), str(2 * REPEATS))
        found = json.loads(call(program, self.bench.work))
        self.keep("Cluster.run, the first", found["ours"][:1], found["by hand"][:1])
        self.keep("Cluster.run, later ones", found["ours"][1:], found["by hand"][1:])

    def bytes_by_exec(self) -> None:
        """Bytes out of a node, and into one."""
        work, size = self.bench.work, MIB << 20
        given = work / "given"
        given.write_bytes(os.urandom(size))
        out, into = f"head -c {size} /dev/zero", "cat > /dev/null"
        self.compare(
            f"hpc exec, {MIB} MiB out",
            lambda: call(self.verb(f"exec controller -- {out}"), work),
            lambda: call(self.ssh(out), work),
            repeats=SOME,
            amount=(MIB, "MiB"),
        )
        self.compare(
            f"hpc exec, {MIB} MiB in",
            lambda: call(self.verb(f"exec controller -- sh -c {shlex.quote(into)}"), work, given),
            lambda: call(self.ssh(into), work, given),
            repeats=SOME,
            amount=(MIB, "MiB"),
        )

    def directories(self) -> None:
        """A job in a directory of many small files: a new one, and once more."""
        for run in range(FEW):
            place = self.bench.work / f"files-{run}"
            for number in range(FILES):
                file = place / f"{number % 20:02}" / f"{number:04}"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(os.urandom(FILE_BYTES))
            for when in ("first", "second"):
                self.compare(
                    f"hpc run true, {FILES} files, {when} run",
                    partial(call, self.verb("run -- true"), place),
                    partial(self.copy_and_run, place),
                    repeats=1,
                )

    def copy_and_run(self, place: Path) -> None:
        """There, the job, and back."""
        *shell, host, _ = self.ssh("")
        rsync, there = ["rsync", "-a", "-e", shlex.join(shell)], f"{host}:{place.name}/"
        call([*rsync, f"{place}/", there], place)
        call(self.ssh(f"cd {place.name} && srun true"), place)
        call([*rsync, there, f"{place}/"], place)

    def playbooks(self) -> None:
        """Tasks of Ansible by our inventory, and by one that was written."""
        ansible = AI_HOW.with_name("ansible-playbook")
        if not ansible.exists():
            say(f"without Ansible: there is no {ansible}")
            return
        place = self.bench.work / "ansible"
        place.mkdir()
        (place / "site.yml").write_text(PLAYBOOK)
        *_, config, _, _ = self.ssh("")
        written = place / "hosts"
        written.write_text(
            "\n".join(NODES) + f"\n[all:vars]\nansible_ssh_common_args=-F {config}\n"
            "ansible_python_interpreter=/usr/bin/python3\n"
        )
        env = {
            "ANSIBLE_HOME": str(place),
            "AI_HOW_CLUSTER": CLUSTER,
            "AI_HOW_STATE_DIR": str(self.bench.state),
        }
        ours = [str(ansible), "-i", str(AI_HOW.with_name("ai-how-inventory")), "site.yml"]
        by_hand = [str(ansible), "-i", str(written), "site.yml"]
        self.compare(
            f"Ansible, {TASKS} tasks on {len(NODES)} nodes",
            lambda: call(ours, place, env=env),
            lambda: call(by_hand, place, env=env),
            repeats=FEW,
            amount=(TASKS * len(NODES), "tasks"),
        )

    def tests(self) -> None:
        """A session of pytest by our fixture, and by one that was written."""
        place = self.bench.work / "tests"
        (place / "xdg").mkdir(parents=True)
        (place / "xdg" / "ai-how").symlink_to(self.bench.state)
        *_, config, _, _ = self.ssh("")
        (place / "test_ours.py").write_text(OUR_TESTS)
        (place / "test_by_hand.py").write_text(TESTS_BY_HAND.format(config=config))
        python = str(AI_HOW.with_name("python"))
        pytest = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        env = {"XDG_STATE_HOME": str(place / "xdg")}
        ours = [*pytest, "--slurm-required", "--slurm-file", str(self.file), "test_ours.py"]
        by_hand = [*pytest, "-p", "no:ai-how", "test_by_hand.py"]
        self.compare(
            f"pytest, {TESTS} tests",
            lambda: call(ours, place, env=env),
            lambda: call(by_hand, place, env=env),
            repeats=FEW,
            amount=(TESTS, "tests"),
        )


def api_program(*words: str) -> list[str]:
    program = Path(__file__).with_name("api_use.py")
    return [str(AI_HOW.with_name("python")), str(program), *words]


def call(
    argv: Sequence[str],
    place: Path,
    given: Path | None = None,
    *,
    env: Mapping[str, str] | None = None,
) -> str:
    """Run a program to its end; its output. Raises BenchError where it fails."""
    with (given or Path(os.devnull)).open("rb") as stdin:
        ended = subprocess.run(
            argv,
            stdin=stdin,
            capture_output=True,
            cwd=place,
            env=users_environment() | dict(env or {}),
            check=False,
        )
    if ended.returncode != 0:
        said = (ended.stderr + ended.stdout).decode(errors="replace").strip()[-2000:]
        raise BenchError(f"{shlex.join(argv)}: exit code {ended.returncode}\n{said}")
    return ended.stdout.decode(errors="replace")
