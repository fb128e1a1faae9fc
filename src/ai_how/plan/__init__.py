"""Plans: steps, executor, journal and undo. Independent of libvirt."""
