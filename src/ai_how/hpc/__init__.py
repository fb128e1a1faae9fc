"""The SLURM kind of cluster."""
