"""Networks of VMs: addresses, definitions, and what has become of them."""
