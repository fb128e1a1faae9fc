"""VMs as nodes: their definition, their place on the host, their agents and clocks."""
