"""What guests reach outside: names by whatever resolver the host has, and nothing of the host."""

import json
import os
from collections.abc import Iterator

import pytest

from small_world import HOST, LATER, MANY, OF_CONTAINERS, OUTSIDE, SECOND
from stock_hosts import BY_NAME, HERE, on_host
from users import made_user

pytestmark = pytest.mark.libvirt

VIEW_S = 300


@pytest.fixture(scope="module")
def user() -> Iterator[str]:
    with made_user(f"aihow{os.getpid()}n") as name:
        yield name


@pytest.mark.fault("H02", "a resolver that listens on loopback alone")
@pytest.mark.fault("S33", "another cluster's gateway, and the host's other addresses")
@pytest.mark.parametrize("name", ["plain", "resolved", "networkmanager", "unbound"])
def test_guests_have_names_and_reach_the_outside_alone(name: str, user: str) -> None:
    done = on_host(
        BY_NAME[name],
        user,
        HERE / "guests_view.py",
        timeout_s=VIEW_S,
        check=False,
        has_network=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout) == {
        "a name": 1,
        "a long name": MANY,
        "a node": 1,
        "a name by the other gateway": -2,
        "the other gateway": False,
        OUTSIDE: True,
        HOST: False,
        SECOND: False,
        OF_CONTAINERS: False,
        LATER: False,
    }
