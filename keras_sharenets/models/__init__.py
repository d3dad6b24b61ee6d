"""Networks: one factory a family, and every network of the papers by name."""

from keras_sharenets.models.hscnet import HSCNet
from keras_sharenets.models.registry import create_model, find_family, find_variant, list_models

__all__ = ["HSCNet", "create_model", "find_family", "find_variant", "list_models"]
