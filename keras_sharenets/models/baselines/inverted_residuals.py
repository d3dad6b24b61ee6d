"""What MobileNetV2 and IGCV3 have in common: a stem, seven stages of inverted residuals, a last 1x1 convolution."""

import keras

from keras_sharenets.models import parts

# For every stage: channels inside a block for one of its input, and channels of its output.
STAGES = ((1, 16), (6, 24), (6, 32), (6, 64), (6, 96), (6, 160), (6, 320))
# Of the stem and of the first block of every stage.
STRIDES = (2, 1, 2, 2, 2, 1, 2, 1)
SMALL_PICTURE_STRIDES = (1, 1, 1, 2, 2, 1, 2, 1)


def rounded_width(channels):
    """The nearest multiple of 8, at least 8; the next one up if the nearest loses more than a tenth.

    >>> [rounded_width(channels) for channels in (3, 20, 22.4, 24 * 1.25)]
    [8, 24, 24, 32]
    """
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest


def norm_relu6(x, name):
    """Batch normalization and a ReLU that ends at 6."""
    return keras.layers.ReLU(6.0, name=f"{name}_relu")(parts.norm(x, f"{name}"))


def body(x, block, width_multiplier, blocks_per_stage, strides):
    """All but the classifier.

    Args:
        x: tensor, the images.
        block: function of `(x, hidden, filters, strides, name)` that gives a block without its shortcut; `hidden` and
            `filters` are the channels inside it and of its output.
        width_multiplier: number that all widths are multiplied by; that of the last convolution only if above 1.
        blocks_per_stage: sequence of seven ints.
        strides: sequence of eight ints, as `STRIDES`.
    """
    x = parts.conv2d(x, rounded_width(32 * width_multiplier), 3, strides[0], name="stem")
    x = norm_relu6(x, "stem")
    for stage, ((expansion, filters), count) in enumerate(zip(STAGES, blocks_per_stage, strict=True), start=1):
        filters = rounded_width(filters * width_multiplier)
        for index in range(1, count + 1):
            name = f"stage{stage}_block{index}"
            block_strides = strides[stage] if index == 1 else 1
            y = block(x, expansion * x.shape[-1], filters, block_strides, name)
            if block_strides == 1 and x.shape[-1] == filters:
                y = keras.layers.Add(name=f"{name}_add")([x, y])
            x = y
    x = parts.conv2d(x, rounded_width(1280 * max(width_multiplier, 1)), name="last")
    return norm_relu6(x, "last")
