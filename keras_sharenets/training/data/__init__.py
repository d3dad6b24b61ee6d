"""Data sets of raw pixels with labels, and their batches."""
