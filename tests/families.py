"""One network of every family, at the size of CIFAR-10, for tests that each family passes."""

import keras_sharenets as ksn
from keras_sharenets.models.registry import FAMILIES

# Family: a named network and what makes it cheap.
REPRESENTATIVES = {key: family.representative for key, family in FAMILIES.items()}


def representative(family, **overrides):
    """An untrained network of a family for 10 classes and 32x32 images that are normalized already."""
    name, cheaper = REPRESENTATIVES[family]
    return ksn.create_model(
        name, **{"num_classes": 10, "input_shape": (32, 32, 3), "include_preprocessing": False, **cheaper, **overrides}
    )
