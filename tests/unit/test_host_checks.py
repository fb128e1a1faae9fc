"""Facts from a tree of files and from fake programs; checks from facts made by hand."""

import os
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from ai_how.host.capacity_checks import CapacityRequest, check_capacity
from ai_how.host.checks import (
    Check,
    Status,
    check_embedded,
    check_firewall,
    check_host,
    check_subnet_collisions,
    check_system_libvirt,
)
from ai_how.host.facts import (
    PACKAGES,
    Cpu,
    DeviceNode,
    Disk,
    HostFacts,
    LibvirtAccess,
    Tool,
    read_cpu,
    read_device,
    read_disk,
    read_facts,
    read_tool,
)
from ai_how.host.memory_facts import (
    MIB,
    Hugepages,
    Ksm,
    Memory,
    read_hugepages,
    read_ksm,
    read_memory,
)
from ai_how.host.network_facts import (
    DroppingChain,
    Firewall,
    Route,
    read_addresses,
    read_firewall,
    read_nameservers,
    read_routes,
)

GIB = 1024**3
STORAGE = Path("/srv/storage")

GOOD = HostFacts(
    user="ada",
    is_root=False,
    cpu=Cpu(8, "GenuineIntel", "vmx"),
    memory=Memory(total_mib=16000, available_mib=12000),
    tools={name: Tool(Path("/usr/bin", name), "1.0") for name in PACKAGES},
    disks=(Disk(STORAGE, 100 * GIB, 200 * GIB),),
    kvm=DeviceNode(0o660, is_usable=True),
    tun=DeviceNode(0o666, is_usable=True),
    subuid_count=65536,
    subgid_count=65536,
    libvirt=LibvirtAccess(0o660, is_socket_usable=True, is_in_group=True),
    routes=(
        Route(IPv4Network("0.0.0.0/0"), "eth0"),
        Route(IPv4Network("0.0.0.0/1"), "vpn0"),
        Route(IPv4Network("192.168.1.0/24"), "eth0"),
        Route(IPv4Network("10.8.0.0/16"), "vpn0"),
    ),
    addresses=(
        Route(IPv4Network("192.168.1.0/24"), "eth0"),
        Route(IPv4Network("172.17.0.0/16"), "docker0"),
    ),
    nameservers=(IPv4Address("10.1.1.1"),),
    firewall=Firewall(),
    is_forwarding=True,
    iommu_groups=12,
    security_modules=("capability", "apparmor"),
)
NO_SYSTEM_LIBVIRT = replace(GOOD, libvirt=LibvirtAccess())


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def put_program(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that comes first on PATH."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


# --- facts


def test_what_equal_pages_save_is_read(tmp_path: Path) -> None:
    assert read_ksm(tmp_path) is None
    pages = 3 * MIB // os.sysconf("SC_PAGE_SIZE")
    for mode, is_on in (("0", False), ("1", True), ("2", False)):
        files = {"run": f"{mode}\n", "pages_sharing": f"{pages}\n"}
        write(tmp_path, {f"sys/kernel/mm/ksm/{name}": text for name, text in files.items()})
        assert read_ksm(tmp_path) == Ksm(is_on, 3)
    (tmp_path / "sys/kernel/mm/ksm/pages_sharing").unlink()
    assert read_ksm(tmp_path) == Ksm(is_on=False, saved_mib=0)


def test_an_empty_world_has_no_facts_and_raises_nothing(tmp_path: Path, programs: Path) -> None:
    for name in ("ip", "nft", "iptables", "qemu-system-x86_64", "libvirtd"):
        put_program(programs, name, "echo rubbish; exit 3")
    facts = read_facts(root=tmp_path / "nothing", directories=[tmp_path / "a/b"])
    for name in (
        "cpu",
        "memory",
        "ksm",
        "kvm",
        "tun",
        "routes",
        "addresses",
        "firewall",
        "iommu_groups",
    ):
        assert getattr(facts, name) is None, name
    assert facts.tools["libvirtd"] == Tool(programs / "libvirtd", None, is_replaceable=False)
    assert facts.disks[0].free_bytes > 0
    assert check_host(facts)


@pytest.mark.parametrize(
    "output", ["", "{", "[]", "[3]", '{"nftables": 3}', '[{"dst": []}]', "null"]
)
def test_rubbish_from_ip_and_nft_raises_nothing(
    tmp_path: Path, programs: Path, output: str
) -> None:
    for name in ("ip", "nft"):
        put_program(programs, name, f"echo '{output}'")
    put_program(programs, "iptables", "exit 4")
    assert not read_routes()
    assert not read_addresses()
    assert not read_firewall(tmp_path)


def test_the_cpus_are_those_that_we_may_use(tmp_path: Path) -> None:
    block = "processor\t: {}\nvendor_id\t: AuthenticAMD\nflags\t\t: fpu svm sse\n\n"
    info = "".join(block.format(number) for number in range(8))
    write(tmp_path, {"proc/cpuinfo": info})
    assert read_cpu(tmp_path) == Cpu(8, "AuthenticAMD", "svm")
    write(tmp_path, {"proc/self/status": "Name:\tx\nCpus_allowed_list:\t0-2,7\n"})
    cpu = read_cpu(tmp_path)
    assert cpu is not None
    assert (cpu.count, cpu.kvm_module) == (4, "kvm_amd")


MEMINFO = "MemTotal: 16384000 kB\nMemFree: 1024 kB\nMemAvailable: 8192000 kB\nHugePages_Total: 0\n"


def test_available_memory_is_the_kernels_estimate(tmp_path: Path) -> None:
    write(tmp_path, {"proc/meminfo": MEMINFO})
    memory = read_memory(tmp_path)
    assert memory == Memory(16000, 8000)
    assert memory.usable_mib == 8000


def test_the_tightest_cgroup_bounds_memory_and_page_cache_is_not_counted_as_used(
    tmp_path: Path,
) -> None:
    mib = 1024 * 1024
    write(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "0::/user.slice/shell\n",
            "sys/fs/cgroup/user.slice/shell/memory.max": "max\n",
            "sys/fs/cgroup/user.slice/memory.max": f"{4000 * mib}\n",
            "sys/fs/cgroup/user.slice/memory.current": f"{1500 * mib}\n",
            "sys/fs/cgroup/user.slice/memory.stat": f"anon 5\ninactive_file {500 * mib}\n",
        },
    )
    memory = read_memory(tmp_path)
    assert memory is not None
    assert memory.usable_mib == 3000


