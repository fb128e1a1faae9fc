"""An ordinary user whom the system gives few processes, or small files."""

import json
import os

import pytest

from users import TESTS, made_user, run_as

pytestmark = pytest.mark.libvirt

# Where the embedded host cannot come up; where qemu-img and QEMU meet the limit; where all is well.
TASKS = (5, 40, 72, 300)
FILE_BYTES = (10_000, 10**9)


@pytest.mark.fault("H08", "ulimit -u 5, 40, 72 and ulimit -f for a user with a cluster to start")
@pytest.mark.parametrize(
    ("limit", "option", "values"), [("nproc", "-u", TASKS), ("fsize", "-f", FILE_BYTES)]
)
def test_a_limit_of_the_system_is_named_and_nothing_is_left(
    limit: str, option: str, values: tuple[int, ...]
) -> None:
    with made_user(f"aihow{os.getpid()}") as user:
        script = TESTS / "limited_user.py"
        said = run_as(user, script, limit, *map(str, values), timeout_s=600).stdout
    every = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert [one["value"] for one in every] == list(values)
    for one in every[:-1]:
        code, out, err = one["start"]
        assert code in {3, 4}, (code, out, err)
        error = json.loads(out)["error"]
        told = f"{error['brief']}\n{error['details']}"
        assert f"(ulimit {option})" in told, told
        assert str(one["value"]) in told, told
        assert error["hint"].startswith((f"ulimit {option} ", "sudo prlimit", "less ")), error
        assert one["status"][0] in {0, 3}, one["status"]
        assert one["destroy"][0] == 0, one["destroy"]
        assert one["left"] == []
    assert every[-1]["start"][0] == 0, every[-1]["start"]
    assert every[-1]["destroy"][0] == 0
