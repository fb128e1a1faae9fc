"""What is seen of a cluster over time: collected, kept, judged, and shown by several faces."""
