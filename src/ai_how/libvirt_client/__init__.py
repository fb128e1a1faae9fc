"""The only code that speaks to libvirt: one client, for many threads."""

import os

# libvirt reads this once, when it is loaded; without it, its warnings would go to our stderr.
os.environ.setdefault("LIBVIRT_DEBUG", "4")
