"""An embedded host that came up for a run goes with it, where nothing is on it then."""

from collections.abc import Iterator

import pytest

from leaks import private_host
from tiny_cluster import TinyHome, opened, steps

pytestmark = pytest.mark.libvirt


@pytest.fixture(scope="module")
def home() -> Iterator[TinyHome]:
    """No cluster, and a host that is down."""
    with private_host() as host, opened(TinyHome(host.paths.root.parent, nodes=1)) as home:
        host.down()
        yield home


@pytest.mark.fault("H06", "a dry run, twice")
def test_a_dry_run_leaves_no_host_behind(home: TinyHome) -> None:
    for _ in range(2):
        done = home.call("hpc", "start", "--dry-run")
        assert done.code == 0, done.said
        assert not home.host.status().is_up


@pytest.mark.fault("H06", "a dry run on a host that was up before")
def test_a_host_that_was_up_before_a_run_stays_up(home: TinyHome) -> None:
    home.host.up(with_kvm=False)
    before = home.host.find_supervisor()
    assert home.call("hpc", "start", "--dry-run").code == 0
    assert home.host.find_supervisor() == before
    home.host.down()


@pytest.mark.fault("H06", "a first start that fails, is interrupted, or is refused")
@pytest.mark.parametrize("how", ["fails", "interrupted", "refused", "killed, then undone"])
def test_a_first_start_that_came_to_nothing_leaves_no_host_behind(home: TinyHome, how: str) -> None:
    match how:
        case "fails":
            done = home.call("hpc", "start", fail={"boot/hpc-compute-01": ["after", "OSError"]})
            assert done.code == 4, done.said
        case "interrupted":
            done = home.call("hpc", "start", at=6, act="int")
            assert done.code == 130, done.said
        case "refused":
            file = home.file("hpc")
            text = file.read_text()
            file.write_text(text.replace("disk_gb: 1", "disk_gb: 999999"))
            done = home.call("hpc", "start")
            file.write_text(text)
            assert done.code != 0, done.said
        case "killed, then undone":
            assert home.call("hpc", "start", at=8, act="kill").code == -9
            assert home.host.status().is_up
            done = home.call("hpc", "destroy", "--force")
            assert done.code == 0, done.said
    assert not home.host.status().is_up, done.said


@pytest.mark.fault("H06", "recover, warm, destroy and stop of a cluster that is not there")
@pytest.mark.parametrize("words", ["hpc recover", "image warm", "hpc destroy --force", "hpc stop"])
def test_a_verb_that_finds_nothing_leaves_no_host_behind(home: TinyHome, words: str) -> None:
    done = home.call(*words.split())
    assert not home.host.status().is_up, done.said


def test_a_start_after_all_that_is_a_whole_one(home: TinyHome) -> None:
    assert "ready/hpc" in steps(home)
    assert home.host.status().is_up
    assert home.call("hpc", "destroy", "--force").code == 0
    assert not home.host.status().is_up
