"""Code shared by all network factories: common arguments, input and preprocessing, small blocks, classifier."""

import dataclasses
from collections.abc import Sequence
from typing import Any, TypedDict

import keras

from keras_sharenets import _checks
from keras_sharenets._types import Configured, Shape, Tensor
from keras_sharenets.layers import BatchNormalization, ChannelPadding, DepthwiseConv2D, HighlySharedConv2D
from keras_sharenets.layers.bases import new_initializer

Statistics = tuple[Sequence[float], Sequence[float]] | None


class CommonArguments(TypedDict, total=False):
    """The keyword arguments that every network factory accepts in addition to its own.

    A factory returns an untrained functional `keras.Model`. It raises a `ValueError` for an argument that violates a
    rule; the message names the argument, its value and the rule.

    Attributes:
        input_shape: `(height, width, channels)`. Height and width may be `None` unless the factory says otherwise.
        num_classes: number of classes; 1 requires a `classifier_activation` other than softmax.
        include_top: whether to include the classifier.
        pooling: output without the classifier: `None` for feature maps, `"avg"` or `"max"` for one vector per image.
        classifier_activation: activation of the classifier; `None` for logits.
        include_preprocessing: whether the network takes pixels from 0 to 255 and scales them to -1 to 1 itself.
            `False` if the images are normalized elsewhere.
        pixel_statistics: `(mean, variance)` of the pixels, each with one number per channel. The network then
            normalizes with these statistics instead of scaling to -1 to 1, as needed by networks trained in this way.
        input_tensor: Keras tensor to use as input, for example the output of `keras.layers.Normalization`; replaces
            `input_shape`. It must contain pixels from 0 to 255 unless `include_preprocessing` is `False`.
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
    """Builds the input and the head of a network; the fields are those of [`CommonArguments`]."""

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
        """The preprocessed input. Its height and width must be at least the total stride of the network."""
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
        """The output of the network: class scores or features, as in `keras.applications`."""
        if self.include_top:
            return self.classify(keras.layers.GlobalAveragePooling2D(data_format="channels_last", name="pool")(x))
        if self.pooling == "avg":
            return keras.layers.GlobalAveragePooling2D(data_format="channels_last", name="pool")(x)
        return (
            keras.layers.GlobalMaxPooling2D(data_format="channels_last", name="pool")(x) if self.pooling == "max" else x
        )

    def classify(self, vectors: Tensor) -> Tensor:
        """The classifier, applied to one vector per image; in full precision even with a mixed precision policy."""
        dtype = keras.config.dtype_policy().variable_dtype
        classifier = keras.layers.Dense(
            self.num_classes, activation=self.classifier_activation, dtype=dtype, name="predictions"
        )
        return classifier(vectors)

    def network(self, images: Tensor, outputs: Tensor) -> keras.Model:
        """The model from the source inputs of `images` to `outputs`."""
        sources = keras.utils.get_source_inputs(images)
        return keras.Model(sources[0] if len(sources) == 1 else sources, outputs, name=self.name)


def frame(name: str, given: CommonArguments, **defaults: Any) -> Frame:
    """The `Frame` of a network, from the arguments of its factory and its defaults.

    Raises:
        TypeError: an argument is not one of [`CommonArguments`].
        ValueError: `pooling` is unknown; the softmax of a single class would always be 1; or there are statistics of
            pixels, but no preprocessing.
    """
    for argument in given:
        if argument not in CommonArguments.__annotations__:
            raise TypeError(f"The factory of '{name}' has no argument `{argument}` (={given[argument]!r}).")
    made = Frame(**{"name": name, **defaults, **given})
    _checks.one_of("pooling", made.pooling, (None, "avg", "max"))
    one_class = made.include_top and made.num_classes == 1
    if one_class and keras.activations.get(made.classifier_activation) is keras.activations.softmax:
        raise ValueError(
            "`num_classes` (=1) must be at least 2 with `classifier_activation` (='softmax'), whose output for one "
            "class is always 1: pass `classifier_activation='sigmoid'` to distinguish two classes."
        )
    if made.pixel_statistics is not None and not made.include_preprocessing:
        raise ValueError(
            f"`pixel_statistics` (={made.pixel_statistics!r}) must be omitted with `include_preprocessing` (=False): "
            "the network then normalizes no pixels."
        )
    return made


def norm(x: Tensor, name: str) -> Tensor:
    """Batch normalization. Every call creates a new layer: statistics are never shared."""
    return BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_norm")(x)


def norm_relu(x: Tensor, name: str) -> Tensor:
    """Batch normalization and ReLU."""
    return keras.layers.ReLU(name=f"{name}_relu")(norm(x, name))


def pad_for(x: Tensor, kernel_size: int, strides: int, name: str) -> tuple[Tensor, str]:
    """`(x, padding)` for a convolution with `kernel_size // 2` zeros on each side.

    At stride 2, `"same"` would pad an even image only at the bottom and right, so a padding layer is used instead.
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
    """A convolution with symmetric padding; grouped ones train fast on a CPU, also with XLA (`ops.convolution`)."""
    x, padding = pad_for(x, kernel_size, strides, name)
    initializer = new_initializer(kernel_initializer)
    common = {"strides": strides, "padding": padding, "use_bias": use_bias, "kernel_initializer": initializer}
    if groups == 1:
        return keras.layers.Conv2D(filters, kernel_size, data_format="channels_last", name=name, **common)(x)
    return HighlySharedConv2D(filters, kernel_size, groups=groups, name=name, **common)(x)


def depthwise_conv2d(x: Tensor, kernel_size: int = 3, *, strides: int = 1, name: str) -> Tensor:
    """A depthwise convolution without bias, with symmetric padding and He initialization."""
    # Keras computes the fan-in of a depthwise kernel as for a dense one, which is `channels` times too large.
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
    """A parameter-free shortcut: zero channels are appended, and every `strides`-th pixel is kept."""
    if x.shape[-1] != width:
        x = ChannelPadding(width, name=f"{name}_shortcut_pad")(x)
    if strides == 1:
        return x
    return keras.layers.MaxPooling2D(1, strides=strides, data_format="channels_last", name=f"{name}_subsample")(x)


def per_stage(name: str, value: int | Sequence[int], stages: int) -> tuple[int, ...]:
    """`value` as a tuple with one integer per stage; a single integer applies to every stage."""
    values = (value,) * stages if isinstance(value, int) else tuple(value)
    if len(values) != stages:
        raise ValueError(f"`{name}` (={value!r}) must be one number, or one for each of the {stages} stages.")
    for entry in values:
        _checks.positive(name, entry)
    return values
