"""From raw signals to captions: every stage as a library; `jobs` holds the entry points."""
