"""Raw samples: tables and files in, `Sample` rows and decoded `Signal`s out."""
