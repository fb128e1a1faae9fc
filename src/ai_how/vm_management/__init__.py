"""What touches the hypervisor."""
