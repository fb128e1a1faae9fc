"""The steps of plans that change VMs, disks and networks."""
