"""Type aliases for annotations that Keras does not provide."""

from typing import Any, TypeAlias

# A tensor of the Keras backend, or a `keras.KerasTensor` while a model is built.
Tensor: TypeAlias = Any
# The shape of a tensor: integers, `None` for unknown dimensions.
Shape: TypeAlias = tuple[Any, ...]
# A kernel size or strides: one number for both dimensions, or a pair.
Size: TypeAlias = int | tuple[int, int]
# An initializer, regularizer, constraint or activation in any form that Keras accepts: a name, a config or an object.
Configured: TypeAlias = Any
