"""ShardNet's residual networks: for CIFAR (the paper's table 4), and in place of ResNet-34 and ResNet-50 (table 5)."""

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
    """A residual network of three levels with one 3x3 convolution in all its places.

    A 3x3 convolution, then three levels of basic blocks, which keep their width; between levels a 1x1 blending layer
    and max pooling. Each 3x3 convolution has its own batch normalization. In the paper's names E means equivalent
    (`share="none"`), S shared, L with linear layers, here those that E has too; the number behind the letters is
    that of the blocks per level.

    Args:
        width: int, channels at every level (the paper's n), or a sequence of three, all equal if shared. The paper's
            E networks have p, 2p and 4p.
        share: `"none"`, or `"spatial"`: one 3x3 convolution in all `1 + 6 * blocks_per_stage` places. The first of them
            is the image, padded with channels of zeros to `width`.
        blocks_per_stage: int, or a sequence of three: blocks of every level (the paper's b).
        conv_bias, linear_bias: bool, whether 3x3 convolutions and blending layers have a bias. The paper does not say;
            its counts need both.
        **common: `keras_sharenets.models.CommonArguments`; images are 32x32x3 and classes 10 by default.

    Its blending layers are `blend1` and `blend2`.

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
    """A residual network of four levels whose blocks are all one block.

    A stem of its own, then four levels of blocks, which keep their width; between levels a 1x1 blending layer and max
    pooling. Bottleneck blocks read four times their width, so one more blending layer follows the stem. Each
    convolution has its own batch normalization at each use. In the paper's names E means equivalent
    (`share="none"`), S shared, L with linear layers, here those that E has too.

    Args:
        width: int, width of every level (the paper's n), or a sequence of four, all equal if shared. The paper's E
            networks have 64, 128, 256 and 512. The stem is as wide as the first level.
        share: `"none"`, or `"block"`: one block's convolutions in all blocks. The two of a basic block are one layer as
            well; the three of a bottleneck block have different shapes.
        bottleneck: bool, whether blocks have a bottleneck (as in ResNet-50) or are basic (as in ResNet-34).
        blocks_per_stage: int, or a sequence of four: blocks of every level. The paper has 4, not ResNet's 3, 4, 6, 3.
        stem: `"conv3"` (3x3), or `"conv7"` (7x7 at stride 2, max pooling); `None` for the paper's: `"conv7"` for
            images of at least 112x112.
        final_pool: before the classifier, `None` for global average pooling, or 3 for 3x3 average pooling, which the
            paper writes and which leaves 2x2 positions of 7x7.
        conv_bias: bool, whether the convolutions of blocks have a bias. The stem has none.
        linear_bias: bool, whether blending layers have a bias. The paper says nothing of biases; of the natural
            choices, the defaults agree with most of its counts.
        **common: `keras_sharenets.models.CommonArguments`; images are 56x56x3 and classes 200 by default. Height and
            width may be `None` with `stem` given and global pooling.

    Its blending layers are `blend1` to `blend3`, the one behind the stem `blend0`.

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
