"""The VMs of nodes: their definition, placement on the host, agents and clocks."""
