"""Configuration: schema, presets, loading, fingerprints, and where results lie. Imports nothing above it."""
