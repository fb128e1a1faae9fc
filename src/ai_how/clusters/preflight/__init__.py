"""Checks and choices before the first change."""
