"""The steps that plans of every kind use, by their kind in the journal."""

from collections.abc import Mapping

from ai_how.plan.step import Step
from ai_how.vm_management.steps import (
    disks,
    domains,
    guest,
    leases,
    networks,
    ports,
    power,
    suspend,
    vgpus,
)

COMMON: tuple[type[Step], ...] = (
    networks.DefineNetwork,
    networks.StartNetwork,
    networks.RestartNetwork,
    networks.UpdateNetworkHosts,
    networks.RestartDhcp,
    networks.ReconnectInterface,
    networks.RepairUplink,
    networks.RemoveNetwork,
    disks.PlaceBase,
    disks.ClaimDirectory,
    disks.CreateOverlay,
    disks.GrowDisk,
    disks.BackUpDisk,
    disks.RemoveDisk,
    disks.RemoveDiskDirectory,
    domains.DefineDomain,
    leases.LeaseDevices,
    vgpus.MakeVgpu,
    leases.ReturnDevices,
    domains.StartDomain,
    domains.RestoreDomain,
    suspend.SuspendDomain,
    suspend.StartFromManagedSave,
    guest.AwaitAgent,
    guest.GiveIdentity,
    guest.CheckClocks,
    ports.OpenPorts,
    power.ShutDownGuest,
    power.DestroyDomain,
)


def step_types(*own: type[Step]) -> Mapping[str, type[Step]]:
    """All steps that journals of a kind may contain: the common ones and its `own`."""
    return {step.kind: step for step in (*COMMON, *own)}
