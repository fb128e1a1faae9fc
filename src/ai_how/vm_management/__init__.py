"""The virtual hardware, whatever runs in it."""
