"""What goes with the devices of the host that nodes get: NUMA node, huge pages, addresses."""

from dataclasses import replace
from pathlib import Path

import pytest

from ai_how.clusters.preflight.capacity import capacity_request
from ai_how.clusters.preflight.device_hardware import (
    HardwareChoices,
    HardwareHost,
    check_device_hardware,
    choose_device_hardware,
    require_device_hardware,
)
from ai_how.errors import HostError
from ai_how.libvirt_client.placements import Placement, placement_in
from ai_how.spec.nodes import Node, nodes_of
from ai_how.state.paths import ClusterPaths, StoragePaths
from ai_how.vm_management.vgpus import Vgpu
from cluster_bench import DIGEST, draft_of, make_image, read_hpc, rendering_of
from gpu_host import GEFORCE, NVIDIA, RADEON, SOUND, T4, VGA, GpuHost

SECOND = "0000:b3:00.0"
FUNCTIONS = {"compute-01": (GEFORCE, SOUND), "compute-02": (SECOND,)}
CARD = f'gpu: {{pci: "{GEFORCE}"}}'
OTHER = f'gpu: {{pci: "{SECOND}"}}'
PINNED = "hardware: {acceleration: {performance: {cpu_pinning: true}}}"
HUGE = "hardware: {acceleration: {performance: {enable_hugepages: true}}}"


@pytest.fixture
def host(tmp_path: Path) -> GpuHost:
    """Two cards at the second of two NUMA nodes with eight CPUs each."""
    host = GpuHost(tmp_path / "host")
    host.add_geforce(driver="nvidia")
    host.add(SECOND, (NVIDIA, 0x2684), VGA, group=13, driver="nvidia")
    host.set(SOUND, numa_node="1")
    host.set(SECOND, numa_node="1")
    host.add_numa_node(0, "0-3,8-11")
    host.add_numa_node(1, "4-7,12-15")
    host.write("proc/self/status", "Name:\tpython3\nCpus_allowed_list:\t0-15\n")
    return host


def file_of(*nodes: str, cluster: str = "", cpus: int = 4, memory_gb: float = 2) -> list[Node]:
    return list(nodes_of(hpc_of(*nodes, cluster=cluster, cpus=cpus, memory_gb=memory_gb)))


def hpc_of(*nodes: str, cluster: str = "", cpus: int = 4, memory_gb: float = 2):
    size = f"cpu_cores: {cpus}, memory_gb: {memory_gb}, disk_gb: 10"
    rows = "".join(f"\n      - {{{size}{f', {one}' if one else ''}}}" for one in nodes)
    return read_hpc(cluster or "start: {warm: true}", nodes=f"compute_nodes:{rows}")


def choose(
    host: GpuHost,
    *nodes: str,
    cluster: str = "",
    cpus: int = 4,
    memory_gb: float = 2,
    wanted: tuple[str, ...] = ("compute-01", "compute-02"),
    vgpus: dict[str, Vgpu] | None = None,
    **on: object,
) -> HardwareChoices:
    hpc = hpc_of(*nodes, cluster=cluster, cpus=cpus, memory_gb=memory_gb)
    return choose_device_hardware(
        nodes_of(hpc),
        {} if vgpus else FUNCTIONS,
        vgpus or {},
        hpc.hardware,
        HardwareHost(machine=host.root, **on),  # type: ignore[arg-type]
        wanted=wanted,
    )


def placed(found: HardwareChoices) -> dict[str, tuple[int, ...]]:
    return {name: one.placement.cpus for name, one in found.nodes.items()}


def test_a_node_is_kept_on_the_numa_node_of_its_card_and_no_two_share_cpus(host: GpuHost) -> None:
    found = choose(host, CARD, OTHER, "")
    assert placed(found) == {"compute-01": (12, 13, 14, 15), "compute-02": (4, 5, 6, 7)}
    assert {one.placement.numa_node for one in found.nodes.values()} == {1}
    assert not any(one.placement.is_strict for one in found.nodes.values())
    assert (found.notes, found.refusals) == ({}, {})


def test_a_host_with_one_numa_node_has_nothing_to_choose(tmp_path: Path) -> None:
    host = GpuHost(tmp_path)
    host.add_geforce()
    host.add_numa_node(0, "0-7")
    found = choose(host, f"{CARD}, hardware: {{numa: true}}")
    assert found.nodes["compute-01"].placement == Placement()
    assert (found.notes, found.refusals) == ({}, {})
    assert choose(host, "", "") == HardwareChoices()


