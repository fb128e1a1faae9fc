"""The full-screen view of a cluster (`hpc top`), on Textual, which is an extra."""
