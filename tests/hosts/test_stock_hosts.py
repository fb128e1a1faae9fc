"""On each kind of host that people have, one small cluster lives, for root and for a user."""

import json
import os
from collections.abc import Iterator

import pytest

from stock_hosts import HERE, HOSTS, SERVER, StockHost, on_host
from users import made_user

pytestmark = pytest.mark.libvirt

LIFE_S = 300


@pytest.fixture(scope="module")
def user() -> Iterator[str]:
    with made_user(f"aihow{os.getpid()}h") as name:
        yield name


@pytest.mark.fault("H01", "resolv.conf, programs, state and interpreter behind such links")
@pytest.mark.parametrize(
    ("host", "who"),
    [
        # The same host for another account only in a long run.
        pytest.param(host, who, marks=[pytest.mark.long] if place else [])
        for number, host in enumerate(HOSTS)
        for place, who in enumerate(host.who if number % 3 else host.who[::-1])
    ],
    ids=lambda one: one if isinstance(one, str) else one.name,
)
def test_a_cluster_lives_on_this_host(host: StockHost, who: str, user: str) -> None:
    name = user if who == "user" else "root"
    where = [host.state] if host.state else []
    done = on_host(host, name, HERE / "tiny_life.py", *where, timeout_s=LIFE_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    failed = {verb: told for verb, told in said.items() if told["code"] and verb != "doctor"}
    assert failed == {}
    assert said["sockets"]["inside"] == [], "daemons of the host are seen by libvirtd"
    [unseen] = said["shares"]["out"]
    assert unseen.endswith("/later, which the embedded host does not see")
    [confined] = [one for one in checks_of(said["doctor"]["out"]) if one["name"] == "confinement"]
    assert "by user ids only" in confined["found"]
    for says in (said["doctor"], said["validate"]):
        told = [check["found"] for check in checks_of(says["out"]) if check["name"] == "names"]
        assert len(told) == 1, says
        assert names_on(host) in told[0]


def checks_of(text: str) -> list[dict[str, str]]:
    document = json.loads(text)
    return document["checks"] if "checks" in document else document["estimate"]["checks"]


def names_on(host: StockHost) -> str:
    """What must be said of names: nobody listens here at an address that is on loopback."""
    if host.names == SERVER:
        return f"the name servers of this host: {SERVER}"
    return f"none: this host uses {host.names}"
