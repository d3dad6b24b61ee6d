"""Names for what Keras has no types of, for annotations."""

from typing import Any, TypeAlias

# A tensor of whatever backend Keras runs on, or a `keras.KerasTensor` while a model is built.
Tensor: TypeAlias = Any
# The sides of a tensor: integers, `None` where one is open.
Shape: TypeAlias = tuple[Any, ...]
# What a convolution takes for a kernel size or strides: one number for both sides, or a pair.
Size: TypeAlias = int | tuple[int, int]
# What Keras makes an initializer, a regularizer, a constraint or an activation of: a name, a config, an object.
Configured: TypeAlias = Any
