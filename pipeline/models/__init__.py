"""Projector, adapters, hypernetworks and the frozen language model."""
