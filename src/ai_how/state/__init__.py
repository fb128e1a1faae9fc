"""What is remembered on disk about a cluster between two commands."""
