"""Playbooks of Ansible on a cluster that is up: which ones run where, and how they are run."""
