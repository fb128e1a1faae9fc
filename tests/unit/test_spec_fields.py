"""What each kind of value accepts, seen from the file."""

import base64
from pathlib import Path

import pytest

from ai_how.spec.reader import read_spec_text

MINIMAL = (Path(__file__).parent.parent / "data" / "spec" / "minimal.yaml").read_text()
BLOB = base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + bytes(32)).decode()
KEY = f"ssh-ed25519 {BLOB} me@desk"


def problems(extra: str) -> list[str]:
    """What is said of a section of `hpc`, written on one line."""
    _, found = read_spec_text(MINIMAL + f"    {extra}\n", "f", {})
    return [str(problem) for problem in found]


def top_level(extra: str) -> list[str]:
    return [str(problem) for problem in read_spec_text(f"{extra}\n{MINIMAL}", "f", {})[1]]


def controller(extra: str) -> list[str]:
    text = MINIMAL.replace("disk_gb: 10}\n    c", f"disk_gb: 10, {extra}}}\n    c")
    return [str(problem) for problem in read_spec_text(text, "f", {})[1]]


def named(name: str) -> list[str]:
    text = MINIMAL.replace("name: demo", f"name: {name}")
    return [str(problem) for problem in read_spec_text(text, "f", {})[1]]


@pytest.mark.parametrize("name", ["a", "7", "a-b", "a" * 40, "1.0"[0], "on"])
def test_names_are_labels(name: str) -> None:
    assert named(name) == []


@pytest.mark.fault("S02", "bad names in the cluster file")
@pytest.mark.parametrize(
    "name",
    ["A", "-a", "a-", "a_b", "a.b", "a/b", "../a", "'a\\0b'", '"a\\n"', "a" * 41, "''", "ä", "a b"],
)
def test_names_that_are_no_labels_are_refused(name: str) -> None:
    assert any("name: found" in line and "1 to 40 characters" in line for line in named(name))


@pytest.mark.parametrize(
    "uri",
    [
        "auto",
        "embedded",
        "qemu:///system",
        "qemu:///session",
        "qemu+ssh://host/system",
        "qemu+ssh://me@host.example.org:2222/system",
        "qemu+ssh://me@[fe80::1]/system?keyfile=/home/me/.ssh/id",
    ],
)
def test_host_uris_of_the_list_are_taken(uri: str) -> None:
    assert top_level(f'host: {{uri: "{uri}"}}') == []


@pytest.mark.fault("S23", "URIs in the cluster file")
@pytest.mark.parametrize(
    "uri",
    [
        "",
        "qemu:///",
        "qemu:///system?socket=/tmp/x",
        "qemu+ext:///system?command=/tmp/x",
        "qemu+unix:///system?socket=/tmp/x",
        "qemu+tcp://host/system",
        "qemu+tls://host/system?no_verify=1",
        "qemu+ssh://host/session",
        "qemu+ssh:///system",
        "qemu+ssh://-oProxyCommand=x/system",
        "qemu+ssh://-l@host/system",
        "qemu+ssh://host/system?command=/tmp/x",
        "qemu+ssh://host/system?netcat=/tmp/x",
        "qemu+ssh://host/system?keyfile=/a&command=/tmp/x",
        "qemu+ssh://host/system?keyfile=/a#x",
        "qemu+ssh://host/system?keyfile=rel",
        "qemu+ssh://host/system?no_verify=1",
        "qemu+ssh://me:secret@host/system",
        "qemu+ssh://host/system\\n",
        "test:///default",
        "xen:///system",
        "lxc:///",
        "AUTO",
        "esx://host/?no_verify=1",
    ],
)
def test_other_host_uris_are_refused(uri: str) -> None:
    found = top_level(f'host: {{uri: "{uri}"}}')
    assert len(found) == 1
    assert "f:1: host.uri: found" in found[0]
    assert "qemu+ssh://[user@]host/system" in found[0]


@pytest.mark.parametrize("subnet", ["auto", "10.1.0.0/16", "172.31.255.0/28", "192.168.0.0/24"])
def test_private_subnets_are_taken(subnet: str) -> None:
    assert problems(f"network: {{subnet: {subnet}}}") == []


