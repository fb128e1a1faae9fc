"""What is seen of a cluster over time: collected, kept, judged, and handed to those who look."""
