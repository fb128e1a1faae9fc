"""The software inside a node: identity, SLURM, ssh."""
