"""Saved VMs: booted and saved without an identity, to be restored as new nodes."""
