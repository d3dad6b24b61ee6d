"""Convolutional networks that reuse their filters, for Keras 3."""

from keras_sharenets import layers, models
from keras_sharenets.models import create_model, list_models

__version__ = "0.1.0"
__all__ = ["create_model", "layers", "list_models", "models"]
