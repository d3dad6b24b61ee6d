"""One network of every family, for CIFAR-10 images, for tests of all families."""

import keras_sharenets as ksn
from keras_sharenets.models.registry import FAMILIES

# Family: a named network, and arguments that make it small.
REPRESENTATIVES = {key: family.representative for key, family in FAMILIES.items()}


def representative(family, **overrides):
    """An untrained network of a family for 10 classes and normalized 32x32 images."""
    name, cheaper = REPRESENTATIVES[family]
    return ksn.create_model(
        name, **{"num_classes": 10, "input_shape": (32, 32, 3), "include_preprocessing": False, **cheaper, **overrides}
    )