@pytest.mark.fault("S28", "subnets that no cluster may have")
@pytest.mark.parametrize(
    ("subnet", "allowed"),
    [
        ("8.8.8.0/24", "a private (RFC 1918) range"),
        ("127.0.0.0/24", "a private (RFC 1918) range"),
        ("169.254.0.0/24", "a private (RFC 1918) range"),
        ("172.32.0.0/24", "a private (RFC 1918) range"),
        ("0.0.0.0/1", "a private (RFC 1918) range"),
        ("10.0.0.0/15", "a prefix from /16 to /28"),
        ("10.0.0.0/29", "a prefix from /16 to /28"),
        ("10.0.0.0", "a prefix from /16 to /28"),
        ("10.0.0.7/24", "an address without host bits: 10.0.0.0/24"),
        ("fd00::/64", "`auto`, or a subnet such as"),
        ("Auto", "`auto`, or a subnet such as"),
        ("[]", "`auto`, or a subnet such as"),
        ("3232261120/24", "`auto`, or a subnet such as"),
    ],
)
def test_other_subnets_are_refused(subnet: str, allowed: str) -> None:
    found = problems(f"network: {{subnet: '{subnet}'}}")
    assert len(found) == 1
    assert f"f:7: clusters.hpc.network.subnet: found '{subnet}'; allowed: {allowed}" in found[0]


@pytest.mark.parametrize("bridge", ["br0", "virbr100", "a" * 15])
def test_bridge_names_are_interface_names(bridge: str) -> None:
    assert problems(f"network: {{bridge: {bridge}}}") == []


@pytest.mark.parametrize("bridge", ["a" * 16, "a/b", "a b", "..", "-a", "0"])
def test_other_bridge_names_are_refused(bridge: str) -> None:
    assert "1 to 15 letters" in problems(f"network: {{bridge: '{bridge}'}}")[0]


@pytest.mark.parametrize(
    "limit",
    [
        "30",
        "30:00",
        "24:00:00",
        "1-0",
        "1-12:30",
        "7-00:00:00",
        "UNLIMITED",
        "infinite",
        "100:00:00",
    ],
)
def test_times_are_slurms(limit: str) -> None:
    assert problems(f"slurm_config: {{max_job_time: {limit}}}") == []


@pytest.mark.parametrize(
    "limit", ["1h", "-1", "1:2:3:4", "1-", "1-2-3", "10:99", "1.5", "''", "1 0"]
)
def test_other_times_are_refused(limit: str) -> None:
    found = problems(f"slurm_config: {{max_job_time: {limit}}}")
    assert "days-hours[:minutes[:seconds]]" in found[0]


@pytest.mark.parametrize(
    ("memory", "mib"), [("0.5", 512), ("1", 1024), ("1.5", 1536), ("2.0", 2048)]
)
def test_memory_is_a_number_of_gib(memory: str, mib: int) -> None:
    spec, _ = read_spec_text(MINIMAL.replace("memory_gb: 1", f"memory_gb: {memory}"), "f", {})
    assert spec is not None
    assert spec.clusters.hpc is not None
    assert spec.clusters.hpc.controller.memory_mib == mib


@pytest.mark.parametrize(
    ("memory", "said"),
    [
        ("0.49", "the minimum is 0.5"),
        ("-1", "the minimum is 0.5"),
        ("nan", "expected a number"),
        ("inf", "expected a number"),
        ("1e99", "the maximum is 16384"),
        ("4GB", "expected a number"),
        ("[1]", "found a list; expected a number"),
        ("{a: 1}", "found a section; expected a number"),
    ],
)
def test_other_memory_is_refused(memory: str, said: str) -> None:
    text = MINIMAL.replace(
        "memory_gb: 1, disk_gb: 10}\n    c", f"memory_gb: {memory}, disk_gb: 9}}\n    c"
    )
    _, found = read_spec_text(text, "f", {})
    assert len(found) == 1
    assert "f:5: clusters.hpc.controller.memory_gb: " in str(found[0])
    assert said in str(found[0])


@pytest.mark.parametrize("word", ["true", "yes", "on", "True", "false", "no", "off"])
def test_switches_take_the_words_that_yaml_has_had_for_them(word: str) -> None:
    assert problems(f"hardware: {{acceleration: {{enable_kvm: {word}}}}}") == []


def test_other_switches_are_refused() -> None:
    found = problems("hardware: {acceleration: {enable_kvm: maybe}}")
    assert found == [
        "f:7: clusters.hpc.hardware.acceleration.enable_kvm: found 'maybe'; expected true or false"
    ]


def test_choices_name_what_is_allowed() -> None:
    assert problems("storage: {home: lustre}") == [
        "f:7: clusters.hpc.storage.home: found 'lustre'; allowed: nfs or none"
    ]


# As `ssh-keygen -t ed25519-sk` and `-t ecdsa-sk` write it: the private part is in the hardware.
SK_KEYS = [
    f"{kind} {base64.b64encode(len(kind).to_bytes(4) + kind.encode() + rest).decode()} me@token"
    for kind, rest in (
        ("sk-ssh-ed25519@openssh.com", b"\0\0\0\x20" + bytes(32) + b"\0\0\0\4ssh:"),
        (
            "sk-ecdsa-sha2-nistp256@openssh.com",
            b"\0\0\0\x08nistp256\0\0\0\x41\4" + bytes(64) + b"\0\0\0\4ssh:",
        ),
    )
]


