"""Training recipes: one per paper and data set."""
