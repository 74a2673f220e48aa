"""Adaptation: from a support set of a new modality to something that captions it."""
