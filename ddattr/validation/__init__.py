"""Is the score right? Ground truth by retraining, the field's standard evaluations, and peers."""

TABLED = 4  # raised whenever `validate` would write other tables of the same scores, so that older ones are refused
