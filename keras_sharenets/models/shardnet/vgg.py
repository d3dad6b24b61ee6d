"""ShardNet's networks like VGG-16 (the paper's section 4 and table 3)."""

import keras

from keras_sharenets import _checks
from keras_sharenets.models import parts
from keras_sharenets.models.shardnet import blocks as shardnet_blocks


def _halves_to_the_end(inputs, blocks):
    height, width = shardnet_blocks.known_sides(inputs, "`last_pool` (=None)")
    return height % 2**blocks == 0 and width % 2**blocks == 0


def _hidden_units(hidden_units, num_classes):
    """The widths of the hidden dense layers; the paper has other ones for each of its data sets."""
    if hidden_units is not None:
        for units in hidden_units:
            _checks.positive("hidden_units", units)
        return tuple(hidden_units)
    if num_classes > 100:
        return (2048,)
    return (512, 512) if num_classes <= 10 else (1024, 1024)


def _top(x, hidden_units, dropout, num_classes, activation):
    x = keras.layers.Flatten(name="flatten")(x)
    for index, units in enumerate(hidden_units, start=1):
        name = f"dense{index}"
        x = keras.layers.Dense(units, activation="relu", kernel_initializer="he_normal", name=name)(x)
        if dropout:
            x = keras.layers.Dropout(dropout, name=f"{name}_dropout")(x)
    return keras.layers.Dense(num_classes, activation=activation, name="predictions")(x)


def ShardVGGNet(
    *,
    filters=128,
    share="spatial",
    blending=True,
    convs_per_block=(2, 2, 3, 3, 3),
    hidden_units=None,
    last_pool=None,
    conv_bias=True,
    linear_bias=False,
    dropout=0.5,
    input_shape=(32, 32, 3),
    num_classes=10,
    include_top=True,
    pooling=None,
    classifier_activation="softmax",
    input_tensor=None,
    name="shard_vggnet",
):
    """VGG-16 with one 3x3 convolution in all its places.

    A block is a few 3x3 convolutions, each with its own batch normalization and ReLU, then max pooling. In the paper's
    names E means equivalent (all blocks equally wide, `share="none"`, no blending), S shared (`share="spatial"`), L
    with linear layers (`blending=True`); a number behind the letters is that of the convolutions per block.

    Args:
        filters: int, channels of every convolution (the paper's n); or a sequence with those of every block, all equal
            if shared.
        share: `"none"`, or `"spatial"`: one convolution in all places. It reads the image as well, which is padded with
            channels of zeros to `filters`.
        blending: bool, whether a 1x1 convolution mixes the channels before each pooling but the last block's.
        convs_per_block: sequence, the number of 3x3 convolutions in every block; or an int for five equal blocks.
        hidden_units: sequence, widths of the hidden dense layers; `None` for the paper's: `(512, 512)` for up to 10
            classes, `(1024, 1024)` for up to 100, `(2048,)` for more.
        last_pool: bool, whether the last block is pooled too; `None` for the paper's: if that leaves no remainder of
            the image, so for 32x32 but not for 56x56.
        conv_bias, linear_bias: bool, whether 3x3 convolutions and blending layers have a bias. The paper does not say;
            its counts need one and forbid the other.
        dropout: float, rate behind each hidden dense layer. The paper does not say.
        input_shape: `(height, width, channels)`; without the top and with `last_pool` given, height and width may be
            `None`.
        num_classes: int.
        include_top: bool, whether the dense layers are there.
        pooling: without the top, `None` for feature maps, `"avg"` or `"max"` for one vector per image.
        classifier_activation: activation of the classifier; `None` for logits.
        input_tensor: optional Keras tensor to build on; replaces `input_shape`.
        name: name of the model.

    Returns:
        A functional `keras.Model`. Its blending layers are `blend1`, `blend2` and so on.

    Raises:
        ValueError: an argument breaks a rule above; the message names it, its value and the rule.

    >>> model = ShardVGGNet(filters=8, convs_per_block=(1, 1), input_shape=(8, 8, 3), num_classes=10)
    >>> model.get_layer("shared_spatial").count_params(), model.output_shape
    (584, (None, 10))

    Reference: Jetley et al., "ShardNet: One filter set to rule them all", submission to ICLR 2020, section 4, tables 1
    and 3.
    """
    _checks.one_of("share", share, ("none", "spatial"))
    _checks.rate("dropout", dropout)
    blocks = 5 if isinstance(convs_per_block, int) else len(convs_per_block)
    _checks.positive("len(convs_per_block)", blocks)
    counts = parts.per_stage("convs_per_block", convs_per_block, blocks)
    shared = share == "spatial"
    widths = shardnet_blocks.widths_for(filters, blocks, shared)
    inputs = parts.input_for(input_tensor, input_shape, 2 ** (blocks if last_pool else blocks - 1))
    if last_pool is None:
        last_pool = _halves_to_the_end(inputs, blocks)
    x = shardnet_blocks.padded_image(inputs, widths[0]) if shared else inputs
    convolution = shardnet_blocks.convolutions(shared, conv_bias)
    for block, (width, count) in enumerate(zip(widths, counts, strict=True), start=1):
        for index in range(1, count + 1):
            place = f"block{block}_conv{index}"
            x = parts.norm_relu(convolution(width, 3, place)(x), place)
        if blending and block < blocks:
            x = shardnet_blocks.blend(x, width, block, linear_bias)
        if block < blocks or last_pool:
            x = shardnet_blocks.pool(x, f"block{block}")
    if include_top:
        shardnet_blocks.known_sides(inputs, "the dense layers")
        _checks.positive("num_classes", num_classes)
        hidden_units = _hidden_units(hidden_units, num_classes)
        outputs = _top(x, hidden_units, dropout, num_classes, classifier_activation)
    else:
        outputs = parts.classifier(x, False, pooling, num_classes, classifier_activation)
    return parts.network(inputs, outputs, name)
