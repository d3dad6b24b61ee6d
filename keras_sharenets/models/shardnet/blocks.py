"""Components of ShardNet's networks: one convolution for many places, blending layers, blocks."""

from collections.abc import Callable, Sequence

import keras

from keras_sharenets._types import Tensor
from keras_sharenets.layers import ChannelPadding
from keras_sharenets.models import base


def convolutions(shared: bool, use_bias: bool) -> Callable[..., keras.layers.Layer]:
    """Returns a function that returns the convolution layer for a place in the network.

    The function takes `(filters, kernel_size, name, role)`. With `shared`, it returns the same layer object,
    `shared_{role}`, for all places of a role; otherwise a new layer `name` for each place. The caller adds batch
    normalization, which is never shared.
    """
    layers = {}

    def convolution(filters: int, kernel_size: int, name: str, role: str = "spatial") -> keras.layers.Layer:
        name = f"shared_{role}" if shared else name
        if name not in layers:
            layers[name] = keras.layers.Conv2D(
                filters,
                kernel_size,
                padding="same",
                data_format="channels_last",
                use_bias=use_bias,
                kernel_initializer="he_normal",
                name=name,
            )
        return layers[name]

    return convolution


def widths_for(width: int | Sequence[int], levels: int, shared: bool) -> tuple[int, ...]:
    """`width` as one width per level; with a shared convolution, all are equal."""
    widths = base.per_stage("width", width, levels)
    if shared and len(set(widths)) > 1:
        raise ValueError(f"`width` (={width!r}) must be the same at every level when convolutions are shared.")
    return widths


def padded_image(images: Tensor, width: int) -> Tensor:
    """The image padded with zero channels to the input channels of the shared convolution."""
    channels = images.shape[-1]
    if width < channels:
        raise ValueError(
            f"`width` (={width}) must be at least the number of image channels (={channels}): "
            "the shared convolution also reads the image."
        )
    return images if width == channels else ChannelPadding(width, name="image_pad")(images)


def known_sides(images: Tensor, needed_for: str) -> tuple[int, int]:
    """Height and width of the images; raises a `ValueError` if one is unknown."""
    height, width = images.shape[1:3]
    if height is None or width is None:
        raise ValueError(
            f"`input_shape` (={tuple(images.shape[1:])}) must have a known height and width for {needed_for}."
        )
    return height, width


def blend(x: Tensor, filters: int, name: str, use_bias: bool) -> Tensor:
    """A blending layer: an unshared 1x1 convolution without normalization or ReLU (the paper's linear layer)."""
    return base.conv2d(x, filters, name=name, use_bias=use_bias)


def pool(x: Tensor, name: str) -> Tensor:
    """Max pooling that halves height and width; an odd last row or column is dropped."""
    return keras.layers.MaxPooling2D(2, data_format="channels_last", name=f"{name}_pool")(x)


def _residual(shortcut: Tensor, x: Tensor, name: str) -> Tensor:
    x = keras.layers.Add(name=f"{name}_add")([shortcut, x])
    return keras.layers.ReLU(name=f"{name}_relu")(x)


def plain_convolutions(
    x: Tensor, width: int, count: int, convolution: Callable[..., keras.layers.Layer], name: str
) -> Tensor:
    """A sequence of 3x3 convolutions, each with batch normalization and ReLU."""
    for index in range(1, count + 1):
        place = f"{name}_conv{index}"
        x = base.norm_relu(convolution(width, 3, place)(x), place)
    return x


def basic_block(x: Tensor, width: int, convolution: Callable[..., keras.layers.Layer], name: str) -> Tensor:
    """Two 3x3 convolutions with an identity shortcut; when shared, both are the same layer."""
    y = convolution(width, 3, f"{name}_spatial1")(x)
    y = base.norm_relu(y, f"{name}_spatial1")
    y = convolution(width, 3, f"{name}_spatial2")(y)
    return _residual(x, base.norm(y, f"{name}_spatial2"), name)


def bottleneck_block(x: Tensor, width: int, convolution: Callable[..., keras.layers.Layer], name: str) -> Tensor:
    """1x1 to `width`, 3x3, 1x1 to `4 * width`, with an identity shortcut; each of the three is shared separately."""
    y = convolution(width, 1, f"{name}_reduce", "reduce")(x)
    y = base.norm_relu(y, f"{name}_reduce")
    y = convolution(width, 3, f"{name}_spatial")(y)
    y = base.norm_relu(y, f"{name}_spatial")
    y = convolution(4 * width, 1, f"{name}_expand", "expand")(y)
    return _residual(x, base.norm(y, f"{name}_expand"), name)


def blocks_of_level(
    x: Tensor,
    block: Callable[..., Tensor],
    width: int,
    count: int,
    convolution: Callable[..., keras.layers.Layer],
    name: str,
) -> Tensor:
    """A sequence of residual blocks; arguments as in `residual_levels`."""
    for index in range(1, count + 1):
        x = block(x, width, convolution, f"{name}_block{index}")
    return x


def residual_levels(
    x: Tensor,
    block: Callable[..., Tensor],
    widths: Sequence[int],
    expansion: int,
    counts: Sequence[int],
    convolution: Callable[..., keras.layers.Layer],
    linear_bias: bool,
) -> Tensor:
    """Levels of residual blocks, with a blending layer to the next width and pooling between levels.

    Args:
        x: tensor with `expansion * widths[0]` channels.
        block: `basic_block` or `bottleneck_block`.
        widths: width of each level.
        expansion: int, ratio of a block's output channels to its `width`.
        counts: number of blocks in each level.
        convolution: the function that `convolutions` returns.
        linear_bias: bool, whether blending layers have a bias.
    """
    for level, (width, count) in enumerate(zip(widths, counts, strict=True), start=1):
        if level > 1:
            x = blend(x, expansion * width, f"blend{level - 1}", linear_bias)
            x = pool(x, f"level{level - 1}")
        x = blocks_of_level(x, block, width, count, convolution, f"level{level}")
    return x
