"""All that clusters of every kind have in common."""
