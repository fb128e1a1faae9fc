"""Tests of one Kubernetes cluster. They are a package, so that pytest ends it at their end."""
