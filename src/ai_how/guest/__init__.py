"""What runs inside a node: identity, SLURM, ssh."""