def test_a_version_1_cgroup_without_a_limit_is_none(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "4:cpu,cpuacct:/\n3:memory:/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        },
    )
    memory = read_memory(tmp_path)
    assert memory is not None
    assert memory.cgroup_headroom_mib is None


def test_hugepage_pools_are_read_by_size(tmp_path: Path) -> None:
    pools = "sys/kernel/mm/hugepages"
    write(
        tmp_path,
        {
            f"{pools}/hugepages-1048576kB/nr_hugepages": "4\n",
            f"{pools}/hugepages-1048576kB/free_hugepages": "3\n",
            f"{pools}/hugepages-2048kB/nr_hugepages": "10\n",
            f"{pools}/hugepages-2048kB/free_hugepages": "0\n",
        },
    )
    assert read_hugepages(tmp_path) == (Hugepages(2048, 10, 0), Hugepages(1048576, 4, 3))


def test_a_device_is_usable_only_if_it_opens(tmp_path: Path) -> None:
    path = tmp_path / "tun"
    path.touch(mode=0o600)
    assert read_device(path) == DeviceNode(0o600, is_usable=True)
    assert read_device(tmp_path / "absent") is None
    seen = read_device(tmp_path)
    assert seen is not None
    assert not seen.is_usable


@pytest.mark.fault("S32", "a program in a directory open to all")
def test_a_program_that_others_may_replace_is_noticed(programs: Path) -> None:
    put_program(programs, "libvirtd", "echo 'libvirtd (libvirt) 9.0.0'")
    assert read_tool("libvirtd") == Tool(programs / "libvirtd", "9.0.0")
    (programs / "libvirtd").chmod(0o777)
    tool = read_tool("libvirtd")
    assert tool is not None
    assert tool.is_replaceable
    facts = replace(GOOD, tools={**GOOD.tools, "libvirtd": tool})
    found = [check for check in check_host(facts) if "replaced" in check.found]
    assert [check.status for check in found] == [Status.WARNING]
    root = [c for c in check_host(replace(facts, is_root=True)) if "replaced" in c.found]
    assert [check.status for check in root] == [Status.FAILURE]


