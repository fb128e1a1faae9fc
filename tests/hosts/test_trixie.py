"""On Debian 13's libvirt, QEMU and Python a small cluster has its life, for root and for a user."""

import json
import os
from pathlib import Path

import pytest

from trixie import get_tree, on_trixie

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
        pytest.param(False, "iptables", id="root, iptables first"),
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
