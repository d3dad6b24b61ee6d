"""The command `sharenets`."""

from keras_sharenets.cli.networks import main

__all__ = ["main"]
