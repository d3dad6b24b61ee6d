"""Data sets by name or folder, for notebooks and scripts of a checkout: `from trainers.data import load`."""

from keras_sharenets.training.data.sources import load

__all__ = ["load"]
