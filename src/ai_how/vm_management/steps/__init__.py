"""The steps of plans that act upon VMs, disks and networks."""
