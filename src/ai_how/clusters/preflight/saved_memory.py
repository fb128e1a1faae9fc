"""Whether the memory of a cluster finds room where libvirt saves it."""



# Left free for state, logs and what guests write until they are off.
RESERVE_MIB = 256


