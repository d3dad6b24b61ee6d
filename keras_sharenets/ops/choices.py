"""Selection of a layer's implementation: the rule for `implementation="auto"`, as data.

`python -m benchmarks layers` measures every implementation on the shapes of the networks and regenerates the table
`MEASURED`. For each runtime, kind of layer and direction, it has the one or two implementations with the smallest loss
relative to the fastest. Two implementations are separated by a limit on the number of input channels per output pixel:
small images with many channels have large kernels that are used at few pixels.
"""

import keras

from keras_sharenets._types import Shape
from keras_sharenets.dtype_policies import HALF
from keras_sharenets.ops import fused

# By runtime, then by kind and direction: an implementation; or one implementation up to a limit of channels per pixel,
# the limit, and another one beyond it.
MEASURED: dict[str, dict[tuple[str, str], str | tuple[str, float, str]]]
MEASURED = {
    "tensorflow": {
        ("dense pointwise", "inference"): "multiplied",
        ("dense pointwise", "training"): "multiplied",
        ("group pointwise", "inference"): "grouped",
        ("group pointwise", "training"): "grouped",
        ("grouped", "inference"): "grouped",
        ("grouped", "training"): "grouped",
        ("hierarchical", "inference"): "multiplied",
        ("hierarchical", "training"): "multiplied",
        ("interleaved", "inference"): ("multiplied", 0.92, "factored"),
        ("interleaved", "training"): ("multiplied", 0.92, "factored"),
        ("repeated", "inference"): "grouped",
        ("repeated", "training"): "grouped",
        ("split", "inference"): ("multiplied", 0.074, "factored"),
        ("split", "training"): ("multiplied", 0.19, "factored"),
        ("uneven split", "inference"): "multiplied",
        ("uneven split", "training"): "multiplied",
    },
    "xla": {
        ("dense pointwise", "inference"): "multiplied",
        ("dense pointwise", "training"): "multiplied",
        ("group pointwise", "inference"): ("folded", 0.43, "multiplied"),
        ("group pointwise", "training"): ("folded", 0.054, "multiplied"),
        ("grouped", "inference"): "folded",
        ("grouped", "training"): "folded",
        ("hierarchical", "inference"): ("multiplied", 1.8, "factored"),
        ("hierarchical", "training"): ("multiplied", 1.8, "factored"),
        ("interleaved", "inference"): ("multiplied", 0.92, "factored"),
        ("interleaved", "training"): ("multiplied", 0.92, "factored"),
        ("repeated", "inference"): "folded",
        ("repeated", "training"): "folded",
        ("split", "inference"): ("multiplied", 0.19, "factored"),
        ("split", "training"): ("multiplied", 0.53, "factored"),
        ("uneven split", "inference"): ("multiplied", 1.7, "factored"),
        ("uneven split", "training"): ("multiplied", 0.22, "factored"),
    },
}
# From a separate measurement; entries equal to those of TensorFlow with XLA are omitted.
MEASURED["jax"] = MEASURED["xla"] | {
    ("dense pointwise", "inference"): ("folded", 0.11, "multiplied"),
    ("group pointwise", "training"): "multiplied",
    ("hierarchical", "training"): "multiplied",
    ("interleaved", "inference"): ("multiplied", 7.3, "factored"),
    ("split", "training"): "multiplied",
}
# Accelerators are not measured. They use native grouped convolutions, and one product instead of many small ones.
_ACCELERATED = {
    "dense pointwise": "folded",
    "hierarchical": "composed",
    "interleaved": "composed",
    "split": "composed",
    "uneven split": "composed",
}


def accelerated() -> bool:
    """Whether Keras runs on a GPU or TPU."""
    # Without an argument, Keras lists the fastest kind of device.
    return not keras.distribution.list_devices()[0].startswith("cpu")


def xla_only() -> bool:
    """Whether XLA compiles everything for a CPU: JAX without an accelerator."""
    return keras.backend.backend() == "jax" and not accelerated()


def xla_optional() -> bool:
    """Whether CPU kernels other than XLA's are available: TensorFlow without an accelerator."""
    return keras.backend.backend() == "tensorflow" and not accelerated()


def _native() -> bool:
    """Whether TensorFlow's own CPU kernels run rather than XLA."""
    return xla_optional() and not fused.in_xla()


def runtime(dtype: str = "float32") -> str:
    """The current runtime: `"accelerator"`, or on a CPU `"jax"`, `"tensorflow"` or `"xla"` (TensorFlow with XLA).

    Returns `"xla"` instead of `"tensorflow"` if TensorFlow has no gradients of grouped convolutions in this dtype; on
    many CPUs, it has none in any dtype.
    """
    if accelerated():
        return "accelerator"
    if xla_only():
        return "jax"
    return "tensorflow" if _native() and fused.has_grouped_gradients(keras.backend.standardize_dtype(dtype)) else "xla"


def emulated(dtype: str) -> bool:
    """Whether this is a half-precision dtype for which TensorFlow has only generic CPU kernels.

    These take 8 times as long as float32, and their gradients accumulate in half precision, which stagnates.
    """
    dtype = keras.backend.standardize_dtype(dtype)
    return dtype in HALF and _native() and not fused.has_grouped_gradients(dtype)


def convolution_kind(
    kernel_size: tuple[int, int], groups: int, channel_repeats: int, strides: tuple[int, int]
) -> str | None:
    """The kind of a `HighlySharedConv2D`; `None` for a dense convolution, which has a single implementation.

    >>> convolution_kind((3, 3), groups=16, channel_repeats=8, strides=(1, 1))
    'repeated'
    """
    if groups == 1:
        return "dense pointwise" if kernel_size == strides == (1, 1) else None
    if kernel_size == (1, 1):
        return "group pointwise"
    return "grouped" if channel_repeats == 1 else "repeated"


def choose(kind: str, channels: int, sides: Shape, training: bool | None, where: str) -> str:
    """The fastest implementation according to the measurements.

    Args:
        kind: one of the kinds in `MEASURED`.
        channels: int, number of input channels.
        sides: pair, height and width of the output; `None` if unknown.
        training: bool, whether gradients are needed; `None` means no.
        where: str, a result of [`runtime`]. Accelerators are not measured: they use native grouped convolutions and
            composed kernels.

    Returns:
        str, a value of `implementation`.

    >>> [choose("interleaved", channels, (16, 16), True, "tensorflow") for channels in (128, 432)]
    ['multiplied', 'factored']
    """
    if where == "accelerator":
        return _ACCELERATED.get(kind, "grouped")
    chosen = MEASURED[where][kind, "training" if training else "inference"]
    if isinstance(chosen, str):
        return chosen
    shallow, limit, deep = chosen
    return deep if depth(channels, sides) > limit else shallow


def depth(channels: int, sides: Shape) -> float:
    """Number of input channels per output pixel; 0 if the number of pixels is unknown.

    >>> depth(256, (8, 8)), depth(256, (None, 8))
    (4.0, 0.0)
    """
    height, width = sides
    return 0.0 if height is None or width is None else channels / (height * width)
