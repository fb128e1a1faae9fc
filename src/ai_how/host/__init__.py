"""The host: facts, checks, whether KVM works, the embedded host."""
