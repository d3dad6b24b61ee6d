"""What every factory of networks has in common: arguments, input and preprocessing, small blocks, classifier."""

import dataclasses
from collections.abc import Sequence
from typing import Any, TypedDict

import keras

from keras_sharenets import _checks
from keras_sharenets._types import Configured, Shape, Tensor
from keras_sharenets.layers import BatchNormalization, ChannelPadding, DepthwiseConv2D, HighlySharedConv2D

Statistics = tuple[Sequence[float], Sequence[float]] | None


class CommonArguments(TypedDict, total=False):
    """The keyword arguments that every factory of networks takes beside its own.

    A factory returns a functional `keras.Model` that is not trained. It raises a `ValueError` for an argument that
    breaks a rule; the message names the argument, its value and the rule.

    Attributes:
        input_shape: `(height, width, channels)`; height and width may be `None` where the factory does not say
            otherwise.
        num_classes: number of classes.
        include_top: whether the classifier is there.
        pooling: without the top, `None` for feature maps, `"avg"` or `"max"` for one vector per image.
        classifier_activation: activation of the classifier; `None` for logits.
        include_preprocessing: whether the network takes pixels as they come, from 0 to 255, and scales them to -1 to 1
            itself. `False` for images that are normalized elsewhere.
        pixel_statistics: `(mean, variance)` of the pixels, one number a channel each: the network then normalizes with
            them instead of scaling to -1 to 1. For networks that were trained so.
        input_tensor: Keras tensor to build on, for example the output of `keras.layers.Normalization`; replaces
            `input_shape`. It holds pixels, like any input, unless `include_preprocessing` is `False`.
        name: name of the model.
    """

    input_shape: Shape
    num_classes: int
    include_top: bool
    pooling: str | None
    classifier_activation: Configured
    include_preprocessing: bool
    pixel_statistics: Statistics
    input_tensor: Tensor
    name: str


@dataclasses.dataclass(frozen=True)
class Frame:
    """The beginning and the end of a network; the fields are those of [`CommonArguments`]."""

    name: str
    input_shape: Shape = (32, 32, 3)
    num_classes: int = 10
    include_top: bool = True
    pooling: str | None = None
    classifier_activation: Configured = "softmax"
    include_preprocessing: bool = True
    pixel_statistics: Statistics = None
    input_tensor: Tensor = None

    def images(self, total_stride: int) -> Tensor:
        """The tensor to build on: the input, scaled; it must survive the strides of the network."""
        name, shape = "input_shape", self.input_shape
        if self.input_tensor is not None:
            name, shape = "input_tensor.shape[1:]", tuple(self.input_tensor.shape[1:])
        if len(shape) != 3 or shape[-1] is None:
            raise ValueError(f"`{name}` (={shape}) must be `(height, width, channels)` with the channels known.")
        for side in shape[:2]:
            if side is not None and side < total_stride:
                raise ValueError(f"`{name}` (={shape}) must be at least the network's total stride (={total_stride}).")
        x = keras.Input(shape, name="images") if self.input_tensor is None else self.input_tensor
        if not self.include_preprocessing:
            return x
        if self.pixel_statistics is None:
            return keras.layers.Rescaling(1 / 127.5, offset=-1, name="preprocessing")(x)
        mean, variance = self.pixel_statistics
        for values in (mean, variance):
            if len(values) not in (1, shape[-1]):
                raise ValueError(
                    f"`pixel_statistics` (={self.pixel_statistics!r}) must have one number for each of the "
                    f"{shape[-1]} channels."
                )
        return keras.layers.Normalization(mean=mean, variance=variance, name="preprocessing")(x)

    def head(self, x: Tensor) -> Tensor:
        """Pooled and classified, or features, as in `keras.applications`."""
        if self.include_top:
            return self.classify(keras.layers.GlobalAveragePooling2D(data_format="channels_last", name="pool")(x))
        _checks.one_of("pooling", self.pooling, (None, "avg", "max"))
        if self.pooling == "avg":
            return keras.layers.GlobalAveragePooling2D(data_format="channels_last", name="pool")(x)
        return (
            keras.layers.GlobalMaxPooling2D(data_format="channels_last", name="pool")(x) if self.pooling == "max" else x
        )

    def classify(self, vectors: Tensor) -> Tensor:
        """The classifier of one vector per image; where a network computes in mixed precision, in full precision."""
        dtype = keras.config.dtype_policy().variable_dtype
        classifier = keras.layers.Dense(
            self.num_classes, activation=self.classifier_activation, dtype=dtype, name="predictions"
        )
        return classifier(vectors)

    def network(self, images: Tensor, outputs: Tensor) -> keras.Model:
        """The model from the inputs that `images` comes from."""
        sources = keras.utils.get_source_inputs(images)
        return keras.Model(sources[0] if len(sources) == 1 else sources, outputs, name=self.name)


