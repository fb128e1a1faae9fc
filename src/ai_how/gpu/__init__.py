"""The GPUs of the host: what they are, who uses them, and what they can give to a VM."""
