"""Tests that look at one cluster. They are a package, so that pytest ends it after the last one."""