def frame(name: str, given: CommonArguments, **defaults: Any) -> Frame:
    """The `Frame` of a network of that name, from what its factory was given and its own defaults.

    Raises:
        TypeError: an argument is none that factories have in common.
    """
    for argument in given:
        if argument not in CommonArguments.__annotations__:
            raise TypeError(f"The factory of '{name}' has no argument `{argument}` (={given[argument]!r}).")
    return Frame(**{"name": name, **defaults, **given})


def norm(x: Tensor, name: str) -> Tensor:
    """Batch normalization. Its own layer at every call: statistics are never shared."""
    return BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_norm")(x)


def norm_relu(x: Tensor, name: str) -> Tensor:
    """Batch normalization and ReLU."""
    return keras.layers.ReLU(name=f"{name}_relu")(norm(x, name))


def pad_for(x: Tensor, kernel_size: int, strides: int, name: str) -> tuple[Tensor, str]:
    """`(x, padding)` for a convolution with `kernel_size // 2` zeros on each side.

    At stride 2, `"same"` would pad an even image on the far side only; so there the zeros are put by hand.
    """
    if strides == 1 or kernel_size == 1:
        return x, "same"
    return keras.layers.ZeroPadding2D(kernel_size // 2, data_format="channels_last", name=f"{name}_pad")(x), "valid"


def conv2d(
    x: Tensor,
    filters: int,
    kernel_size: int = 1,
    *,
    strides: int = 1,
    groups: int = 1,
    name: str,
    use_bias: bool = False,
    kernel_initializer: Configured = "he_normal",
) -> Tensor:
    """A convolution with symmetric padding; groups run as XLA on a CPU trains them fast (`ops.convolution`)."""
    x, padding = pad_for(x, kernel_size, strides, name)
    common = {"strides": strides, "padding": padding, "use_bias": use_bias, "kernel_initializer": kernel_initializer}
    if groups == 1:
        return keras.layers.Conv2D(filters, kernel_size, data_format="channels_last", name=name, **common)(x)
    return HighlySharedConv2D(filters, kernel_size, groups=groups, name=name, **common)(x)


def depthwise_conv2d(x: Tensor, kernel_size: int = 3, *, strides: int = 1, name: str) -> Tensor:
    """A depthwise convolution without bias, with symmetric padding, in He's initialization."""
    # Keras takes the fan-in of a depthwise kernel to be that of a dense one, `channels` times too large.
    initializer = keras.initializers.VarianceScaling(2 * x.shape[-1], "fan_in", "truncated_normal")
    x, padding = pad_for(x, kernel_size, strides, name)
    return DepthwiseConv2D(
        kernel_size,
        strides,
        padding=padding,
        data_format="channels_last",
        use_bias=False,
        depthwise_initializer=initializer,
        name=name,
    )(x)


def padded_shortcut(x: Tensor, width: int, strides: int, name: str) -> Tensor:
    """A shortcut without weights: channels of zeros at the end, and every `strides`-th pixel."""
    if x.shape[-1] != width:
        x = ChannelPadding(width, name=f"{name}_shortcut_pad")(x)
    if strides == 1:
        return x
    return keras.layers.MaxPooling2D(1, strides=strides, data_format="channels_last", name=f"{name}_subsample")(x)


def per_stage(name: str, value: int | Sequence[int], stages: int) -> tuple[int, ...]:
    """`value` as a tuple with one integer per stage: `4` means the same number in each."""
    values = (value,) * stages if isinstance(value, int) else tuple(value)
    if len(values) != stages:
        raise ValueError(f"`{name}` (={value!r}) must be one number, or one for each of the {stages} stages.")
    for entry in values:
        _checks.positive(name, entry)
    return values
