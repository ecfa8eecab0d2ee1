"""What can be removed: pictures, and the units they belong to."""
