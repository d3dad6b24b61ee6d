"""Which implementation of a layer runs: the rule behind `implementation="auto"`, as data.

`python -m benchmarks layers` measures every implementation on the shapes that the networks use, and writes the table
`MEASURED` anew: for each runtime, kind of layer and direction the one or two implementations that lose least to the
fastest. Where there are two, a limit lies between them, on the channels that come in for each pixel that goes out: a
deep small image has large kernels and little to use them on.
"""

import keras

from keras_sharenets._types import Shape
from keras_sharenets.dtype_policies import HALF
from keras_sharenets.ops import fused

# By runtime, then by kind and direction: an implementation, or one up to a limit of channels per pixel, the limit, and
# the one beyond.
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
# Measured in a run of its own; where it says what TensorFlow with XLA says, that.
MEASURED["jax"] = MEASURED["xla"] | {
    ("dense pointwise", "inference"): ("folded", 0.11, "multiplied"),
    ("group pointwise", "training"): "multiplied",
    ("hierarchical", "training"): "multiplied",
    ("interleaved", "inference"): ("multiplied", 7.3, "factored"),
    ("split", "training"): "multiplied",
}
# Accelerators are not measured: native grouped convolutions, and one product instead of many small ones.
_ACCELERATED = {
    "dense pointwise": "folded",
    "hierarchical": "composed",
    "interleaved": "composed",
    "split": "composed",
    "uneven split": "composed",
}


def accelerated() -> bool:
    """Whether Keras runs on a GPU or TPU."""
    # Without a kind Keras lists the fastest there is.
    return not keras.distribution.list_devices()[0].startswith("cpu")


def xla_only() -> bool:
    """Whether everything is compiled by XLA for a CPU: JAX without an accelerator."""
    return keras.backend.backend() == "jax" and not accelerated()


def xla_optional() -> bool:
    """Whether a CPU has a library of its own beside XLA: TensorFlow without an accelerator."""
    return keras.backend.backend() == "tensorflow" and not accelerated()


def _native() -> bool:
    """Whether TensorFlow's own CPU kernels run, and not XLA's."""
    return xla_optional() and not fused.in_xla()


def runtime(dtype: str = "float32") -> str:
    """What runs: `"accelerator"`, or on a CPU `"jax"`, `"tensorflow"`, or `"xla"` where TensorFlow compiles with it.

    It is not `"tensorflow"` where that has no gradients of grouped convolutions in this type: many CPUs have them in no
    type.
    """
    if accelerated():
        return "accelerator"
    if xla_only():
        return "jax"
    return "tensorflow" if _native() and fused.has_grouped_gradients(keras.backend.standardize_dtype(dtype)) else "xla"


def emulated(dtype: str) -> bool:
    """Whether this is half precision that TensorFlow's CPU has no kernels for but general ones.

    Those take 8 times as long as float32, and their gradients are sums in half precision, which stand still.
    """
    dtype = keras.backend.standardize_dtype(dtype)
    return dtype in HALF and _native() and not fused.has_grouped_gradients(dtype)


def convolution_kind(
    kernel_size: tuple[int, int], groups: int, channel_repeats: int, strides: tuple[int, int]
) -> str | None:
    """The kind of a `HighlySharedConv2D`, or `None` where there is no choice: a dense convolution.

    >>> convolution_kind((3, 3), groups=16, channel_repeats=8, strides=(1, 1))
    'repeated'
    """
    if groups == 1:
        return "dense pointwise" if kernel_size == strides == (1, 1) else None
    if kernel_size == (1, 1):
        return "group pointwise"
    return "grouped" if channel_repeats == 1 else "repeated"


def choose(kind: str, channels: int, sides: Shape, training: bool | None, where: str) -> str:
    """The fastest implementation as far as measured.

    Args:
        kind: one of the kinds in `MEASURED`.
        channels: int, that come in.
        sides: pair, height and width that go out; `None` where open.
        training: bool, whether gradients will be wanted; `None` counts as no.
        where: str as from [`runtime`]. On an accelerator nothing is measured: native grouped convolutions, and
            kernels composed into one.

    Returns:
        str, a name for `implementation`.

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
    """Channels that come in for each pixel that goes out; 0 where their number is open.

    >>> depth(256, (8, 8)), depth(256, (None, 8))
    (4.0, 0.0)
    """
    height, width = sides
    return 0.0 if height is None or width is None else channels / (height * width)
