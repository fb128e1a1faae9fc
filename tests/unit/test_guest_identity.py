"""What a node is told about itself: every file, its mode and owner, and no secret in any text."""

import io
import shlex
import tarfile
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from uuid import UUID

import pytest

from ai_how.guest.base_identity import Neighbour, render_archive
from ai_how.guest.outside_files import OutsideFiles
from ai_how.hpc.identities import build_identities, choose_wait_s, ensure_secrets
from ai_how.hpc.node_identity import HOME_MOUNTS, NodeIdentity
from ai_how.process import run
from ai_how.spec.models import VirtioFsMount
from ai_how.spec.nodes import Role
from ai_how.state.paths import ClusterPaths
from cluster_bench import draft_of, read_hpc

NOW_S = 1_700_000_000
HOST_KEY = b"-----BEGIN OPENSSH PRIVATE KEY-----\nhidden\n"
MUNGE_KEY = b"\x00munge\xff" * 64

CONTROLLER = NodeIdentity(
    cluster="hpc",
    name="controller",
    role=Role.CONTROLLER,
    uuid=UUID("3b7c1f0e-7f0e-4c56-9a35-0a4c4ea1f010"),
    mac="52:54:aa:00:00:01",
    address=IPv4Address("10.77.0.10"),
    subnet=IPv4Network("10.77.0.0/24"),
    gateway=IPv4Address("10.77.0.1"),
    neighbours=(
        Neighbour("controller", IPv4Address("10.77.0.10")),
        Neighbour("compute-01", IPv4Address("10.77.0.11")),
    ),
    login="me",
    authorized_keys=("ssh-ed25519 AAAA one", "ssh-rsa BBBB two"),
    home_is_nfs=True,
    has_host_clock=False,
    wait_s=30,
    slurm_conf="ClusterName=hpc\n",
    host_keys=("ssh-ed25519 CCCC hpc-controller", "ssh-ed25519 DDDD hpc-compute-01"),
    host_key=HOST_KEY,
    host_key_public="ssh-ed25519 CCCC hpc-controller",
    munge_key=MUNGE_KEY,
)
COMPUTE = replace(
    CONTROLLER, name="compute-01", role=Role.COMPUTE, address=IPv4Address("10.77.0.11")
)
SHARES = (
    VirtioFsMount(
        tag="data", host_path="/srv/my data", mount_point="/data/here", owner="me", mode="750"
    ),
    VirtioFsMount(tag="sw", host_path="/opt/sw", mount_point="/sw", readonly=True, owner="me"),
)

COMMON = {
    "etc/hostname": (0o644, "root"),
    "etc/machine-id": (0o444, "root"),
    "etc/hosts": (0o644, "root"),
    "etc/resolv.conf": (0o644, "root"),
    "etc/ai-how/identity": (0o644, "root"),
    "etc/ssh/ssh_host_ed25519_key": (0o600, "root"),
    "etc/ssh/ssh_host_ed25519_key.pub": (0o644, "root"),
    "etc/ssh/authorized_keys.d/me": (0o644, "root"),
    "etc/ssh/ssh_known_hosts": (0o644, "root"),
    "etc/ssh/shosts.equiv": (0o644, "root"),
    "etc/sudoers.d/ai-how": (0o440, "root"),
    "etc/munge/munge.key": (0o400, "munge"),
    "etc/chrony/chrony.conf": (0o644, "root"),
}


def unpack(node: NodeIdentity) -> dict[str, tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(render_archive(node, now_s=NOW_S))) as archive:
        return {one.name: (one, archive.extractfile(one).read()) for one in archive}


def text_of(node: NodeIdentity, path: str) -> str:
    return unpack(node)[path][1].decode()


def settings_of(node: NodeIdentity) -> dict[str, str]:
    lines = text_of(node, "etc/ai-how/identity").splitlines()
    return {key: value for line in lines for key, _, value in [shlex.split(line)[0].partition("=")]}


def modes_of(node: NodeIdentity) -> dict[str, tuple[int, str]]:
    return {name: (one.mode, one.uname) for name, (one, _) in unpack(node).items()}


