"""What is asked of SLURM about one job or node: the words of its commands, and what they refuse."""

from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import pytest

from ai_how.errors import GuestError, HostError, SpecError
from ai_how.guest.agent import GuestResult
from ai_how.hpc.operations import Operations, job_word, output_path, reason_word
from made_up_cluster import make_snapshot

JOB = replace(make_snapshot(jobs=4).slurm.jobs[3], output="/home/alice/slurm-4.out")


class State(SimpleNamespace):
    """As much of a cluster's state as is asked for."""

    def find_node(self, name):
        return next((one for one in self.nodes if one.name == name), None)

    def find_controller(self):
        return self.find_node("controller")


@dataclass
class Access:
    """A cluster whose agents give these answers, and remember what they were asked."""

    answers: list = field(default_factory=list)
    asked: list = field(default_factory=list)
    name: str = "demo"

    def get_state(self):
        names = ("controller", "compute-01")
        nodes = [SimpleNamespace(name=one, domain_name=f"demo-{one}") for one in names]
        return State(name="demo", nodes=nodes)

    @contextmanager
    def agent_of(self, node):
        def run(argv, deadline, *, shown=None):
            self.asked.append((node.name, *argv))
            return self.answers.pop(0) if self.answers else GuestResult(0, "", "")

        yield SimpleNamespace(run=run, name=node.name)


def test_each_change_is_one_command_without_a_shell():
    access = Access()
    ops = Operations(access)
    ops.cancel(JOB)
    ops.hold(JOB)
    ops.release(JOB)
    ops.drain("compute-01", "fan  2\tfails; $(reboot) 'x' reason=y")
    ops.resume("compute-01")
    drained = "reason=fan 2 fails; $(reboot) 'x' reason=y"
    assert access.asked == [
        ("controller", "scancel", "--", "4"),
        ("controller", "scontrol", "uhold", "4"),
        ("controller", "scontrol", "release", "4"),
        ("controller", "scontrol", "update", "nodename=compute-01", "state=drain", drained),
        ("controller", "scontrol", "update", "nodename=compute-01", "state=resume"),
    ]


@pytest.mark.parametrize(
    ("number", "shown", "word"),
    [
        ("12", "12", "12"),
        ("12", "12_3", "12_3"),  # the last task has the number of its array
        ("12", "12_[4-9]", "12_[4-9]"),
        ("12", "12_[1,4-9:2%3]", "12_[1,4-9:2]"),
        ("12", "12+1", "12+1"),
    ],
)
def test_of_an_array_only_what_is_shown_is_meant(number, shown, word):
    assert job_word(replace(JOB, id=number, shown_id=shown)) == word


@pytest.mark.parametrize(
    "shown",
    ["", "-1", "--all", "1 2", "1;reboot", "1_[1-9,...]", "1\n", "1_", "--user=bob", "1_[x]"],
)
def test_an_id_that_is_none_is_no_word_of_a_command(shown):
    access = Access()
    with pytest.raises(GuestError, match="SLURM gave no id that can be used"):
        Operations(access).cancel(replace(JOB, shown_id=shown))
    assert access.asked == []


@pytest.mark.parametrize("reason", ["", "  ", "x" * 201, "a\x1b[31mb", "a\x00b"])
def test_a_reason_is_one_printable_line(reason):
    access = Access()
    with pytest.raises(SpecError, match="a reason is one line"):
        Operations(access).drain("compute-01", reason)
    assert access.asked == []
    assert reason_word(" a\nb ") == "a b"


def test_only_nodes_of_the_cluster_are_drained_and_resumed():
    access = Access()
    for change in (lambda ops: ops.drain("ALL", "x"), lambda ops: ops.resume("compute-01,x")):
        with pytest.raises(SpecError, match="has no node"):
            change(Operations(access))
    assert access.asked == []


@pytest.mark.parametrize(
    "answer",
    [
        GuestResult(1, "", "scancel: error: Kill job error on job id 4: Access denied\n"),
        GuestResult(0, "", "scancel: error: Kill job error on job id 4: Invalid job id\n"),
        GuestResult(1, "out\x1b[2Jput", ""),
    ],
)
def test_a_refusal_of_slurm_is_raised_in_its_words(answer):
    with pytest.raises(HostError, match="scancel refused") as raised:
        Operations(Access([answer])).cancel(JOB)
    assert "\x1b" not in raised.value.details
    assert raised.value.details.startswith(("scancel: error: Kill job", "output"))


def test_a_script_is_its_lines_and_a_job_without_one_says_so():
    access = Access([GuestResult(0, "#!/bin/sh\necho x\n", ""), GuestResult(0, "", "no such job")])
    ops = Operations(access)
    assert list(ops.script(JOB)) == ["#!/bin/sh", "echo x"]
    assert access.asked == [("controller", "scontrol", "write", "batch_script", "4", "-")]
    with pytest.raises(GuestError, match="SLURM gives no script of job 4") as raised:
        list(ops.script(JOB))
    assert raised.value.details == "no such job"


def test_the_output_of_a_job_that_has_ended_is_read_as_its_user_on_the_controller_first():
    access = Access([GuestResult(1, "", "tail: cannot open\n"), GuestResult(0, "a\nb\n", "")])
    assert list(Operations(access).output(replace(JOB, state="completed"))) == ["a", "b"]
    words = ("runuser", "-u", "bob", "--", "tail", "-c", "262144", "--", "/home/alice/slurm-4.out")
    assert access.asked == [("controller", *words), ("compute-01", *words)]


def test_an_output_that_is_nowhere_says_why():
    refused = GuestResult(1, "", "tail: cannot open '/x': Permission denied\n")
    ops = Operations(Access([refused, refused]))
    with pytest.raises(GuestError, match="the output of job 4 cannot be read") as raised:
        list(ops.output(replace(JOB, state="failed")))
    assert "Permission denied" in raised.value.details


@pytest.mark.parametrize("user", ["", "-u", "a b", "root\n", "--command=x", "a/b"])
def test_a_user_that_is_none_is_no_word_of_a_command(user):
    access = Access()
    with pytest.raises(GuestError, match="SLURM gave no user that can be used"):
        list(Operations(access).output(replace(JOB, user=user)))
    assert access.asked == []


@pytest.mark.parametrize(
    ("output", "directory", "path"),
    [("/a b/c", None, "/a b/c"), ("slurm.out", "/home/x", "/home/x/slurm.out")],
)
def test_where_output_goes(output, directory, path):
    assert output_path(replace(JOB, output=output, work_directory=directory)) == path


@pytest.mark.parametrize("output", [None, "", "/dev/null"])
def test_output_that_is_not_kept_cannot_be_shown(output):
    with pytest.raises(HostError, match="goes to no file that SLURM knows"):
        output_path(replace(JOB, output=output, work_directory=None))


def test_a_path_with_a_line_break_is_none():
    with pytest.raises(GuestError, match="SLURM gave no output that"):
        output_path(replace(JOB, output="/a\nb"))
