"""Networks of VMs: subnets, definitions, and drift from the definition."""