def test_a_controller_gets_these_files_with_these_modes_and_owners():
    assert modes_of(CONTROLLER) == COMMON | {
        "etc/slurm/slurm.conf": (0o644, "root"),
        "etc/slurm/cgroup.conf": (0o644, "root"),
        "etc/exports": (0o644, "root"),
    }


def test_a_compute_node_gets_no_slurm_conf_and_exports_nothing():
    assert modes_of(COMPUTE) == COMMON | {"etc/default/slurmd": (0o644, "root")}
    assert "--conf-server controller:6817" in text_of(COMPUTE, "etc/default/slurmd")


@pytest.mark.parametrize("node", [CONTROLLER, COMPUTE], ids=lambda node: node.name)
def test_every_member_is_a_file_below_etc_with_a_group_like_its_owner(node):
    for name, (one, content) in unpack(node).items():
        assert one.isreg(), name
        assert name.startswith("etc/"), name
        assert ".." not in name
        assert (one.mtime, one.gname, one.size) == (NOW_S, one.uname, len(content)), name


def test_secrets_are_handed_over_as_they_are():
    seen = unpack(COMPUTE)
    assert seen["etc/munge/munge.key"][1] == MUNGE_KEY
    assert seen["etc/ssh/ssh_host_ed25519_key"][1] == HOST_KEY


@pytest.mark.fault("S15", "the repr of an identity")
def test_no_secret_is_shown():
    for text in (repr(CONTROLLER), str(CONTROLLER), f"{CONTROLLER}"):
        assert "hidden" not in text
        assert "munge\\xff" not in text
        assert "host_key=" not in text
        assert "munge_key=" not in text


def test_nodes_know_each_other_by_their_host_keys():
    assert text_of(COMPUTE, "etc/ssh/ssh_known_hosts") == (
        "controller,controller.hpc,10.77.0.10 ssh-ed25519 CCCC\n"
        "compute-01,compute-01.hpc,10.77.0.11 ssh-ed25519 DDDD\n"
    )
    assert text_of(COMPUTE, "etc/ssh/shosts.equiv") == "10.77.0.10\n10.77.0.11\n"


def test_the_neighbours_are_known_by_both_names():
    assert text_of(COMPUTE, "etc/hosts") == (
        "127.0.0.1 localhost\n"
        "10.77.0.10 controller controller.hpc\n"
        "10.77.0.11 compute-01 compute-01.hpc\n"
    )
    assert text_of(COMPUTE, "etc/resolv.conf") == "search hpc\nnameserver 10.77.0.1\n"
    assert text_of(COMPUTE, "etc/machine-id") == f"{COMPUTE.uuid.hex}\n"


def test_the_users_keys_and_sudo_are_the_logins():
    assert text_of(COMPUTE, "etc/ssh/authorized_keys.d/me") == (
        "ssh-ed25519 AAAA one\nssh-rsa BBBB two\n"
    )
    assert text_of(COMPUTE, "etc/sudoers.d/ai-how") == "me ALL=(ALL) NOPASSWD:ALL\n"


@pytest.mark.fault("S29", "settings that a shell reads")
def test_the_settings_can_be_read_by_a_shell():
    seen = settings_of(CONTROLLER)
    assert seen["ADDRESS"] == "10.77.0.10/24"
    assert (seen["ROLE"], seen["LOGIN"], seen["HOME_IS_NFS"]) == ("controller", "me", "yes")
    assert seen["WAIT_S"] == "30"
    assert settings_of(replace(CONTROLLER, home_is_nfs=False))["HOME_IS_NFS"] == ""


def test_each_role_starts_its_services():
    assert CONTROLLER.services()[:2] == ("munge.service", "slurmctld.service")
    assert COMPUTE.services()[:3] == ("munge.service", "home.mount", "slurmd.service")
    for node in (CONTROLLER, COMPUTE):
        assert {"munge.service", "ssh.socket", "ai-how-after.timer"} <= set(node.services())
        kvm = replace(node, has_host_clock=True)
        assert {"ai-how-after.service"} <= set(kvm.services())
        assert settings_of(node)["SERVICES"].split() == list(node.services())
        own = replace(node, home_is_nfs=False)
        assert not [name for name in own.services() if "nfs" in name or "home" in name]
    assert "modprobe@ptp_kvm.service" in replace(COMPUTE, has_host_clock=True).services()