@pytest.mark.parametrize(
    ("numa_node", "of_sound", "cpus", "why"),
    [
        ("-1", "-1", 4, f"the host does not say on which one {GEFORCE} is"),
        ("0", "1", 4, "its devices are on the nodes 0 and 1"),
        ("1", "1", 9, "node 1 has 8 free CPUs for 9 vCPUs"),
        ("7", "7", 4, "node 7 has 0 free CPUs for 4 vCPUs"),
    ],
)
def test_what_cannot_be_is_told_and_refused_only_if_asked_for(
    host: GpuHost, numa_node: str, of_sound: str, cpus: int, why: str
) -> None:
    host.set(GEFORCE, numa_node=numa_node)
    host.set(SOUND, numa_node=of_sound)
    found, said = choose(host, CARD, cpus=cpus), list[str]()
    assert found.nodes["compute-01"].placement == Placement()
    nodes = file_of(CARD)[1:]
    require_device_hardware(found, nodes, said.append)
    assert said == [f"compute-01 is not kept on the NUMA node of its devices: {why}"]
    assert [one.found for one in check_device_hardware(found, ["compute-01"])] == said
    asked = choose(host, f"{CARD}, hardware: {{numa: true}}", cpus=cpus)
    with pytest.raises(HostError) as caught:
        require_device_hardware(asked, nodes, said.append)
    assert caught.value.brief == f"compute-01 cannot be kept on a NUMA node: {why}"
    assert caught.value.hint == "hardware: {numa: false}  # of that node, in the cluster file"
    require_device_hardware(asked, [], said.append)  # it stays off
    never = choose(host, f"{CARD}, hardware: {{numa: false}}", cpus=cpus)
    assert (never.notes, never.refusals) == ({}, {})


def test_cpus_that_we_may_not_use_or_that_another_vm_has_are_not_given(host: GpuHost) -> None:
    host.write("proc/self/status", "Cpus_allowed_list:\t0-14\n")
    theirs = "<domain><cputune><vcpupin vcpu='0' cpuset='14'/></cputune></domain>"
    floating = "<domain><cputune><vcpupin vcpu='0' cpuset='0-15'/></cputune></domain>"
    found = choose(host, CARD, others=[theirs, floating, "<no xml"])
    assert placed(found) == {"compute-01": (6, 7, 12, 13)}


def test_a_node_that_is_started_goes_before_one_that_stays_off(host: GpuHost) -> None:
    found = choose(host, CARD, OTHER, cpus=6, wanted=("compute-02",))
    assert placed(found) == {"compute-01": (), "compute-02": (6, 7, 12, 13, 14, 15)}


def test_a_vm_that_is_on_keeps_what_it_has(host: GpuHost, tmp_path: Path) -> None:
    """Else each start would call it out of date, and its CPUs would be given to another."""
    host.mount_hugepages("2M")
    host.add_numa_node(1, "4-7,12-15", _2048kB=1024)
    hpc = hpc_of(CARD, OTHER)
    made = replace(draft_of(hpc), functions=FUNCTIONS)
    images = {DIGEST: make_image(tmp_path / "image")}

    def xml_of(choices: HardwareChoices, node: str) -> str:
        desired = replace(made, device_hardware=choices.nodes)
        inputs = rendering_of(desired, StoragePaths(tmp_path), ClusterPaths(tmp_path), images)
        [pair] = [pair for pair in made.nodes if pair[1].name == node]
        return inputs.domain_xml(*pair)

    first = choose(host, CARD, OTHER, wanted=("compute-02",))
    sent = xml_of(first, "compute-02")
    assert placement_in(sent) == Placement(cpus=(12, 13, 14, 15), numa_node=1, hugepage_kib=2048)
    # Its pages are no longer free, and the other one is asked for first.
    host.add_numa_node(1, "4-7,12-15", _2048kB=0)
    later = choose(host, CARD, OTHER, wanted=("compute-01",), running={"compute-02": sent})
    assert xml_of(later, "compute-02") == sent
    assert placed(later)["compute-01"] == (4, 5, 6, 7)
    # A VM that began without goes on without.
    bare = xml_of(HardwareChoices(), "compute-02")
    kept = choose(host, CARD, OTHER, running={"compute-02": bare})
    assert xml_of(kept, "compute-02") == bare
    # What the file asks for counts more.
    never = f"{OTHER}, hardware: {{numa: false, hugepages: false}}"
    changed = choose(host, CARD, never, running={"compute-02": sent})
    assert changed.nodes["compute-02"].placement == Placement()


