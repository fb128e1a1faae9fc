"""What guests reach outside: names by whatever resolver the host has, and nothing of the host."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ai_how.host.uplink import NOT_RUNNING
from small_world import (
    BLOCK_BYTES,
    BLOCKS,
    HOST,
    LATER,
    MANY,
    OF_CONTAINERS,
    OUTSIDE,
    SECOND,
)
from stock_hosts import BY_NAME, HERE, on_host
from trixie import get_tree, on_trixie
from users import made_user

pytestmark = pytest.mark.libvirt

VIEW_S = 300


@pytest.fixture(scope="module")
def user() -> Iterator[str]:
    with made_user(f"aihow{os.getpid()}n") as name:
        yield name


def digest_of_file() -> str:
    blocks = (bytes([number]) * BLOCK_BYTES for number in range(BLOCKS))
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
    return digest.hexdigest()


@pytest.mark.fault("H02", "a resolver that listens on loopback alone")
@pytest.mark.fault("H17", "pasta, and the process that starts it again, are killed")
@pytest.mark.fault("S33", "another cluster's gateway, and the host's other addresses")
@pytest.mark.parametrize(
    ("name", "who", "more"),
    [
        ("plain", "user", ["lose-uplink"]),
        pytest.param("plain", "root", ["lose-uplink"], marks=pytest.mark.long),
        ("resolved", "root", []),
        pytest.param("networkmanager", "user", [], marks=pytest.mark.long),
        pytest.param("unbound", "user", [], marks=pytest.mark.long),
    ],
)
def test_guests_reach_what_the_host_reaches_and_nothing_of_the_host(
    name: str, who: str, more: list[str], user: str
) -> None:
    done = on_host(
        BY_NAME[name],
        user if who == "user" else "root",
        HERE / "guests_view.py",
        *more,
        timeout_s=VIEW_S,
        check=False,
        has_network=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    check_view(json.loads(done.stdout), has_lost_uplink=bool(more))


@pytest.mark.skipif(os.geteuid() != 0, reason="another root directory needs root")
@pytest.mark.parametrize(
    "as_user",
    [pytest.param(False, id="root", marks=pytest.mark.long), pytest.param(True, id="user")],
)
def test_the_same_with_the_programs_of_debian_13(as_user: bool, tmp_path: Path) -> None:
    words = ("guests_view.py", "lose-uplink")
    done = on_trixie(
        get_tree(), tmp_path, *words, as_user=as_user, timeout_s=VIEW_S, resolver="127.0.0.1"
    )
    check_view(json.loads(done.stdout), has_lost_uplink=True)


def check_view(seen: dict[str, object], *, has_lost_uplink: bool) -> None:
    more = has_lost_uplink
    killed = [seen.pop(word) for word in ("pasta was killed", "its process was killed") if more]
    assert killed == (["pasta ended: signal 9", NOT_RUNNING] if more else [])
    assert seen == {
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
        "the host's loopback": [False] * 4,
        "a file": {"bytes": BLOCKS * BLOCK_BYTES, "sha256": digest_of_file()},
        "a proxy on loopback": {"own": True, "other": False, "host": False, "another port": False},
        "the same for another cluster": False,
        "without an uplink": {"a name": -1, "a node": 1, OUTSIDE: False, HOST: False},
        **dict.fromkeys(["fetched after pasta", "fetched after its process"] if more else [], True),
    }
