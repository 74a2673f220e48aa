"""Measurements: `python -m benchmarks.<name>` from the project's root."""
