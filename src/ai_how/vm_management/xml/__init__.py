"""The XML that libvirt is given."""