def test_the_home_is_exported_to_the_cluster_only_and_not_to_its_roots():
    assert text_of(CONTROLLER, "etc/exports").startswith("/home 10.77.0.0/24(")
    assert "no_root_squash" not in text_of(CONTROLLER, "etc/exports")
    assert "etc/exports" not in unpack(replace(CONTROLLER, home_is_nfs=False))


def test_clocks_follow_the_host_under_kvm_and_the_controller_else():
    assert "server controller" in text_of(COMPUTE, "etc/chrony/chrony.conf")
    assert "local stratum 10" in text_of(CONTROLLER, "etc/chrony/chrony.conf")
    assert "allow 10.77.0.0/24" in text_of(CONTROLLER, "etc/chrony/chrony.conf")
    kvm = text_of(replace(COMPUTE, has_host_clock=True), "etc/chrony/chrony.conf")
    assert "refclock PHC /dev/ptp0" in kvm
    assert "server" not in kvm


@pytest.mark.fault("S29", "odd words in a script for guests")
def test_shares_are_mounted_by_a_script_in_their_order(tmp_path):
    script = text_of(replace(COMPUTE, shares=SHARES), "etc/ai-how/mounts")
    log = tmp_path / "log"
    fakes = "".join(
        f"{name}() {{ printf '%s|' {name} \"$@\" >> {log}; echo >> {log}; {end}; }}\n"
        for name, end in (
            ("mkdir", "true"),
            ("mountpoint", "false"),
            ("mount", "true"),
            ("chown", "true"),
            ("chmod", "true"),
        )
    )
    run(["sh", "-c", fakes + script])
    assert log.read_text().splitlines() == [
        "mkdir|-p|/data/here|",
        "mountpoint|-q|/data/here|",
        "mount|-t|virtiofs|-o|defaults|data|/data/here|",
        "chown|me|/data/here|",
        "chmod|750|/data/here|",
        "mkdir|-p|/sw|",
        "mountpoint|-q|/sw|",
        "mount|-t|virtiofs|-o|ro|sw|/sw|",
    ]


POINT, SLURMD = "/home/me/src/p", "slurmd.service"
PROJECT = VirtioFsMount(
    tag="project", host_path="/p", mount_point=POINT, owner="admin", group="staff"
)


def test_a_node_mounts_shares_below_the_shared_home_after_it():
    node = replace(COMPUTE, shares=(PROJECT, *SHARES), home_points=(PROJECT.mount_point,))
    assert "project" not in text_of(node, "etc/ai-how/mounts")
    assert "/data/here" in text_of(node, "etc/ai-how/mounts")
    script = text_of(node, "etc/ai-how/home-mounts")
    assert script.splitlines() == [
        "n=0",
        f"until [ -d {POINT} ] || [ $n -ge 100 ]; do sleep 0.3; n=$((n + 1)); done",
        "set -e",
        "[ -d /home/me/src ] || { mkdir /home/me/src; chown 1000:1000 /home/me/src; }",
        f"[ -d {POINT} ] || {{ mkdir {POINT}; chown 1000:1000 {POINT}; }}",
        f"mountpoint -q {POINT} || mount -t virtiofs -o defaults project {POINT}",
        f"chown me {POINT}",
        "group=staff",
        'grep -q "^$group:" /etc/group || group=me',
        f'chgrp "$group" {POINT}',
    ]
    services = node.services()
    assert services.index("home.mount") < services.index(HOME_MOUNTS) < services.index(SLURMD)
    unit = text_of(node, f"etc/systemd/system/{HOME_MOUNTS}")
    assert "After=home.mount\nBefore=slurmd.service\n" in unit


def test_the_controller_makes_the_mount_points_below_the_home_that_it_serves():
    node = replace(CONTROLLER, home_points=("/home/me/p", "/home/alice/p"))
    assert text_of(node, "etc/ai-how/home-mounts").splitlines() == [
        "[ -d /home/me/p ] || { mkdir /home/me/p; chown 1000:1000 /home/me/p; }",
        "mkdir -p /home/alice/p",
    ]
    assert HOME_MOUNTS in node.services()
    own = replace(CONTROLLER, shares=(PROJECT,))
    assert "/home/me" in text_of(own, "etc/ai-how/mounts")
    assert HOME_MOUNTS not in own.services()


