"""Show it: metrics, W&B, figures, the report."""
