"""The miniature suite: generated signals, written as the files that users have."""
