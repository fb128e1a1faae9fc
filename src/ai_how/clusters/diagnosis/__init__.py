"""Diagnosis of a failed step: which data is collected, and what it means."""
