"""ShardNet's forms of ResNet-34 and ResNet-50 (the paper's section 4 and table 5)."""

import keras

from keras_sharenets import _checks
from keras_sharenets.models import parts
from keras_sharenets.models.shardnet import blocks as shardnet_blocks


def _top(x, final_pool, num_classes, activation):
    if final_pool is None:
        return parts.classifier(x, True, None, num_classes, activation)
    _checks.positive("num_classes", num_classes)
    x = keras.layers.AveragePooling2D(final_pool, name="pool")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    return keras.layers.Dense(num_classes, activation=activation, name="predictions")(x)


def ShardDeepResNet(
    *,
    filters=256,
    share="block",
    bottleneck=False,
    blocks_per_level=4,
    stem=None,
    final_pool=None,
    conv_bias=False,
    linear_bias=True,
    input_shape=(56, 56, 3),
    num_classes=200,
    include_top=True,
    pooling=None,
    classifier_activation="softmax",
    input_tensor=None,
    name="shard_deep_resnet",
):
    """A residual network of four levels whose blocks are all one block.

    A stem of its own, then four levels of blocks, which keep their width; between levels a 1x1 blending layer and max
    pooling. Bottleneck blocks read four times their width, so one more blending layer follows the stem. Each
    convolution has its own batch normalization at each use. In the paper's names E means equivalent
    (`share="none"`), S shared, L with linear layers, here those that E has too.

    Args:
        filters: int, width of every level (the paper's n), or a sequence of four, all equal if shared. The paper's E
            networks have 64, 128, 256 and 512. The stem is as wide as the first level.
        share: `"none"`, or `"block"`: one block's convolutions in all blocks. The two of a basic block are one layer as
            well; the three of a bottleneck block have different shapes.
        bottleneck: bool, whether blocks have a bottleneck (as in ResNet-50) or are basic (as in ResNet-34).
        blocks_per_level: int, or a sequence of four. The paper has 4 and not ResNet's 3, 4, 6, 3.
        stem: `"conv3"` (3x3), or `"conv7"` (7x7 at stride 2, max pooling); `None` for the paper's: `"conv7"` for
            images of at least 112x112.
        final_pool: before the classifier, `None` for global average pooling, or 3 for 3x3 average pooling, which the
            paper writes and which leaves 2x2 positions of 7x7.
        conv_bias: bool, whether the convolutions of blocks have a bias. The stem has none.
        linear_bias: bool, whether blending layers have a bias. The paper says nothing of biases; of the natural
            choices, the defaults agree with most of its counts.
        input_shape: `(height, width, channels)`; with `stem` given and global pooling, height and width may be `None`.
        num_classes: int.
        include_top: bool, whether the classifier is there.
        pooling: without the top, `None` for feature maps, `"avg"` or `"max"` for one vector per image.
        classifier_activation: activation of the classifier; `None` for logits.
        input_tensor: optional Keras tensor to build on; replaces `input_shape`.
        name: name of the model.

    Returns:
        A functional `keras.Model`. Its blending layers are `blend1` to `blend3`, the one behind the stem `blend0`.

    Raises:
        ValueError: an argument breaks a rule above; the message names it, its value and the rule.

    >>> model = ShardDeepResNet(filters=8, blocks_per_level=1, input_shape=(16, 16, 3), num_classes=10)
    >>> model.get_layer("shared_spatial").count_params(), model.output_shape
    (576, (None, 10))

    Reference: Jetley et al., "ShardNet: One filter set to rule them all", submission to ICLR 2020, section 4, tables 2
    and 5.
    """
    _checks.one_of("share", share, ("none", "block"))
    _checks.one_of("stem", stem, (None, "conv3", "conv7"))
    _checks.one_of("final_pool", final_pool, (None, 3))
    widths = shardnet_blocks.widths_for(filters, 4, share == "block")
    counts = parts.per_stage("blocks_per_level", blocks_per_level, 4)
    top_stride = final_pool if include_top and final_pool else 1
    inputs = parts.input_for(input_tensor, input_shape, (32 if stem == "conv7" else 8) * top_stride)
    if stem is None:
        stem = "conv7" if min(shardnet_blocks.known_sides(inputs, "`stem` (=None)")) >= 112 else "conv3"
    kernel_size, strides = (7, 2) if stem == "conv7" else (3, 1)
    x = parts.norm_relu(parts.conv2d(inputs, widths[0], kernel_size, strides, name="stem"), "stem")
    block, expansion = (shardnet_blocks.bottleneck_block, 4) if bottleneck else (shardnet_blocks.basic_block, 1)
    if bottleneck:
        x = shardnet_blocks.blend(x, expansion * widths[0], 0, linear_bias)
    if stem == "conv7":
        x = shardnet_blocks.pool(x, "stem")
    convolution = shardnet_blocks.convolutions(share == "block", conv_bias)
    x = shardnet_blocks.residual_levels(x, block, widths, expansion, counts, convolution, linear_bias)
    if include_top:
        if final_pool:
            shardnet_blocks.known_sides(inputs, f"`final_pool` (={final_pool})")
        outputs = _top(x, final_pool, num_classes, classifier_activation)
    else:
        outputs = parts.classifier(x, False, pooling, num_classes, classifier_activation)
    return parts.network(inputs, outputs, name)
