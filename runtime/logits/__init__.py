"""What changes a row of logits before a token is drawn from it: one seam, one file for each kind of change."""
