"""Data sets as raw pixels with labels, and batches of them."""