def test_the_disk_of_a_directory_that_is_not_there_yet_is_that_above_it(tmp_path: Path) -> None:
    disk = read_disk(tmp_path / "not/yet")
    assert disk is not None
    assert disk.directory == tmp_path / "not/yet"
    assert disk.device == tmp_path.stat().st_dev


def test_routes_addresses_and_name_servers_are_read(tmp_path: Path, programs: Path) -> None:
    put_program(
        programs,
        "ip",
        """case "$*" in
*route) echo '[{"dst":"default","dev":"eth0"},{"dst":"10.0.0.0/8","dev":"vpn"},
  {"dst":"10.9.9.9","dev":"vpn"},{"type":"blackhole","dst":"172.20.0.0/16"}]' ;;
*) echo '[{"ifname":"lo","addr_info":[{"local":"127.0.0.1","prefixlen":8}]},
  {"ifname":"br0","addr_info":[{"local":"192.168.5.7","prefixlen":24},{"local":"x"}]}]' ;;
esac""",
    )
    routes = read_routes()
    assert routes is not None
    assert [(str(route.subnet), route.device) for route in routes] == [
        ("0.0.0.0/0", "eth0"),
        ("10.0.0.0/8", "vpn"),
        ("10.9.9.9/32", "vpn"),
        ("172.20.0.0/16", None),
    ]
    assert read_addresses() == (Route(IPv4Network("192.168.5.0/24"), "br0"),)
    write(
        tmp_path, {"etc/resolv.conf": "# x\nnameserver 10.0.0.53\nnameserver fe80::1\nsearch a\n"}
    )
    assert read_nameservers(tmp_path) == (IPv4Address("10.0.0.53"),)


@pytest.mark.fault("F57", "the tables of Docker and firewalld")
def test_docker_and_firewalld_are_seen_in_their_own_tables(tmp_path: Path, programs: Path) -> None:
    put_program(
        programs,
        "nft",
        """echo '{"nftables":[{"metainfo":{}},
{"chain":{"family":"ip","table":"filter","name":"FORWARD","hook":"forward","policy":"drop"}},
{"chain":{"family":"ip","table":"filter","name":"DOCKER-USER"}},
{"chain":{"family":"inet","table":"firewalld","name":"filter_FORWARD","hook":"forward",
  "policy":"drop"}},
{"chain":{"family":"ip6","table":"f","name":"F","hook":"forward","policy":"drop"}}]}'""",
    )
    put_program(programs, "iptables", "echo '-P INPUT ACCEPT'; echo '-P FORWARD DROP'")
    assert read_firewall(tmp_path) == Firewall(
        (
            DroppingChain("nft", "inet firewalld filter_FORWARD"),
            DroppingChain("iptables", "FORWARD"),
        ),
        has_docker=True,
    )


# --- checks of the host


def test_a_good_host_has_nothing_to_complain_of() -> None:
    assert [check for check in check_host(GOOD) if check.status is not Status.OK] == []


@pytest.mark.parametrize(
    ("ksm", "status", "found"),
    [
        (None, Status.OK, "this kernel has no KSM: nodes share no pages"),
        (Ksm(is_on=True, saved_mib=640), Status.OK, "identical pages are shared: 640 MiB"),
        (
            Ksm(is_on=False, saved_mib=0),
            Status.HINT,
            "KSM is off: similar nodes do not share identical pages",
        ),
        (
            Ksm(is_on=False, saved_mib=7),
            Status.HINT,
            "KSM is off: similar nodes do not share identical pages beyond 7 MiB",
        ),
    ],
)
def test_memory_that_is_not_shared_is_a_hint_with_the_line_that_shares_it(
    ksm: Ksm | None, status: Status, found: str
) -> None:
    advice = "echo 1 | sudo tee /sys/kernel/mm/ksm/run" if status is Status.HINT else None
    check = next(c for c in check_host(replace(GOOD, ksm=ksm)) if c.name == "shared memory")
    assert check == Check("shared memory", status, found, advice)


