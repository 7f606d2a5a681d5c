"""What nights of re-tuning found: one record each."""
