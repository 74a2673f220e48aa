"""Training: a pure step, a loop that reads top to bottom, contexts and checkpoints."""