@pytest.mark.parametrize(
    ("change", "found", "advice"),
    [
        (
            {"tun": None},
            "/dev/net/tun does not exist: guests get no network interface",
            "sudo modprobe tun",
        ),
        (
            {"tun": DeviceNode(0o600, is_usable=False)},
            "/dev/net/tun has mode 0600: guests get no network interface",
            "sudo chmod 0666 /dev/net/tun",
        ),
        (
            {"subuid_count": None},
            "/etc/subuid gives ada 0 ids of the 65536 needed",
            "sudo usermod --add-subuids 100000-165535 ada",
        ),
        (
            {"subgid_count": 1000},
            "/etc/subgid gives ada 1000 ids of the 65536 needed",
            "sudo usermod --add-subgids 100000-165535 ada",
        ),
        (
            {"user_namespace_remedy": "kernel.apparmor_restrict_unprivileged_userns=0"},
            "users are not allowed to create user namespaces",
            "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        (
            {"tools": {**GOOD.tools, "virtlogd": None}},
            "virtlogd is not installed",
            "sudo apt-get install libvirt-daemon-system",
        ),
    ],
)
def test_what_keeps_the_embedded_host_down_is_a_failure_only_without_another_host(
    change: dict[str, object], found: str, advice: str
) -> None:
    alone = replace(NO_SYSTEM_LIBVIRT, **change)  # type: ignore[arg-type]
    assert check_embedded(alone) == [Check("embedded host", Status.FAILURE, found, advice)]
    beside = replace(GOOD, **change)  # type: ignore[arg-type]
    assert check_embedded(beside) == [Check("embedded host", Status.WARNING, found, advice)]


def test_an_embedded_host_that_is_up_is_not_said_to_be_startable() -> None:
    assert check_embedded(GOOD) == [Check("embedded host", Status.OK, "can be started")]
    up = replace(GOOD, is_embedded_up=True)
    assert check_embedded(up) == [Check("embedded host", Status.OK, "is up")]


def test_root_needs_no_subordinate_ids() -> None:
    root = replace(NO_SYSTEM_LIBVIRT, is_root=True, subuid_count=0, user_namespace_remedy="x=1")
    assert [check.status for check in check_embedded(root)] == [Status.OK]


@pytest.mark.fault("F66", "a user outside of the group")
def test_a_user_outside_of_the_libvirt_group_is_told_the_one_command() -> None:
    check = check_system_libvirt(replace(GOOD, libvirt=LibvirtAccess(0o660)))
    assert check.status is Status.WARNING
    assert check.advice == "sudo usermod -aG libvirt ada  # then log in again"


@pytest.mark.fault("S24", "modes and auth of the socket")
@pytest.mark.parametrize(
    ("mode", "auth", "status"),
    [
        (0o666, "polkit", Status.OK),
        (0o666, None, Status.WARNING),
        (0o777, "none", Status.FAILURE),
        (0o660, "none", Status.OK),
    ],
)
def test_a_libvirt_socket_for_every_user_is_as_bad_as_what_it_asks_for(
    mode: int, auth: str | None, status: Status
) -> None:
    libvirt = LibvirtAccess(mode, is_socket_usable=True, auth=auth)
    assert check_system_libvirt(replace(GOOD, libvirt=libvirt)).status is status


@pytest.mark.fault("S24", "a member of group libvirt")
def test_the_libvirt_group_is_said_to_be_root() -> None:
    assert "equivalent to root" in check_system_libvirt(GOOD).found


@pytest.mark.fault("F57", "a firewall that drops what is forwarded")
@pytest.mark.parametrize(
    ("firewall", "rules"),
    [
        (
            Firewall((DroppingChain("iptables", "FORWARD"),), has_docker=True),
            [
                "sudo iptables -I DOCKER-USER -i ah+ -j ACCEPT",
                "sudo iptables -I DOCKER-USER -o ah+ -j ACCEPT",
            ],
        ),
        (
            Firewall((DroppingChain("iptables-legacy", "FORWARD"),)),
            [
                "sudo iptables-legacy -I FORWARD -i ah+ -j ACCEPT",
                "sudo iptables-legacy -I FORWARD -o ah+ -j ACCEPT",
            ],
        ),
        (
            Firewall((DroppingChain("nft", "inet firewalld forward"),), has_docker=True),
            [
                "sudo nft insert rule inet firewalld forward iifname '\"ah*\"' accept",
                "sudo nft insert rule inet firewalld forward oifname '\"ah*\"' accept",
            ],
        ),
    ],
)
def test_a_firewall_that_drops_guests_comes_with_the_exact_rule(
    firewall: Firewall, rules: list[str]
) -> None:
    [check] = check_firewall(replace(GOOD, firewall=firewall))
    assert (check.status, check.advice) == (Status.WARNING, " && ".join(rules))


