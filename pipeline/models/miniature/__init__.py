"""The frozen models of the miniature suite: built by `python -m jobs.prepare_miniature --rebuild-models`, committed."""
