"""ai-how: a working virtual HPC cluster from one YAML file."""

__version__ = "0.1.0"
