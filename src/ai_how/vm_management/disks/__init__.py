"""Disks of VMs: base images, overlays, their directories, and the space that they need."""
