"""Data sets by name or folder, for notebooks and scripts in a checkout: `from trainers.data import load`."""

from keras_sharenets.training.data.sources import load

__all__ = ["load"]
