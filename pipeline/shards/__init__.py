"""Embedding shards on disk: schema, manifest, writer, reader, verification."""
