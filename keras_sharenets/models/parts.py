"""Pieces that the networks of every family have in common: inputs, normalization, classifier."""

import keras

from keras_sharenets import _checks
from keras_sharenets.layers import BatchNormalization, DepthwiseConv2D, HighlySharedConv2D


def norm(x, name):
    """Batch normalization. Its own layer at every call: statistics are never shared."""
    return BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_norm")(x)


def norm_relu(x, name):
    """Batch normalization and ReLU."""
    return keras.layers.ReLU(name=f"{name}_relu")(norm(x, name))


def pad_for(x, kernel_size, strides, name):
    """`(x, padding)` for a convolution with `kernel_size // 2` zeros on each side.

    At stride 2, `"same"` would pad an even image on the far side only; so there the zeros are put by hand.
    """
    if strides == 1 or kernel_size == 1:
        return x, "same"
    return keras.layers.ZeroPadding2D(kernel_size // 2, name=f"{name}_pad")(x), "valid"


def conv2d(x, filters, kernel_size=1, strides=1, groups=1, *, name, use_bias=False, kernel_initializer="he_normal"):
    """A convolution with symmetric padding. Groups run in a form that XLA on a CPU trains fast (`ops.convolution`)."""
    x, padding = pad_for(x, kernel_size, strides, name)
    common = {"strides": strides, "padding": padding, "use_bias": use_bias, "kernel_initializer": kernel_initializer}
    if groups == 1:
        return keras.layers.Conv2D(filters, kernel_size, name=name, **common)(x)
    return HighlySharedConv2D(filters, kernel_size, groups=groups, name=name, **common)(x)


def depthwise_conv2d(x, kernel_size=3, strides=1, *, name):
    """A depthwise convolution without bias, with symmetric padding, in He's initialization."""
    # Keras takes the fan-in of a depthwise kernel to be that of a dense one, `channels` times too large.
    initializer = keras.initializers.VarianceScaling(2 * x.shape[-1], "fan_in", "truncated_normal")
    x, padding = pad_for(x, kernel_size, strides, name)
    return DepthwiseConv2D(
        kernel_size, strides, padding=padding, use_bias=False, depthwise_initializer=initializer, name=name
    )(x)


def per_stage(name, value, stages):
    """`value` as a tuple with one integer a stage: `4` means the same number in each."""
    values = (value,) * stages if isinstance(value, int) else tuple(value)
    if len(values) != stages:
        raise ValueError(f"`{name}` (={value!r}) must be one number, or one for each of the {stages} stages.")
    for entry in values:
        _checks.positive(name, entry)
    return values


def input_for(input_tensor, input_shape, total_stride):
    """The tensor that a network is built on; checks that the image survives the network's strides."""
    name = "input_shape"
    if input_tensor is not None:
        name, input_shape = "input_tensor.shape[1:]", tuple(input_tensor.shape[1:])
    if len(input_shape) != 3 or input_shape[-1] is None:
        raise ValueError(f"`{name}` (={input_shape}) must be `(height, width, channels)` with the channels known.")
    for side in input_shape[:2]:
        if side is not None and side < total_stride:
            raise ValueError(
                f"`{name}` (={input_shape}) must be at least the network's total stride (={total_stride})."
            )
    return keras.Input(input_shape, name="images") if input_tensor is None else input_tensor


def classifier(x, include_top, pooling, num_classes, activation):
    """The end of a network as in `keras.applications`: pooled and classified, or features."""
    if include_top:
        _checks.positive("num_classes", num_classes)
        x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
        return keras.layers.Dense(num_classes, activation=activation, name="predictions")(x)
    _checks.one_of("pooling", pooling, (None, "avg", "max"))
    if pooling == "avg":
        return keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.layers.GlobalMaxPooling2D(name="pool")(x) if pooling == "max" else x


def network(inputs, outputs, name):
    """The model from the tensor that it was built on, or from the inputs that this tensor comes from."""
    sources = keras.utils.get_source_inputs(inputs)
    return keras.Model(sources[0] if len(sources) == 1 else sources, outputs, name=name)
