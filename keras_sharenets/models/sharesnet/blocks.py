"""Residual blocks of which a stage shares one 3x3 convolution (the paper's figures 2 and 3).

A block is a function of `(x, width, strides, shared, name)`. `shared` is the convolution layer of its stage, or `None`
where the block keeps one of its own. Every other convolution and every batch normalization is the block's own.
"""

from collections.abc import Callable, Sequence

import keras

from keras_sharenets._types import Configured, Tensor
from keras_sharenets.models import base

POLICIES = ("none", "rest", "stride1", "all")


def _initializer() -> Configured:
    # A new one for every layer: one object would give the same numbers to all kernels of a shape.
    return keras.initializers.VarianceScaling(2, "fan_out", "untruncated_normal")


def conv(x: Tensor, filters: int, kernel_size: int = 1, *, strides: int = 1, name: str) -> Tensor:
    """A convolution of the block's own."""
    return base.conv2d(x, filters, kernel_size, strides=strides, name=name, kernel_initializer=_initializer())


def _shared_conv(filters: int, name: str) -> keras.layers.Layer:
    return keras.layers.Conv2D(
        filters,
        3,
        padding="same",
        data_format="channels_last",
        use_bias=False,
        kernel_initializer=_initializer(),
        name=name,
    )


def _spatial(x: Tensor, width: int, strides: int, shared: keras.layers.Layer | None, name: str) -> Tensor:
    """The 3x3 convolution that stands for the stage's spatial relations (the paper's W_s)."""
    return conv(x, width, 3, strides=strides, name=f"{name}_spatial") if shared is None else shared(x)


def _projected(
    x: Tensor, active: Tensor, filters: int, strides: int, name: str, shortcut: str = "projection"
) -> Tensor:
    """The shortcut of a preactivated block: its input; where shapes differ, that padded or the activated projected."""
    if x.shape[-1] == filters and strides == 1:
        return x
    if shortcut == "padded":
        return base.padded_shortcut(x, filters, strides, name)
    return conv(active, filters, strides=strides, name=f"{name}_projection")


def preactivated_bottleneck(
    x: Tensor, width: int, strides: int, shared: keras.layers.Layer | None, name: str
) -> Tensor:
    """1x1 to `width`, 3x3, 1x1 to `4 * width`, each after normalization and ReLU. The stride is in the first."""
    filters = 4 * width
    active = base.norm_relu(x, f"{name}_input")
    shortcut = _projected(x, active, filters, strides, name)
    x = conv(active, width, strides=strides, name=f"{name}_reduce")
    x = base.norm_relu(x, f"{name}_reduced")
    x = _spatial(x, width, 1, shared, name)
    x = base.norm_relu(x, f"{name}_convolved")
    x = conv(x, filters, name=f"{name}_expand")
    return keras.layers.Add(name=f"{name}_add")([shortcut, x])


def preactivated_basic(
    x: Tensor,
    width: int,
    strides: int,
    shared: keras.layers.Layer | None,
    name: str,
    dropout_rate: float = 0.0,
    shortcut: str = "projection",
) -> Tensor:
    """Two 3x3 convolutions to `width`, each after normalization and ReLU. The stride is in the first."""
    active = base.norm_relu(x, f"{name}_input")
    source = _projected(x, active, width, strides, name, shortcut)
    x = conv(active, width, 3, strides=strides, name=f"{name}_first")
    x = base.norm_relu(x, f"{name}_middle")
    if dropout_rate:
        x = keras.layers.Dropout(dropout_rate, name=f"{name}_dropout")(x)
    x = _spatial(x, width, 1, shared, name)
    return keras.layers.Add(name=f"{name}_add")([source, x])


def _add_relu(x: Tensor, source: Tensor, strides: int, name: str, shortcut: str = "projection") -> Tensor:
    """`x` plus the block's input, that one padded or projected and normalized where its shape is another, then ReLU."""
    filters = x.shape[-1]
    if shortcut == "padded":
        source = base.padded_shortcut(source, filters, strides, name)
    elif source.shape[-1] != filters or strides > 1:
        projection = f"{name}_projection"
        source = base.norm(conv(source, filters, strides=strides, name=projection), projection)
    x = keras.layers.Add(name=f"{name}_add")([source, x])
    return keras.layers.ReLU(name=f"{name}_relu")(x)


def bottleneck(
    x: Tensor, width: int, strides: int, shared: keras.layers.Layer | None, name: str, stride_on: str
) -> Tensor:
    """1x1 to `width`, 3x3, 1x1 to `4 * width`, each before normalization and ReLU.

    The stride is in the first (`stride_on="reduce"`) or in the 3x3 (`"spatial"`; a strided one is never shared).
    """
    source = x
    reduce_strides, spatial_strides = (strides, 1) if stride_on == "reduce" else (1, strides)
    x = conv(x, width, strides=reduce_strides, name=f"{name}_reduce")
    x = base.norm_relu(x, f"{name}_reduced")
    x = _spatial(x, width, spatial_strides, shared, name)
    x = base.norm_relu(x, f"{name}_convolved")
    x = base.norm(conv(x, 4 * width, name=f"{name}_expand"), f"{name}_expanded")
    return _add_relu(x, source, strides, name)


def basic(
    x: Tensor,
    width: int,
    strides: int,
    shared: keras.layers.Layer | None,
    name: str,
    shortcut: str = "projection",
) -> Tensor:
    """Two 3x3 convolutions to `width`, each before normalization and ReLU. The stride is in the first."""
    source = x
    x = conv(x, width, 3, strides=strides, name=f"{name}_first")
    x = base.norm_relu(x, f"{name}_middle")
    x = base.norm(_spatial(x, width, 1, shared, name), f"{name}_convolved")
    return _add_relu(x, source, strides, name, shortcut)


def _is_sharing(share: str, index: int, strides: int) -> bool:
    """Whether a block uses its stage's convolution. The sharing policies differ in the first block alone."""
    first = {"none": False, "rest": False, "stride1": strides == 1, "all": True}
    return first[share] if index == 1 else share != "none"


def stages(x: Tensor, block: Callable[..., Tensor], width: int, blocks_per_stage: Sequence[int], share: str) -> Tensor:
    """All blocks of a network: each stage twice as wide as the one before, and half as high from the second on."""
    for stage, count in enumerate(blocks_per_stage, start=1):
        stage_width = width * 2 ** (stage - 1)
        shared = _shared_conv(stage_width, f"stage{stage}_shared")
        for index in range(1, count + 1):
            strides = 2 if stage > 1 and index == 1 else 1
            used = shared if _is_sharing(share, index, strides) else None
            x = block(x, stage_width, strides, used, f"stage{stage}_block{index}")
    return x