@pytest.mark.fault("F57", "ip_forward is 0")
def test_forwarding_that_is_off_is_a_warning_with_the_sysctl() -> None:
    [check] = check_firewall(replace(GOOD, is_forwarding=False))
    assert check.advice == "sudo sysctl -w net.ipv4.ip_forward=1"


@pytest.mark.fault("F57", "ip_forward is 0, embedded host")
def test_the_firewall_is_no_matter_to_the_embedded_host() -> None:
    assert check_firewall(replace(NO_SYSTEM_LIBVIRT, is_forwarding=False)) == []


@pytest.mark.fault("F39", "no QEMU")
def test_a_missing_qemu_is_a_failure_and_a_missing_mmdebstrap_a_warning() -> None:
    tools = {**GOOD.tools, "qemu-system-x86_64": None, "mmdebstrap": None}
    bad = {c.name: c for c in check_host(replace(GOOD, tools=tools)) if c.status is not Status.OK}
    assert bad["qemu-system-x86_64"].status is Status.FAILURE
    assert bad["qemu-system-x86_64"].advice == "sudo apt-get install qemu-system-x86"
    assert bad["mmdebstrap"].status is Status.WARNING


@pytest.mark.fault("S20", "no MAC driver")
def test_a_host_without_a_mac_driver_is_told_so() -> None:
    found = [check.found for check in check_host(replace(GOOD, security_modules=None))]
    assert "by user ids only: neither AppArmor nor SELinux is active" in found


@pytest.mark.fault("S20", "the embedded host, where no MAC driver confines a QEMU")
@pytest.mark.parametrize("modules", [None, (), ("capability", "apparmor"), ("selinux",)])
@pytest.mark.parametrize("is_root", [True, False])
def test_of_the_embedded_host_no_confinement_is_claimed_that_it_has_not(
    modules: tuple[str, ...] | None, is_root: bool
) -> None:
    facts = replace(NO_SYSTEM_LIBVIRT, security_modules=modules, is_root=is_root)
    [check] = [check for check in check_host(facts) if check.name == "confinement"]
    assert "by user ids only" in check.found
    assert check.found.endswith("its guests' QEMU runs as ada")
    assert check.status is (Status.WARNING if is_root else Status.OK)


@pytest.mark.fault("F39", "a QEMU that does not even tell its version")
def test_a_qemu_that_does_not_run_is_a_failure() -> None:
    tools = {**GOOD.tools, "qemu-system-x86_64": Tool(Path("/usr/bin/qemu-system-x86_64"))}
    [check] = [c for c in check_host(replace(GOOD, tools=tools)) if c.status is not Status.OK]
    assert check.status is Status.FAILURE
    assert check.advice == "/usr/bin/qemu-system-x86_64 --version"


def test_directories_on_one_file_system_are_one_line() -> None:
    disks = (Disk(Path("/a"), GIB, GIB, 1), Disk(Path("/b"), GIB, GIB, 1), Disk(STORAGE, 0, 1, 2))
    lines = [c.found for c in check_host(replace(GOOD, disks=disks)) if c.name == "disk"]
    assert sorted(lines) == ["0.0 GiB free in /srv/storage", "1.0 GiB free in /a"]


# --- capacity

COST = CapacityRequest(vms=3, vcpus=3, memory_mib=3072, disk_bytes=60 * GIB, disk_directory=STORAGE)


def test_what_fits_is_passed_over_in_silence() -> None:
    assert check_capacity(COST, GOOD) == []


@pytest.mark.fault("F39", "more memory than is available")
def test_memory_is_counted_with_what_qemu_takes_itself() -> None:
    enough = replace(GOOD, memory=Memory(16000, 3072 + 3 * 300))
    assert check_capacity(COST, enough) == []
    [check] = check_capacity(COST, replace(GOOD, memory=Memory(16000, 3072 + 3 * 300 - 1)))
    assert check.status is Status.FAILURE
    assert check.found == (
        "3 VMs need 3972 MiB (900 MiB of it for QEMU itself), 3971 MiB are available"
    )