@pytest.mark.parametrize(
    ("mounted", "small", "large", "memory_gb", "page"),
    [
        (("2M", "1024M"), 4096, 2, 2, 1048576),
        (("2M", "1024M"), 4096, 2, 2.5, 2048),
        (("2M",), 4096, 2, 2, 2048),
        (("2M", "1024M"), 1023, 1, 2, None),
        ((), 4096, 2, 2, None),
    ],
)
def test_huge_pages_are_taken_where_enough_are_free(
    host: GpuHost, mounted: tuple[str, ...], small: int, large: int, memory_gb: float, page: int
) -> None:
    host.mount_hugepages(*mounted)
    host.add_numa_node(0, "0-3,8-11", _2048kB=9999, _1048576kB=9)
    host.add_numa_node(1, "4-7,12-15", _2048kB=small, _1048576kB=large)
    found = choose(host, CARD, memory_gb=memory_gb)
    assert found.nodes["compute-01"].placement.hugepage_kib == page
    assert not found.refusals
    no_libvirt = choose(host, CARD, memory_gb=memory_gb, has_hugepages=False)
    assert no_libvirt.nodes["compute-01"].placement.hugepage_kib is None


def test_no_page_is_given_twice(host: GpuHost) -> None:
    host.mount_hugepages("2M")
    host.add_numa_node(1, "4-7,12-15", _2048kB=1536)
    found = choose(host, CARD, OTHER)
    assert [one.placement.hugepage_kib for one in found.nodes.values()] == [2048, None]
    asked = choose(host, CARD, f"{OTHER}, hardware: {{hugepages: true}}")
    assert asked.refusals["compute-02"].found == (
        "compute-02 needs 1024 huge pages of 2048 KiB on NUMA node 1, 512 are free"
    )
    file = "/sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages"
    assert asked.refusals["compute-02"].advice == f"echo $(($(cat {file}) + 512)) | sudo tee {file}"


def test_a_kernel_without_numa_has_huge_pages_too(tmp_path: Path) -> None:
    host = GpuHost(tmp_path)
    host.add_geforce()
    host.mount_hugepages("2M")
    pool = "sys/kernel/mm/hugepages/hugepages-2048kB"
    host.write(f"{pool}/nr_hugepages", "2048\n")
    for free, page in ((1024, 2048), (1023, None)):
        host.write(f"{pool}/free_hugepages", f"{free}\n")
        assert choose(host, CARD).nodes["compute-01"].placement == Placement(hugepage_kib=page)


def test_memory_of_huge_pages_is_not_asked_of_the_rest(host: GpuHost, tmp_path: Path) -> None:
    host.mount_hugepages("2M")
    host.add_numa_node(1, "4-7,12-15", _2048kB=1024)
    found = choose(host, CARD, "")
    cost = capacity_request(file_of(CARD, ""), found.nodes, hpc_of("").hardware, tmp_path)
    assert (cost.vms, cost.memory_mib, cost.plain_mib) == (3, 1024 + 2048, 0)
    # Of a cluster on huge pages, a node can be left out.
    hpc = hpc_of(f"{CARD}, hardware: {{hugepages: false}}", "", cluster=HUGE)
    cost = capacity_request(nodes_of(hpc), {}, hpc.hardware, tmp_path)
    assert (cost.memory_mib, cost.plain_mib, cost.hugepage_kib) == (1024 + 2048, 2048, 2048)


@pytest.mark.parametrize(
    ("gib", "bits", "window"), [(16, 39, None), (32, 39, 64), (128, 46, 256), (512, 39, None)]
)
def test_large_regions_get_addresses(
    host: GpuHost, gib: int, bits: int, window: int | None
) -> None:
    """The card has 32 MiB besides its large region. A 39-bit CPU addresses 512 GiB."""
    host.write("proc/cpuinfo", f"address sizes\t: {bits} bits physical, 48 bits virtual\n")
    lines = (host.device(GEFORCE) / "resource").read_text().splitlines()
    start = 1 << 37
    lines[1] = f"{start:#018x} {start + (gib << 30) - 1:#018x} 0x000000000014220c"
    host.set(GEFORCE, resource="\n".join(lines))
    assert choose(host, CARD).nodes["compute-01"].window_gib == window
    asked = choose(host, f"{CARD}, hardware: {{mmio_gb: 100}}")
    assert asked.nodes["compute-01"].window_gib == 100


