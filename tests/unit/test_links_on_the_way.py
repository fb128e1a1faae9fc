"""One place has one spelling, however it is reached; links that others could turn are refused."""

import os
from pathlib import Path

import pytest

from ai_how.errors import HostError
from ai_how.state.links import resolve_links
from ai_how.state.paths import default_roots

NOBODY = 65534


@pytest.fixture
def moved(tmp_path: Path) -> Path:
    """A home that was moved, with a link in its old place."""
    (tmp_path / "data/home/me/state").mkdir(parents=True)
    (tmp_path / "home").symlink_to(tmp_path / "data/home")
    (tmp_path / "data/home/me/relative").symlink_to("../me/state")
    return tmp_path


@pytest.mark.fault("H07", "a link above it, in its place, two in a row, a trailing slash, dots")
@pytest.mark.parametrize(
    "spelling",
    ["home/me/state", "data/home/me/state/", "home/me/relative", "home/../home/me/./state"],
)
def test_every_spelling_of_a_state_directory_is_the_same(moved: Path, spelling: str) -> None:
    roots = default_roots(Path(f"{moved}/{spelling}"))
    assert roots.state == moved / "data/home/me/state"
    assert roots.embedded.root == roots.state / ".embedded"


@pytest.mark.fault("H07", "a link to a larger disk in the place of a directory below")
def test_what_was_moved_to_a_larger_disk_alone_is_followed(moved: Path) -> None:
    state, large = moved / "data/home/me/state", moved / "large"
    large.mkdir()
    (state / ".embedded").symlink_to(large)
    assert default_roots(state).embedded.root == large
    assert default_roots(state).embedded_storage.root == large / "storage"


@pytest.mark.fault("H07", "a directory that is not there yet, behind a link")
def test_what_is_not_there_yet_is_made_behind_the_link(moved: Path) -> None:
    assert resolve_links(moved / "home/new/state") == moved / "data/home/new/state"


@pytest.mark.fault("S19", "links to a state directory in places that others may write")
@pytest.mark.parametrize("case", ["open directory", "another's link", "another's directory"])
def test_a_link_that_another_user_could_turn_is_refused(
    tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = tmp_path / "common"
    common.mkdir()
    (common / "link").symlink_to(tmp_path)
    if case == "open directory":
        common.chmod(0o777)
    elif os.geteuid() == 0:
        path = common / "link" if case == "another's link" else common
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(HostError, match="is a link that another user could change") as refused:
        default_roots(common / "link/state")
    assert refused.value.hint == f"namei -l {common / 'link'}"


def test_a_link_of_ours_in_a_sticky_directory_is_followed(tmp_path: Path) -> None:
    common = tmp_path / "common"
    common.mkdir()
    common.chmod(0o1777)
    (common / "link").symlink_to(tmp_path)
    assert resolve_links(common / "link/state") == tmp_path / "state"


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(HostError, match="is a loop of links"):
        resolve_links(tmp_path / "a/state")
