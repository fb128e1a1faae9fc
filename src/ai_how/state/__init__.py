"""The state of clusters on disk, between two commands."""
