"""Episodes: synthetic modalities drawn as pure functions of (seed, index)."""
