"""ShardNet's VGG-like networks (the paper's section 4 and table 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import keras

from keras_sharenets import _checks
from keras_sharenets._types import Tensor
from keras_sharenets.layers import StridedChannelShuffle
from keras_sharenets.models import base
from keras_sharenets.models.arguments import checked
from keras_sharenets.models.shardnet import blocks as shardnet_blocks

if TYPE_CHECKING:
    from typing_extensions import Unpack


def _halves_to_the_end(images: Tensor, blocks: int) -> bool:
    height, width = shardnet_blocks.known_sides(images, "`last_pool` (=None)")
    return height % 2**blocks == 0 and width % 2**blocks == 0


def _hidden_units(hidden_units: Sequence[int] | None, num_classes: int) -> tuple[int, ...]:
    """The widths of the hidden dense layers; by default as in the paper, which varies them with the data set."""
    if hidden_units is not None:
        for units in hidden_units:
            _checks.positive("hidden_units", units)
        return tuple(hidden_units)
    if num_classes > 100:
        return (2048,)
    return (512, 512) if num_classes <= 10 else (1024, 1024)


def _hidden_layers(x: Tensor, hidden_units: Sequence[int], dropout_rate: float) -> Tensor:
    x = keras.layers.Flatten(data_format="channels_last", name="flatten")(x)
    for index, units in enumerate(hidden_units, start=1):
        name = f"dense{index}"
        x = keras.layers.Dense(units, activation="relu", kernel_initializer="he_normal", name=name)(x)
        if dropout_rate:
            x = keras.layers.Dropout(dropout_rate, name=f"{name}_dropout")(x)
    return x


@checked
def ShardVGGNet(
    *,
    width: int | Sequence[int] = 128,
    share: str = "spatial",
    blending: bool | str = True,
    convs_per_block: int | Sequence[int] = (2, 2, 3, 3, 3),
    hidden_units: Sequence[int] | None = None,
    last_pool: bool | None = None,
    conv_bias: bool = True,
    linear_bias: bool = False,
    dropout_rate: float = 0.5,
    **common: Unpack[base.CommonArguments],
) -> keras.Model:
    """ShardNet's VGG-like network: VGG-16 that can share one 3x3 convolution.

    A block consists of several 3x3 convolutions, each with its own batch normalization and ReLU, and max pooling. In
    the paper's names, E means equivalent (all blocks equally wide, `share="none"`, no blending), S shared
    (`share="spatial"`) and L linear layers (`blending=True`); a number after the letters is the number of convolutions
    per block.

    Args:
        width: int, number of channels of each convolution (the paper's n); or a sequence with one entry per block, all
            equal if shared.
        share: `"none"`, or `"spatial"`: one convolution in all places. It also reads the image, which is padded with
            zero channels to `width`.
        blending: bool, whether a 1x1 convolution mixes the channels before each pooling except that of the last block;
            or `"permutation"`: the channels are permuted instead, so that the shared filters read different channels in
            each block. The paper proposes a permutation without results or a specific order; even channels before odd
            ones is our choice. A permutation has no weights.
        convs_per_block: sequence of ints, number of 3x3 convolutions in each block; or an int for five equal blocks.
        hidden_units: sequence of ints, widths of the hidden dense layers. `None` follows the paper: `(512, 512)` for up
            to 10 classes, `(1024, 1024)` for up to 100, `(2048,)` for more.
        last_pool: bool, whether the last block is also pooled. `None` follows the paper: only if no pixels are dropped,
            that is for 32x32 but not for 56x56.
        conv_bias, linear_bias: bool, whether 3x3 convolutions and blending layers have a bias. The paper does not
            specify it; its counts require the first and exclude the second.
        dropout_rate: float, dropout rate after each hidden dense layer. The paper does not specify it.
        **common: `keras_sharenets.models.CommonArguments`; by default, 32x32x3 images and 10 classes. Height and width
            may be `None` without the top and with `last_pool` given.

    The blending layers are named `blend1`, `blend2` and so on; the permutations `permutation1`, `permutation2` and so
    on.

    >>> model = ShardVGGNet(width=8, convs_per_block=(1, 1), input_shape=(8, 8, 3), num_classes=10)
    >>> model.get_layer("shared_spatial").count_params(), model.output_shape
    (584, (None, 10))

    Reference: Jetley et al., "ShardNet: One filter set to rule them all", submission to ICLR 2020, sections 3
    and 4, tables 1 and 3.
    """
    _checks.one_of("share", share, ("none", "spatial"))
    _checks.one_of("blending", blending, (False, True, "permutation"))
    _checks.rate("dropout_rate", dropout_rate)
    blocks = 5 if isinstance(convs_per_block, int) else len(convs_per_block)
    _checks.positive("len(convs_per_block)", blocks)
    counts = base.per_stage("convs_per_block", convs_per_block, blocks)
    shared = share == "spatial"
    widths = shardnet_blocks.widths_for(width, blocks, shared)
    frame = base.frame("shard_vggnet", common)
    images = frame.images(2 ** (blocks if last_pool else blocks - 1))
    if last_pool is None:
        last_pool = _halves_to_the_end(images, blocks)
    x = shardnet_blocks.padded_image(images, widths[0]) if shared else images
    convolution = shardnet_blocks.convolutions(shared, conv_bias)
    for block, (block_width, count) in enumerate(zip(widths, counts, strict=True), start=1):
        x = shardnet_blocks.plain_convolutions(x, block_width, count, convolution, f"block{block}")
        if block < blocks and blending == "permutation":
            x = StridedChannelShuffle(2, name=f"permutation{block}")(x)
        elif block < blocks and blending:
            x = shardnet_blocks.blend(x, block_width, f"blend{block}", linear_bias)
        if block < blocks or last_pool:
            x = shardnet_blocks.pool(x, f"block{block}")
    if not frame.include_top:
        return frame.network(images, frame.head(x))
    shardnet_blocks.known_sides(images, "the dense layers")
    x = _hidden_layers(x, _hidden_units(hidden_units, frame.num_classes), dropout_rate)
    return frame.network(images, frame.classify(x))
