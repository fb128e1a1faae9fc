"""Disks of VMs: base images, overlays, directories, and the space that they take."""
