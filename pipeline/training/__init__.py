"""The training loop, its context interface and checkpoints."""
