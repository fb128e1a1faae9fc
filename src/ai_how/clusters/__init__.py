"""What every kind of cluster has, whatever runs on its nodes."""
