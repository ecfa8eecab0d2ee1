"""One module per verb: read the parents, do the work, write one artifact."""
