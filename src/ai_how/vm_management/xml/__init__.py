"""Renders the XML that is sent to libvirt."""
