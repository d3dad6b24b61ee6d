"""The precisions of TFLite files: how numbers are stored and computed, and which combinations are allowed."""

from __future__ import annotations

import dataclasses
import fnmatch
import importlib.util
from collections.abc import Iterable, Mapping
from typing import Any

# A name of `PRECISIONS`, or a mapping from patterns of layer names to such names.
Quantization = str | None | Mapping[str, str | None]


@dataclasses.dataclass(frozen=True)
class Precision:
    """How numbers are stored in a file and used in computations.

    Attributes:
        kernel_bytes, vector_bytes: bytes per stored number in kernels, and in vectors such as biases. Biases added to
            products of int8 numbers have 4 bytes, those added to products of int8 and int16 numbers 8.
        record_bytes: bytes of an operator without its kernel (records and vectors): the observed saving per removed
            operator when a layer of HGCNet is materialized.
        product_time, move_time: relative time of a product in a convolution, and of moving, scaling or adding a number.
            These are estimates, not measured per operation. The implementations that they select agreed with latencies
            of HSC, HGC and IGC networks in LiteRT on one server.
        tolerance: maximum `score_error` of a correct file.
        right_bits: number of correct bits of the kernel values, for files that compute in float.
        quantizer: for files of AI Edge Quantizer, `(bits of kernels, bits of activations, whether the ranges of
            activations are static)`.
        verification_images: maximum number of images on which a file is verified before it gets its final name.
    """

    kernel_bytes: float
    vector_bytes: int
    record_bytes: int
    product_time: float
    move_time: float
    tolerance: float
    right_bits: int | None = None
    quantizer: tuple[int, int, bool] | None = None
    verification_images: int = 64


# Correct files had score errors of up to 1e-6, 1e-3 and 0.07 in float32, float16 and int8 (untrained and trained
# networks with 4 to 100 convolutions), and 0.05, 0.49 and 0.05 in dynamic_int8, dynamic_int4 and int16 (trained
# networks of six families). Files with a shuffled kernel or doubled scores had 0.5 to 4; a file without scores has 1.
# The error explained by rounding is a tighter bound: files of AI Edge Quantizer had 0.76 to 1.00 times that error.
# LiteRT has no optimized kernels for int16 values.
PRECISIONS: dict[str | None, Precision] = {
    None: Precision(4, 4, 126, 1 / 30, 1.0, 1e-4, right_bits=22),
    "float16": Precision(2, 2, 155, 1 / 30, 1.0, 1e-2, right_bits=11),
    "int8": Precision(1, 4, 145, 1 / 120, 0.7, 0.5),
    "dynamic_int8": Precision(1, 4, 145, 1 / 60, 1.0, 0.5, quantizer=(8, 8, False)),
    "dynamic_int4": Precision(0.5, 4, 145, 1 / 60, 1.0, 1.0, quantizer=(4, 8, False)),
    "int16": Precision(1, 8, 145, 1 / 30, 1.0, 0.5, quantizer=(8, 16, True), verification_images=16),
}
# Precisions that can be mixed within a file.
MIXED = (None, *(name for name, precision in PRECISIONS.items() if precision.quantizer))
_PACKAGE, _INSTALL = "ai_edge_quantizer", "pip install 'keras_sharenets[precisions]'"


def without_alias(quantization: Any) -> Any:
    """`quantization` with `None` in place of `"float32"`, also in a mapping."""
    if isinstance(quantization, Mapping):
        return {pattern: None if name == "float32" else name for pattern, name in quantization.items()}
    return None if quantization == "float32" else quantization


def check_quantization(quantization: Any, name: str = "quantization") -> None:
    """Checks that `quantization` is a name of `PRECISIONS` or a mapping to names of `MIXED`.

    Args:
        quantization: the value to check.
        name: name of the argument in messages.

    Raises:
        ValueError: it is neither.
        ModuleNotFoundError: it needs AI Edge Quantizer, which is not installed.
    """
    found = quantization.values() if isinstance(quantization, Mapping) else (quantization,)
    if isinstance(quantization, Mapping):
        if not quantization or not all(isinstance(pattern, str) for pattern in quantization):
            raise ValueError(f"`{name}` (={quantization!r}) must map patterns of layer names to precisions.")
        wrong = [each for each in found if each not in MIXED]
        if wrong:
            allowed = ", ".join(repr(each or "float32") for each in MIXED)
            raise ValueError(f"`{name}` assigns {wrong[0]!r} to a layer, but must assign one of {allowed}.")
    elif not (quantization is None or isinstance(quantization, str)) or quantization not in PRECISIONS:
        allowed = ", ".join(repr(each or "float32") for each in PRECISIONS)
        raise ValueError(f"`{name}` (={quantization!r}) must be one of {allowed}, or a mapping from layer names.")
    if any(PRECISIONS[each].quantizer for each in found) and importlib.util.find_spec(_PACKAGE) is None:
        raise ModuleNotFoundError(
            f"`{name}` (={quantization!r}) needs AI Edge Quantizer, which is not installed: {_INSTALL}",
            name=_PACKAGE,
        )


def check_layers(quantization: Quantization, layers: Iterable[str]) -> None:
    """Raises a `ValueError` if a pattern matches no layer."""
    names = sorted(set(layers))
    for pattern in quantization if isinstance(quantization, Mapping) else ():
        if not fnmatch.filter(names, pattern):
            raise ValueError(f"`quantization` has a pattern {pattern!r}, but the layers are {', '.join(names)}.")


def name_of(quantization: Quantization, layer: str) -> str | None:
    """The name of a layer's precision: for a mapping, that of the first matching pattern, or `None` (float32)."""
    if not isinstance(quantization, Mapping):
        return quantization
    return next((name for pattern, name in quantization.items() if fnmatch.fnmatchcase(layer, pattern)), None)


def of_layer(quantization: Quantization, layer: str) -> Precision:
    """The `Precision` of a layer."""
    return PRECISIONS[name_of(quantization, layer)]


def of_file(quantization: Quantization) -> list[Precision]:
    """All precisions of a file."""
    names = quantization.values() if isinstance(quantization, Mapping) else [quantization]
    return [PRECISIONS[name] for name in names]


def needs_quantizer(quantization: Quantization) -> bool:
    """Whether AI Edge Quantizer produces the file from a float file."""
    return any(precision.quantizer for precision in of_file(quantization))


def has_integers(quantization: Quantization) -> bool:
    """Whether a file has integer kernels."""
    return any(precision.right_bits is None for precision in of_file(quantization))


def needs_ranges(quantization: Quantization) -> bool:
    """Whether the ranges of activations must be measured on representative data."""
    return quantization == "int8" or any(each.quantizer and each.quantizer[2] for each in of_file(quantization))


def tell(quantization: Quantization) -> str:
    """Formats a precision for a report.

    >>> tell({"stem": "dynamic_int8", "*": "dynamic_int4"})
    'stem: dynamic_int8, *: dynamic_int4'
    """
    if isinstance(quantization, Mapping):
        return ", ".join(f"{pattern}: {name or 'float32'}" for pattern, name in quantization.items())
    return quantization or "float32"


def parse(text: str) -> Quantization:
    """Parses a command-line value: a name, or `PATTERN=NAME,PATTERN=NAME` with `float32` for `None`.

    >>> parse("int8"), parse("stem=float32,*=dynamic_int4")
    ('int8', {'stem': None, '*': 'dynamic_int4'})
    """
    if "=" not in text:
        return text
    entries = (entry.rpartition("=") for entry in text.split(","))
    return without_alias({pattern.strip(): name.strip() for pattern, _, name in entries})
