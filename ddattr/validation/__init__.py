"""Is the score right? Ground truth by retraining, the field's standard evaluations, and peers."""
