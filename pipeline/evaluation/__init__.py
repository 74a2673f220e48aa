"""Scores, support draws, intervals, and the report made of them (no ray, no mlflow)."""
