"""On Debian 13's libvirt, QEMU and Python a small cluster has its life, for root and for a user."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from shutil import rmtree

import pytest

from ai_how.images.build import build_default_image
from ai_how.images.store import ImageStore
from ai_how.process import run
from ai_how.state.paths import default_roots
from trixie import USER_ID, get_tree, on_trixie

pytestmark = [
    pytest.mark.libvirt,
    pytest.mark.skipif(os.geteuid() != 0, reason="another root directory needs root"),
]

LIFE_S = 600


@pytest.fixture(scope="module")
def tree() -> Path:
    return get_tree()


@pytest.mark.parametrize(
    ("as_user", "firewall"),
    [
        pytest.param(False, "iptables", id="root, iptables first", marks=pytest.mark.long),
        # This needs a module of the kernel that not every host has.
        pytest.param(True, "nftables", id="user, nftables first"),
    ],
)
def test_a_cluster_has_its_life_on_debian_13(
    tree: Path, tmp_path: Path, as_user: bool, firewall: str
) -> None:
    done = on_trixie(tree, tmp_path, "trixie_life.py", firewall, as_user=as_user, timeout_s=LIFE_S)
    said = json.loads(done.stdout)
    failed = {verb: told for verb, (code, told) in said["verbs"].items() if code != 0}
    assert failed == {}
    assert said["embedded"] == ["ok"]
    assert said["libvirt"][0] >= 11
    assert "LIBVIRT_FWO" in said["rules"]
    assert said["dnsmasq"]
    assert "compute-01: restoring" in said["verbs"]["start"][1]
    assert "nothing to do" in said["verbs"]["start again"][1]
    assert "compute-01: booting" in said["verbs"]["start after QEMU died"][1]
    assert "hpc: ready" in said["verbs"]["status after libvirtd died"][1]
    assert "compute-02: resuming" in said["verbs"]["resume"][1]
    assert said["running at last"] == ["compute-01", "compute-02", "controller"]
    assert said["left"] == []


@pytest.fixture
def tmp_with_image(tmp_path: Path) -> Iterator[Path]:
    """A directory with a store `data` of the user's, in which is the default image."""
    image = build_default_image(ImageStore(default_roots().images))
    images = tmp_path / "data/ai-how/images"
    images.mkdir(parents=True)
    run(["cp", "-a", "--reflink=auto", image.directory, images])
    yield tmp_path
    rmtree(tmp_path / "data")


@pytest.mark.parametrize("as_user", [True, False], ids=["user", "root"])
def test_a_node_has_directories_of_a_host_with_debian_13(
    tree: Path, tmp_with_image: Path, as_user: bool, is_long: bool
) -> None:
    """By libvirt 11 and the virtiofsd that is not QEMU's any more."""
    if not as_user and not is_long:
        pytest.skip("the same as root boots one more system: --long")
    if as_user:
        run(["chown", "-R", f"{USER_ID}:{USER_ID}", tmp_with_image / "data"])
    done = on_trixie(
        tree, tmp_with_image, "trixie_shares.py", "/tmp/data", as_user=as_user, timeout_s=LIFE_S
    )
    said = json.loads(done.stdout)
    assert said["libvirt"][0] >= 11
    assert int(said["virtiofsd"].partition(".")[0]) >= 1
    seen = ["one", "hpc:hpc", "700", "kept", "root:root"]
    assert (said["guest"], said["refused"]) == (seen, True), said["said"]
    assert said["there"] == ["two\n", ["it"]]
    assert said["ours"] == [True, True]
    assert said["left"] == []
