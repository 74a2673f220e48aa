"""Raw samples: sources, decoders and the generated miniature suite."""
