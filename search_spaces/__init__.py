"""What may be tuned, and for which devices: YAML with a schema."""
