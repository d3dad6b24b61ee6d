"""One training run, from a data set to files."""
