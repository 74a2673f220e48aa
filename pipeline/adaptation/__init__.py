"""Integration of a new modality, fine-tuning and baselines."""
