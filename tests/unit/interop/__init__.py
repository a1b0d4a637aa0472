"""Models of other systems."""
