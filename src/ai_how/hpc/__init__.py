"""What makes a cluster a SLURM cluster."""
