"""Residual blocks that share one 3x3 convolution within a stage (the paper's figures 2 and 3).

A block is a function of `(x, width, strides, shared, name)`. `shared` is the convolution layer of its stage, or `None`
if the block does not share. With `share_first`, it is both convolutions of a basic block. All other convolutions and
all batch normalizations are unshared.
"""

from collections.abc import Callable, Sequence

import keras

from keras_sharenets._types import Configured, Tensor
from keras_sharenets.models import base

POLICIES = ("none", "rest", "stride1", "all")


def _initializer() -> Configured:
    # A new one for every layer: a single object would initialize all kernels of a shape identically.
    return keras.initializers.VarianceScaling(2, "fan_out", "untruncated_normal")


def conv(x: Tensor, filters: int, kernel_size: int = 1, *, strides: int = 1, name: str) -> Tensor:
    """An unshared convolution."""
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
    """A 3x3 convolution that can be shared within a stage (the paper's W_s)."""
    return conv(x, width, 3, strides=strides, name=name) if shared is None else shared(x)


def _first(x: Tensor, width: int, strides: int, shared: keras.layers.Layer | None, name: str) -> Tensor:
    """The first convolution of a basic block; it can be the shared one unless it changes the shape."""
    same_shape = strides == 1 and x.shape[-1] == width
    return _spatial(x, width, strides, shared if same_shape else None, f"{name}_first")


def _projected(
    x: Tensor, active: Tensor, filters: int, strides: int, name: str, shortcut: str = "projection"
) -> Tensor:
    """The shortcut of a preactivated block: its input; if shapes differ, padded, or projected from the activation."""
    if x.shape[-1] == filters and strides == 1:
        return x
    if shortcut == "padded":
        return base.padded_shortcut(x, filters, strides, name)
    return conv(active, filters, strides=strides, name=f"{name}_projection")


def preactivated_bottleneck(
    x: Tensor, width: int, strides: int, shared: keras.layers.Layer | None, name: str
) -> Tensor:
    """1x1 to `width`, 3x3, 1x1 to `4 * width`, each after normalization and ReLU. The first one is strided."""
    filters = 4 * width
    active = base.norm_relu(x, f"{name}_input")
    shortcut = _projected(x, active, filters, strides, name)
    x = conv(active, width, strides=strides, name=f"{name}_reduce")
    x = base.norm_relu(x, f"{name}_reduced")
    x = _spatial(x, width, 1, shared, f"{name}_spatial")
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
    share_first: bool = False,
) -> Tensor:
    """Two 3x3 convolutions to `width`, each after normalization and ReLU. The first one is strided."""
    active = base.norm_relu(x, f"{name}_input")
    source = _projected(x, active, width, strides, name, shortcut)
    x = _first(active, width, strides, shared if share_first else None, name)
    x = base.norm_relu(x, f"{name}_middle")
    if dropout_rate:
        x = keras.layers.Dropout(dropout_rate, name=f"{name}_dropout")(x)
    x = _spatial(x, width, 1, shared, f"{name}_spatial")
    return keras.layers.Add(name=f"{name}_add")([source, x])


def _add_relu(x: Tensor, source: Tensor, strides: int, name: str, shortcut: str = "projection") -> Tensor:
    """Adds the block's input to `x`, then ReLU; if shapes differ, the input is padded or projected and normalized."""
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

    The strides apply to the first one (`stride_on="reduce"`) or to the 3x3 (`"spatial"`), which is then never shared.
    """
    source = x
    reduce_strides, spatial_strides = (strides, 1) if stride_on == "reduce" else (1, strides)
    x = conv(x, width, strides=reduce_strides, name=f"{name}_reduce")
    x = base.norm_relu(x, f"{name}_reduced")
    x = _spatial(x, width, spatial_strides, shared, f"{name}_spatial")
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
    share_first: bool = False,
) -> Tensor:
    """Two 3x3 convolutions to `width`, each before normalization and ReLU. The first one is strided."""
    source = x
    x = _first(x, width, strides, shared if share_first else None, name)
    x = base.norm_relu(x, f"{name}_middle")
    x = base.norm(_spatial(x, width, 1, shared, f"{name}_spatial"), f"{name}_convolved")
    return _add_relu(x, source, strides, name, shortcut)


def _is_sharing(share: str, index: int, strides: int) -> bool:
    """Whether a block uses the shared convolution of its stage. Policies differ only in the first block."""
    first = {"none": False, "rest": False, "stride1": strides == 1, "all": True}
    return first[share] if index == 1 else share != "none"


def stages(x: Tensor, block: Callable[..., Tensor], width: int, blocks_per_stage: Sequence[int], share: str) -> Tensor:
    """All blocks of a network; each stage after the first doubles the width and halves the resolution."""
    for stage, count in enumerate(blocks_per_stage, start=1):
        stage_width = width * 2 ** (stage - 1)
        shared = _shared_conv(stage_width, f"stage{stage}_shared")
        for index in range(1, count + 1):
            strides = 2 if stage > 1 and index == 1 else 1
            used = shared if _is_sharing(share, index, strides) else None
            x = block(x, stage_width, strides, used, f"stage{stage}_block{index}")
    return x
