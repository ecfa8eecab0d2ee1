"""Versions of what `validate` writes: raised in the commit that changes it, so that what is older is refused."""

SCORED = 7  # whenever it would score otherwise
TABLED = 7  # whenever it would write other tables of the same scores
