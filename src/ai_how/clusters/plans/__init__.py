"""Plans, or their parts, for clusters of every kind."""