@pytest.mark.parametrize("key", [KEY, f"ssh-ed25519 {BLOB}", *SK_KEYS])
def test_public_keys_are_taken(key: str) -> None:
    assert problems(f"access: {{ssh_public_keys: ['{key}']}}") == []


@pytest.mark.parametrize(
    "key",
    [
        "",
        "abc",
        "ssh-ed25519",
        "ssh-ed25519 AAAA me",
        f"ssh-rsa {BLOB} me",
        f'command="x" {KEY}',
        f"{KEY}\\n{KEY}",
        "-----BEGIN OPENSSH PRIVATE KEY-----",
    ],
)
def test_what_is_no_public_key_is_refused(key: str) -> None:
    written = key.replace('"', '\\"')
    found = problems(f'access: {{ssh_public_keys: ["{written}"]}}')
    assert len(found) == 1
    assert "clusters.hpc.access.ssh_public_keys[0]: found " in found[0]
    assert "one line of a .pub file" in found[0]


@pytest.mark.parametrize("user", ["root", "slurm", "munge", "-x", "A", "a b", "9a", "a" * 32])
def test_accounts_of_the_system_and_odd_ones_are_refused(user: str) -> None:
    assert "clusters.hpc.access.user: found" in problems(f"access: {{user: '{user}'}}")[0]


@pytest.mark.parametrize("feature", ["+avx2", "-svm", "sse4.1", "+avx512-vnni"])
def test_cpu_features_have_a_sign_or_none(feature: str) -> None:
    assert problems(f"hardware: {{acceleration: {{cpu_features: ['{feature}']}}}}") == []


@pytest.mark.parametrize("feature", ["", "+", "++a", "a,b", "+a'/>"])
def test_other_cpu_features_are_refused(feature: str) -> None:
    assert (
        "+name to require it"
        in problems(f'hardware: {{acceleration: {{cpu_features: ["{feature}"]}}}}')[0]
    )


@pytest.mark.parametrize(
    "point",
    ["/", "relative", "/etc", "/usr", "/proc/x", "/a/../etc", "/a//b", "/a/", "/a b", "/a\\n"],
)
def test_mount_points_that_would_break_a_guest_are_refused(point: str) -> None:
    found = controller(f'virtio_fs_mounts: [{{tag: a, host_path: /a, mount_point: "{point}"}}]')
    assert "clusters.hpc.controller.virtio_fs_mounts[0].mount_point: found" in found[0]


@pytest.mark.parametrize(
    ("mount", "key"),
    [
        ("tag: 'a b', host_path: /a, mount_point: /a", "tag"),
        (f"tag: {'a' * 37}, host_path: /a, mount_point: /a", "tag"),
        ("tag: a, host_path: a, mount_point: /a", "host_path"),
        ("tag: a, host_path: '~/a', mount_point: /a", "host_path"),
        ("tag: a, host_path: /a, mount_point: /a, mode: '999'", "mode"),
        ("tag: a, host_path: /a, mount_point: /a, options: 'rw; reboot'", "options"),
        ("tag: a, host_path: /a, mount_point: /a, owner: 'a:b'", "owner"),
    ],
)
def test_odd_mounts_are_refused(mount: str, key: str) -> None:
    found = controller(f"virtio_fs_mounts: [{{{mount}}}]")
    assert len(found) == 1
    assert f"clusters.hpc.controller.virtio_fs_mounts[0].{key}: found" in found[0]


@pytest.mark.parametrize("image", ["default", "/srv/a b.qcow2", "build/x.qcow2", "../x.qcow2"])
def test_images_are_paths_or_names(image: str) -> None:
    assert problems(f"base_image_path: '{image}'") == []


@pytest.mark.parametrize("image", ["", "-x", " x", "a\\nb", "a" * 1025])
def test_other_images_are_refused(image: str) -> None:
    assert "base_image_path: found" in problems(f'base_image_path: "{image}"')[0]


@pytest.mark.parametrize("address", ["dhcp", "DHCP"])
def test_dhcp_and_no_address_mean_the_same(address: str) -> None:
    assert controller(f"ip_address: {address}") == []


@pytest.mark.parametrize("address", ["10.0.0", "10.0.0.256", "fe80::1", "host", "010.0.0.1", "1"])
def test_what_is_no_ipv4_address_is_refused(address: str) -> None:
    assert controller(f"ip_address: '{address}'") == [
        (
            f"f:5: clusters.hpc.controller.ip_address: found '{address}'; "
            "allowed: an IPv4 address, or DHCP to let ai-how choose one"
        )
    ]