def test_vgpus_count_by_their_card(host: GpuHost) -> None:
    uuid = "0e4a9b6c-0000-4000-8000-000000000002"
    host.add_t4(16, uuid)
    host.set(T4, numa_node="0")
    mdev = host.root / "sys/bus/mdev/devices" / uuid
    mdev.parent.mkdir(parents=True)
    (host.device(T4) / uuid).mkdir()
    mdev.symlink_to(host.device(T4) / uuid)
    made = Vgpu(parent=T4, type="nvidia-222")
    profile = "gpu: {vgpu: {profile: nvidia-222}}"
    found = choose(host, f"vgpu: {{mdev_uuid: {uuid}}}", profile, vgpus={"compute-02": made})
    assert placed(found) == {"compute-01": (8, 9, 10, 11), "compute-02": (0, 1, 2, 3)}


def test_cards_of_other_makers_and_graphics_are_known(host: GpuHost) -> None:
    host.add_radeon()
    nodes = [f'gpu: {{pci: "{GEFORCE}"}}', f'gpu: {{pci: "{RADEON}"}}']
    hpc = hpc_of(*nodes)
    devices = {"compute-01": (GEFORCE, SOUND), "compute-02": (RADEON,)}
    found = choose_device_hardware(
        nodes_of(hpc), devices, {}, hpc.hardware, HardwareHost(machine=host.root), wanted=()
    ).nodes
    assert (found["compute-01"].graphics, found["compute-01"].foreign) == ((GEFORCE,), ())
    assert found["compute-02"].foreign == (RADEON,)


def test_a_rom_is_for_a_card_and_must_be_there(host: GpuHost) -> None:
    asked = f"{CARD}, hardware: {{rom_file: /srv/roms/card.rom}}"
    missing = choose(host, asked).refusals["compute-01"]
    assert missing.found == "there is no file /srv/roms/card.rom, the ROM for compute-01"
    host.write("srv/roms/card.rom", "")
    assert not choose(host, asked).refusals
    host.set(GEFORCE, **{"class": "0x020000"})
    other = choose(host, asked).refusals["compute-01"]
    assert other.found == "compute-01 has no GPU that /srv/roms/card.rom could be for"


def test_the_definition_has_it_all(host: GpuHost, tmp_path: Path) -> None:
    rom = "hardware: {rom_file: /srv/roms/card.rom, balloon: true}"
    hpc = hpc_of(f"{CARD}, {rom}", f"{OTHER}, hardware: {{rom: false, numa: true}}", "")
    choices = choose_device_hardware(
        nodes_of(hpc), FUNCTIONS, {}, hpc.hardware, HardwareHost(machine=host.root), wanted=()
    )
    desired = replace(draft_of(hpc), functions=FUNCTIONS, device_hardware=choices.nodes)
    inputs = rendering_of(
        desired,
        StoragePaths(tmp_path),
        ClusterPaths(tmp_path),
        {DIGEST: make_image(tmp_path / "image")},
    )
    _, first, second, plain = (inputs.domain_xml(*pair) for pair in desired.nodes)
    assert first.count("<rom file='/srv/roms/card.rom'/>") == 1
    assert "<pcihole64 unit='KiB'>67108864</pcihole64>" in first
    assert "<memballoon model='virtio'>" in first
    assert "<memory mode='preferred' nodeset='1'/>" in first
    assert "<rom bar='off'/>" in second
    assert "<memballoon model='none'/>" in second
    assert "<memory mode='strict' nodeset='1'/>" in second
    for word in ("numatune", "pcihole64", "vcpupin", "model='none'/>\n    <panic", "rom bar"):
        assert word not in plain


def test_the_pins_of_other_nodes_leave_room(host: GpuHost, tmp_path: Path) -> None:
    """With `cpu_pinning` of the cluster each CPU goes to one node as well."""
    from ai_how.vm_management.nodes.node_domain import pin_nodes  # noqa: PLC0415

    hpc = hpc_of(CARD, "", cluster=PINNED, cpus=2)
    found = choose(host, CARD, "", cluster=PINNED, cpus=2)
    pins = pin_nodes(hpc.hardware, nodes_of(hpc), range(16), placed(found))
    flat = [int(pin.cpuset) for own in pins.values() for pin in own]
    assert placed(found)["compute-01"] == (14, 15)
    assert sorted(flat) == [11, 12, 13, 14, 15]
