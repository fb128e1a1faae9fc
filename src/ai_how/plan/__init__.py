"""What will change: steps, executor, journal. Knows no libvirt."""
