"""VMs that were saved without an identity, and are restored as new nodes."""
