"""Entry points: `python -m jobs.<name>` from the project's root."""
