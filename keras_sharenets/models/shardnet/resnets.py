"""ShardNet's residual networks: for CIFAR (the paper's table 4), and counterparts of ResNet-34 and -50 (table 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import keras

from keras_sharenets import _checks
from keras_sharenets.models import base
from keras_sharenets.models.arguments import checked
from keras_sharenets.models.shardnet import blocks as shardnet_blocks

if TYPE_CHECKING:
    from typing_extensions import Unpack


@checked
def ShardResNet(
    *,
    width: int | Sequence[int] = 128,
    share: str = "spatial",
    blocks_per_stage: int | Sequence[int] = 3,
    conv_bias: bool = True,
    linear_bias: bool = True,
    **common: Unpack[base.CommonArguments],
) -> keras.Model:
    """ShardNet's residual network for CIFAR: three levels that can share one 3x3 convolution.

    The network has a 3x3 convolution and three levels of basic blocks of constant width, with a 1x1 blending layer and
    max pooling between levels. Each call of a 3x3 convolution has its own batch normalization. In the paper's names, E
    means equivalent (`share="none"`), S shared and L linear layers, which the E networks have as well; the number after
    the letters is the number of blocks per level.

    Args:
        width: int, number of channels at each level (the paper's n), or a sequence of three, all equal if shared. The
            paper's E networks use p, 2p and 4p.
        share: `"none"`, or `"spatial"`: one 3x3 convolution in all `1 + 6 * blocks_per_stage` places. It also reads the
            image, which is padded with zero channels to `width`.
        blocks_per_stage: int, or a sequence of three, number of blocks in each level (the paper's b).
        conv_bias, linear_bias: bool, whether 3x3 convolutions and blending layers have a bias. The paper does not
            specify it; its counts require both.
        **common: `keras_sharenets.models.CommonArguments`; by default, 32x32x3 images and 10 classes.

    The blending layers are named `blend1` and `blend2`.

    >>> model = ShardResNet(width=8, blocks_per_stage=1, num_classes=10)
    >>> model.get_layer("shared_spatial").count_params(), model.output_shape
    (584, (None, 10))

    Reference: Jetley et al., "ShardNet: One filter set to rule them all", submission to ICLR 2020, section 4, tables 4
    and 7.
    """
    _checks.one_of("share", share, ("none", "spatial"))
    shared = share == "spatial"
    widths = shardnet_blocks.widths_for(width, 3, shared)
    counts = base.per_stage("blocks_per_stage", blocks_per_stage, 3)
    frame = base.frame("shard_resnet", common)
    images = frame.images(total_stride=4)
    x = shardnet_blocks.padded_image(images, widths[0]) if shared else images
    convolution = shardnet_blocks.convolutions(shared, conv_bias)
    x = base.norm_relu(convolution(widths[0], 3, "stem")(x), "stem")
    x = shardnet_blocks.residual_levels(x, shardnet_blocks.basic_block, widths, 1, counts, convolution, linear_bias)
    return frame.network(images, frame.head(x))


@checked
def ShardDeepResNet(
    *,
    width: int | Sequence[int] = 256,
    share: str = "block",
    bottleneck: bool = False,
    blocks_per_stage: int | Sequence[int] = 4,
    stem: str | None = None,
    final_pool: int | None = None,
    conv_bias: bool = False,
    linear_bias: bool = True,
    **common: Unpack[base.CommonArguments],
) -> keras.Model:
    """ShardNet's counterpart of ResNet-34 and ResNet-50: four levels that can share one block.

    The network has an unshared stem and four levels of blocks of constant width, with a 1x1 blending layer and max
    pooling between levels. Bottleneck blocks have four times their width as input, so the stem is followed by another
    blending layer. Each call of a convolution has its own batch normalization. In the paper's names, E means equivalent
    (`share="none"`), S shared and L linear layers, which the E networks have as well.

    Args:
        width: int, width of each level (the paper's n), or a sequence of four, all equal if shared. The paper's E
            networks use 64, 128, 256 and 512. The stem has the width of the first level.
        share: `"none"`, or `"block"`: the convolutions of one block in all blocks. The two convolutions of a basic
            block are one layer as well; the three of a bottleneck block have different shapes.
        bottleneck: bool, whether to use bottleneck blocks (as in ResNet-50) rather than basic ones (as in ResNet-34).
        blocks_per_stage: int, or a sequence of four, number of blocks in each level. The paper uses 4, not the 3, 4, 6
            and 3 of ResNet.
        stem: `"conv3"` (3x3) or `"conv7"` (7x7 with stride 2, max pooling). `None` follows the paper: `"conv7"` for
            images of at least 112x112 pixels.
        final_pool: pooling before the classifier: `None` for global average pooling, or 3 for the 3x3 average pooling
            stated in the paper, which reduces 7x7 to 2x2 positions.
        conv_bias: bool, whether the convolutions of blocks have a bias. The stem has none.
        linear_bias: bool, whether blending layers have a bias. The paper does not mention biases; among the natural
            choices, the defaults match most of its counts.
        **common: `keras_sharenets.models.CommonArguments`; by default, 56x56x3 images and 200 classes. Height and width
            may be `None` if `stem` is given and the final pooling is global.

    The blending layers are named `blend1` to `blend3`; the one after the stem is `blend0`.

    >>> model = ShardDeepResNet(width=8, blocks_per_stage=1, input_shape=(16, 16, 3), num_classes=10)
    >>> model.get_layer("shared_spatial").count_params(), model.output_shape
    (576, (None, 10))

    Reference: Jetley et al., "ShardNet: One filter set to rule them all", submission to ICLR 2020, section 4, tables 2
    and 5.
    """
    _checks.one_of("share", share, ("none", "block"))
    _checks.one_of("stem", stem, (None, "conv3", "conv7"))
    _checks.one_of("final_pool", final_pool, (None, 3))
    widths = shardnet_blocks.widths_for(width, 4, share == "block")
    counts = base.per_stage("blocks_per_stage", blocks_per_stage, 4)
    frame = base.frame("shard_deep_resnet", common, input_shape=(56, 56, 3), num_classes=200)
    final_pool = final_pool if frame.include_top else None
    images = frame.images((32 if stem == "conv7" else 8) * (final_pool or 1))
    if stem is None:
        stem = "conv7" if min(shardnet_blocks.known_sides(images, "`stem` (=None)")) >= 112 else "conv3"
    kernel_size, strides = (7, 2) if stem == "conv7" else (3, 1)
    x = base.norm_relu(base.conv2d(images, widths[0], kernel_size, strides=strides, name="stem"), "stem")
    block, expansion = (shardnet_blocks.bottleneck_block, 4) if bottleneck else (shardnet_blocks.basic_block, 1)
    if bottleneck:
        x = shardnet_blocks.blend(x, expansion * widths[0], "blend0", linear_bias)
    if stem == "conv7":
        x = shardnet_blocks.pool(x, "stem")
    convolution = shardnet_blocks.convolutions(share == "block", conv_bias)
    x = shardnet_blocks.residual_levels(x, block, widths, expansion, counts, convolution, linear_bias)
    if final_pool is None:
        return frame.network(images, frame.head(x))
    shardnet_blocks.known_sides(images, f"`final_pool` (={final_pool})")
    x = keras.layers.AveragePooling2D(final_pool, data_format="channels_last", name="pool")(x)
    return frame.network(images, frame.classify(keras.layers.Flatten(data_format="channels_last", name="flatten")(x)))