def test_without_a_shared_home_there_is_nothing_to_wait_for():
    node = replace(COMPUTE, home_is_nfs=False, shares=(PROJECT,))
    assert "/home/me" in text_of(node, "etc/ai-how/mounts")
    assert HOME_MOUNTS not in node.services()


def test_the_login_account_can_pass_to_a_share_below_root():
    node = replace(COMPUTE, shares=(VirtioFsMount(tag="r", host_path="/p", mount_point="/root/p"),))
    assert "mkdir -p /root/p\nchmod o+x /root\n" in text_of(node, "etc/ai-how/mounts")


@pytest.mark.parametrize(
    ("home", "points"), [("nfs", ("/home/a/p",)), ("none", ())], ids=["shared home", "own homes"]
)
def test_the_mount_points_of_all_nodes_are_made_where_home_is(tmp_path, home, points):
    mounts = "".join(
        f"{{tag: {tag}, host_path: /p, mount_point: {point}}}, "
        for tag, point in (("p", "/home/a/p"), ("q", "/q"))
    )
    node = f"{{cpu_cores: 1, memory_gb: 1, disk_gb: 10, virtio_fs_mounts: [{mounts}]}}"
    hpc = read_hpc(f"storage: {{home: {home}}}", nodes=f"compute_nodes: [{node}]")
    draft = draft_of(hpc)
    paths = ClusterPaths(tmp_path / "hpc")
    ensure_secrets(draft.state, paths)
    identities = build_identities(draft, paths, has_host_clock=False)
    assert {one().home_points for one in identities.values()} == {points}


def test_without_shares_there_is_no_such_script():
    assert "etc/ai-how/mounts" not in unpack(COMPUTE)


def test_identities_are_made_from_the_draft_and_secrets_are_read_only_then(tmp_path):
    draft = draft_of(read_hpc("access: {user: alice, ssh_public_keys: []}"))
    paths = ClusterPaths(tmp_path / "hpc")
    identities = build_identities(draft, paths, has_host_clock=False)
    assert list(identities) == ["controller", "compute-01", "compute-02"]
    assert not paths.root.exists()
    ensure_secrets(draft.state, paths)
    made = identities["compute-02"]()
    assert (made.login, str(made.address), made.name) == ("alice", "10.77.0.12", "compute-02")
    assert made.host_key == paths.host_key("compute-02").read_bytes()
    assert made.munge_key == paths.munge_key.read_bytes()
    assert made.authorized_keys == (paths.ssh_key.with_suffix(".pub").read_text().strip(),)
    assert [one.name for one in made.neighbours] == ["controller", "compute-01", "compute-02"]
    assert made.host_key not in {identities["controller"]().host_key}


@pytest.mark.parametrize(("nodes", "cpus", "wait_s"), [(3, 2, 0), (16, 2, 66), (16, 32, 0)])
def test_what_is_not_urgent_waits_for_all_nodes_to_join(nodes, cpus, wait_s):
    assert choose_wait_s(nodes, cpus) == wait_s


def test_a_node_gets_the_proxies_and_certificates_of_its_host():
    node = replace(
        CONTROLLER,
        outside=OutsideFiles(
            {"http_proxy": "http://me:secret@p:1"},
            {"Acquire::http::Proxy": "http://p:1"},
            ("PEM\n",),
        ),
    )
    assert text_of(node, "etc/ai-how/outside.d/environment") == "http_proxy=http://me:secret@p:1\n"
    assert text_of(node, "etc/ai-how/outside.d/apt.conf") == 'Acquire::http::Proxy "http://p:1";\n'
    assert text_of(node, "etc/ai-how/outside.d/certificates") == "PEM\n"
    assert settings_of(node)["OUTSIDE"] == node.outside.digest
    assert "secret" not in repr(node)
    assert settings_of(CONTROLLER)["OUTSIDE"] == ""
    fewer = replace(node.outside, certificates=())
    assert fewer.digest not in ("", node.outside.digest)
