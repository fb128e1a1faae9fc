"""What touches the hypervisor."""

import os

# libvirt reads this once, when it is loaded; without it, its warnings would go to our stderr.
os.environ.setdefault("LIBVIRT_DEBUG", "4")
