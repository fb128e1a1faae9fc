"""Where it runs: facts, checks, KVM's truth, the embedded host."""
