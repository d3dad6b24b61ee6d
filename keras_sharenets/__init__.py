"""Convolutional networks that reuse their filters, for Keras 3."""

import importlib

from keras_sharenets import layers, models
from keras_sharenets.analysis import profile
from keras_sharenets.models import create_model, list_models

__version__ = "0.1.0"
__all__ = ["create_model", "layers", "list_models", "mobile", "models", "profile"]


def __getattr__(name):
    # `mobile` needs TensorFlow; whoever trains on JAX should not have to load it.
    if name == "mobile":
        return importlib.import_module("keras_sharenets.mobile")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
