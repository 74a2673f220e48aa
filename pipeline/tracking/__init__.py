"""Experiment tracking; the only place that imports mlflow."""
