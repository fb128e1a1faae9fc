"""Where the steps for devices of the host are in the plans of a SLURM cluster."""

import re
from dataclasses import replace
from pathlib import Path
from uuid import UUID

from ai_how.clusters.desired_cluster import DesiredCluster
from ai_how.clusters.observation import Observed
from ai_how.clusters.plans.destroy import plan_destroy
from ai_how.clusters.plans.step_types import step_types
from ai_how.hpc.plan import plan_start
from ai_how.hpc.stop_plan import plan_stop
from ai_how.libvirt_client.host_devices import devices_in
from ai_how.libvirt_client.vm_state import VmState
from ai_how.plan.records import decode_step, encode_step
from ai_how.plan.step import Plan
from ai_how.state.paths import StoragePaths, default_roots
from ai_how.vm_management.steps.domains import DefineDomain
from ai_how.vm_management.steps.leases import LeaseDevices, ReturnDevices
from ai_how.vm_management.vgpus import Vgpu
from cluster_bench import draft_of, everything_seen, make_image, read_hpc, rendering_of

GPU, SOUND, NIC = "0000:65:00.0", "0000:65:00.1", "0000:b3:00.0"
DEVICE = f"{{pci_address: '{NIC}', device_type: network}}"
NODE = "cpu_cores: 1, memory_gb: 1, disk_gb: 10"
HPC = read_hpc(
    nodes=f"""compute_nodes:
      - {{{NODE}, gpu: {{count: 1}}, pcie_passthrough: {{enabled: true, devices: [{DEVICE}]}}}}
      - {{{NODE}}}"""
)
DRAFT = replace(draft_of(HPC), functions={"compute-01": (GPU, SOUND)})


def start(tmp_path: Path, seen: Observed, draft: DesiredCluster = DRAFT) -> Plan:
    image = make_image(tmp_path / "image")
    inputs = rendering_of(
        draft, StoragePaths(tmp_path), default_roots(tmp_path).cluster("hpc"), {image.digest: image}
    )
    return plan_start(draft, seen, inputs)


def hostdev(address: str) -> str:
    """The XML of a VM's device with this address."""
    domain, bus, slot, function = re.split("[:.]", address)
    where = f"domain='0x{domain}' bus='0x{bus}' slot='0x{slot}' function='0x{function}'"
    return f"<hostdev type='pci'><source><address {where}/></source></hostdev>"


def with_card(state: VmState = VmState.RUNNING) -> Observed:
    """All is up, and the VM of compute-01 has a card."""
    seen = everything_seen(DRAFT, state)
    node = DRAFT.state.get_node("compute-01")
    domain = seen.domains[node.uuid]
    devices = "".join(hostdev(one) for one in (GPU, SOUND, NIC))
    xml = domain.xml.replace("<devices>", f"<devices>{devices}")
    return replace(seen, domains=dict(seen.domains) | {node.uuid: replace(domain, xml=xml)})


def test_the_lease_is_between_the_definition_and_the_boot(tmp_path: Path) -> None:
    steps = {step.key: step for step in start(tmp_path, Observed()).steps}
    lease = steps["lease/hpc-compute-01"]
    assert isinstance(lease, LeaseDevices)
    assert lease.devices == (GPU, SOUND, NIC)
    assert lease.needs == {"domain/hpc-compute-01"}
    assert lease.key in steps["boot/hpc-compute-01"].needs
    assert not {"lease/hpc-controller", "lease/hpc-compute-02"} & steps.keys()


def test_a_node_that_is_on_or_only_paused_keeps_its_lease(tmp_path: Path) -> None:
    seen = with_card()
    assert not [one for one in start(tmp_path, seen).steps if isinstance(one, LeaseDevices)]
    node = DRAFT.state.get_node("compute-01")
    paused = replace(seen.domains[node.uuid], state=VmState.PAUSED)
    seen = replace(seen, domains=dict(seen.domains) | {node.uuid: paused})
    keys = {step.key for step in start(tmp_path / "again", seen).steps}
    assert "boot/hpc-compute-01" in keys
    assert "lease/hpc-compute-01" not in keys


def test_a_stop_looks_at_the_devices_after_the_vm_is_off() -> None:
    steps = {step.key: step for step in plan_stop(DRAFT.state, with_card()).steps}
    returned = steps["return/hpc-compute-01"]
    assert returned.needs == {"off/hpc-compute-01"}
    assert [key for key in steps if key.startswith("return/")] == [returned.key]
    # A device that does not come back keeps neither the controller on, nor SLURM uninformed.
    assert not any(returned.key in step.needs for step in steps.values())
    off = with_card(VmState.SHUT_OFF)
    assert not any(isinstance(one, ReturnDevices) for one in plan_stop(DRAFT.state, off).steps)


def test_a_destroy_does_so_once_with_and_without_backups() -> None:
    seen = with_card()
    plan = plan_destroy(DRAFT.state, None, seen)
    [returned] = [step for step in plan.steps if isinstance(step, ReturnDevices)]
    assert returned.needs == {"undefine/hpc-compute-01"}
    stop = plan_stop(DRAFT.state, seen)
    plan = plan_destroy(DRAFT.state, stop, seen, backups=Path("/backups"))
    [returned] = [step for step in plan.steps if isinstance(step, ReturnDevices)]
    assert returned.needs == {"off/hpc-compute-01"}


def test_a_vgpu_is_made_last_before_the_boot(tmp_path: Path) -> None:
    mdev = UUID("5f2b1f0c-0000-4000-8000-000000000001")
    made = {"compute-01": Vgpu(GPU, "nvidia-230", mdev), "compute-02": Vgpu(NIC, "1148")}
    steps = {
        step.key: step for step in start(tmp_path, Observed(), replace(DRAFT, vgpus=made)).steps
    }
    assert steps["vgpu/hpc-compute-01"].needs == {"lease/hpc-compute-01"}
    assert steps["vgpu/hpc-compute-02"].needs == {"domain/hpc-compute-02"}
    for name in made:
        assert f"vgpu/hpc-{name}" in steps[f"boot/hpc-{name}"].needs
        step = steps[f"vgpu/hpc-{name}"]
        assert decode_step(encode_step(step), step_types()) == step
    xml = {key: step.xml for key, step in steps.items() if isinstance(step, DefineDomain)}
    assert str(mdev) in devices_in(xml["domain/hpc-compute-01"])
    assert devices_in(xml["domain/hpc-compute-02"]) == {NIC}
    assert "managed='no'" in xml["domain/hpc-compute-02"]


def test_a_stop_removes_mediated_devices_after_the_vm_is_off() -> None:
    seen = with_card()
    node = DRAFT.state.get_node("compute-01")
    mdev = "<hostdev type='mdev'><source><address uuid='5f2b1f0c'/></source></hostdev>"
    domain = seen.domains[node.uuid]
    devices = "".join(hostdev(one) for one in (GPU, SOUND, NIC))
    domain = replace(domain, xml=domain.xml.replace(devices, mdev))
    seen = replace(seen, domains=dict(seen.domains) | {node.uuid: domain})
    steps = {step.key: step for step in plan_stop(DRAFT.state, seen).steps}
    assert steps["return/hpc-compute-01"].needs == {"off/hpc-compute-01"}