@pytest.mark.fault("F39", "more memory than a cgroup allows")
def test_a_cgroup_limit_counts_as_the_end_of_memory() -> None:
    limited = replace(GOOD, memory=Memory(16000, 12000, cgroup_headroom_mib=1000))
    assert [check.name for check in check_capacity(COST, limited)] == ["memory"]


@pytest.mark.fault("F39", "more huge pages than are free")
def test_hugepages_are_taken_from_their_pool_and_not_from_the_rest() -> None:
    tight = replace(
        GOOD, memory=Memory(16000, 1000), hugepages=(Hugepages(2048, total=2000, free=1536),)
    )
    assert check_capacity(replace(COST, hugepage_kib=2048), tight) == []
    few = replace(tight, hugepages=(Hugepages(2048, total=2000, free=1500),))
    [check] = check_capacity(replace(COST, hugepage_kib=2048), few)
    assert check.status is Status.FAILURE
    assert check.found == "1536 pages of 2048 KiB are needed, 1500 are free"
    assert check.advice == (
        "echo 2036 | sudo tee /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
    )


def test_more_vcpus_than_cpus_are_a_warning() -> None:
    [check] = check_capacity(replace(COST, vcpus=9), GOOD)
    assert (check.status, check.found) == (
        Status.WARNING,
        "9 vCPUs share 8 CPUs: jobs will be slower",
    )


def test_disks_that_may_outgrow_the_room_are_a_warning_and_no_room_at_all_a_failure() -> None:
    [check] = check_capacity(replace(COST, disk_bytes=101 * GIB), GOOD)
    assert check.status is Status.WARNING
    assert "may grow to 101.0 GiB, 100.0 GiB are free" in check.found
    full = replace(GOOD, disks=(Disk(STORAGE, 700 * 1024**2, 200 * GIB),))
    [check] = check_capacity(COST, full)
    assert check.status is Status.FAILURE
    assert "3 VMs cannot even boot" in check.found


def test_what_is_not_known_stops_nobody() -> None:
    assert check_capacity(COST, HostFacts(user="ada", is_root=False)) == []


# --- subnets


@pytest.mark.fault("S28", "routes, links, name servers of a host")
@pytest.mark.parametrize(
    ("subnet", "users"),
    [
        ("10.20.0.0/24", []),
        ("172.16.0.0/16", []),
        ("192.168.0.0/24", []),
        ("192.168.2.0/28", []),
        ("192.168.1.0/24", ["the host's 192.168.1.0/24 on eth0"]),
        ("192.168.1.240/28", ["the host's 192.168.1.0/24 on eth0"]),
        ("192.168.0.0/16", ["the host's 192.168.1.0/24 on eth0"]),
        ("10.8.77.0/24", ["the host's 10.8.0.0/16 on vpn0"]),
        ("10.9.0.0/16", []),
        ("172.17.3.0/24", ["the host's 172.17.0.0/16 on docker0"]),
        ("172.18.0.0/16", []),
        ("10.1.1.0/24", ["the name server 10.1.1.1"]),
        ("10.1.2.0/24", []),
        ("10.77.0.0/25", ["10.77.0.0/24 of network demo"]),
        ("10.77.1.0/24", []),
    ],
)
def test_a_subnet_that_would_hide_something_of_the_host_is_refused(
    subnet: str, users: list[str]
) -> None:
    taken = {"network demo": IPv4Network("10.77.0.0/24")}
    found = check_subnet_collisions(IPv4Network(subnet), GOOD, taken=taken)
    assert [check.found for check in found] == [f"{subnet} overlaps {user}" for user in users]
    assert all(check.status is Status.FAILURE for check in found)


def test_the_clusters_own_bridge_is_no_collision() -> None:
    ours = Route(IPv4Network("10.30.0.0/24"), "ah0123456789")
    facts = replace(GOOD, routes=(ours,), addresses=(ours,))
    subnet = IPv4Network("10.30.0.0/24")
    assert check_subnet_collisions(subnet, facts, own_bridge="ah0123456789") == []
    assert len(check_subnet_collisions(subnet, facts)) == 1
