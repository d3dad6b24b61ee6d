"""What numbers a file for phones stores and computes with: the one table of precisions, and what may be asked for."""

from __future__ import annotations

import dataclasses
import fnmatch
import importlib.util
from collections.abc import Iterable, Mapping
from typing import Any

# A name of `PRECISIONS`, or names by patterns of layers' names.
Quantization = str | None | Mapping[str, str | None]


@dataclasses.dataclass(frozen=True)
class Precision:
    """How numbers are stored in a file and computed with.

    Attributes:
        kernel_bytes, vector_bytes: of a stored number by the rank of its tensor: kernels, and vectors such as biases.
            What is added to the products of int8 numbers has 4 bytes, to those of int8 and int16 numbers 8.
        record_bytes: of an operator without its kernel, as records and vectors: what materializing a layer of HGCNet
            was seen to save for each operator that goes.
        product_time, move_time: time in proportion of a product of a convolution, and of a number that is moved, scaled
            or added. Estimates, not measured operation by operation; what they pick agreed with latencies of HSC, HGC
            and IGC networks in LiteRT on one server.
        tolerance: the largest `score_error` of a right file.
        right_bits: bits of the numbers in a kernel that are right, of files that compute in float with them.
        quantizer: `(bits of kernels, bits of the values that they meet, whether those have one range for all images)`
            of what AI Edge Quantizer makes.
        verification_images: how many images a file is run on at most before it gets its name.
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


# Right files had score errors of up to 1e-6, 1e-3 and 0.07 in float32, float16 and int8 (untrained and trained networks
# of 4 to 100 convolutions), 0.05, 0.49 and 0.05 in dynamic_int8, dynamic_int4 and int16 (trained ones of six families);
# files with the values of a kernel shuffled or with doubled scores had 0.5 to 4, and one with no scores has 1. What
# rounding explains is a tighter bound: files of AI Edge Quantizer had 0.76 to 1.00 times that error. LiteRT computes
# with int16 values in loops that are not optimized.
PRECISIONS: dict[str | None, Precision] = {
    None: Precision(4, 4, 126, 1 / 30, 1.0, 1e-4, right_bits=22),
    "float16": Precision(2, 2, 155, 1 / 30, 1.0, 1e-2, right_bits=11),
    "int8": Precision(1, 4, 145, 1 / 120, 0.7, 0.5),
    "dynamic_int8": Precision(1, 4, 145, 1 / 60, 1.0, 0.5, quantizer=(8, 8, False)),
    "dynamic_int4": Precision(0.5, 4, 145, 1 / 60, 1.0, 1.0, quantizer=(4, 8, False)),
    "int16": Precision(1, 8, 145, 1 / 30, 1.0, 0.5, quantizer=(8, 16, True), verification_images=16),
}
# What a layer may have beside others.
MIXED = (None, *(name for name, precision in PRECISIONS.items() if precision.quantizer))
_PACKAGE, _INSTALL = "ai_edge_quantizer", "pip install 'keras_sharenets[precisions]'"


def check_quantization(quantization: Any, name: str = "quantization") -> None:
    """Raises a `ValueError` unless it is a name of `PRECISIONS` or a mapping to some of `MIXED`; `name` is in messages.

    Raises:
        ModuleNotFoundError: it needs AI Edge Quantizer, which is not installed.
    """
    found = quantization.values() if isinstance(quantization, Mapping) else (quantization,)
    if isinstance(quantization, Mapping):
        if not quantization or not all(isinstance(pattern, str) for pattern in quantization):
            raise ValueError(f"`{name}` (={quantization!r}) must give precisions to patterns of layers' names.")
        wrong = [each for each in found if each not in MIXED]
        if wrong:
            allowed = ", ".join(map(repr, MIXED))
            raise ValueError(f"`{name}` gives {wrong[0]!r} to a layer, and must give one of {allowed}.")
    elif not (quantization is None or isinstance(quantization, str)) or quantization not in PRECISIONS:
        allowed = ", ".join(map(repr, PRECISIONS))
        raise ValueError(f"`{name}` (={quantization!r}) must be one of {allowed}, or a mapping from layers.")
    if any(PRECISIONS[each].quantizer for each in found) and importlib.util.find_spec(_PACKAGE) is None:
        raise ModuleNotFoundError(
            f"`{name}` (={quantization!r}) needs AI Edge Quantizer, which is not installed: {_INSTALL}",
            name=_PACKAGE,
        )


def check_layers(quantization: Quantization, layers: Iterable[str]) -> None:
    """Raises a `ValueError` if a pattern is that of no layer."""
    names = sorted(set(layers))
    for pattern in quantization if isinstance(quantization, Mapping) else ():
        if not fnmatch.filter(names, pattern):
            raise ValueError(f"`quantization` has a pattern {pattern!r}, but the layers are {', '.join(names)}.")


def name_of(quantization: Quantization, layer: str) -> str | None:
    """The name of a layer's precision: of a mapping, that of the first pattern that its name has, else float32."""
    if not isinstance(quantization, Mapping):
        return quantization
    return next((name for pattern, name in quantization.items() if fnmatch.fnmatchcase(layer, pattern)), None)


def of_layer(quantization: Quantization, layer: str) -> Precision:
    """The `Precision` of a layer."""
    return PRECISIONS[name_of(quantization, layer)]


def of_file(quantization: Quantization) -> list[Precision]:
    """All that a file may have."""
    names = quantization.values() if isinstance(quantization, Mapping) else [quantization]
    return [PRECISIONS[name] for name in names]


def needs_quantizer(quantization: Quantization) -> bool:
    """Whether AI Edge Quantizer makes a file, from one of floats."""
    return any(precision.quantizer for precision in of_file(quantization))


def has_integers(quantization: Quantization) -> bool:
    """Whether any kernel in a file is integers."""
    return any(precision.right_bits is None for precision in of_file(quantization))


def needs_ranges(quantization: Quantization) -> bool:
    """Whether the range of every value has to be measured on representative data."""
    return quantization == "int8" or any(each.quantizer and each.quantizer[2] for each in of_file(quantization))


def tell(quantization: Quantization) -> str:
    """In words, for a report.

    >>> tell({"stem": "dynamic_int8", "*": "dynamic_int4"})
    'stem: dynamic_int8, *: dynamic_int4'
    """
    if isinstance(quantization, Mapping):
        return ", ".join(f"{pattern}: {name or 'float32'}" for pattern, name in quantization.items())
    return quantization or "float32"


def parse(text: str) -> Quantization:
    """What a command line says: the name of a precision, or `PATTERN=NAME,PATTERN=NAME` with `float32` for `None`.

    >>> parse("int8"), parse("stem=float32,*=dynamic_int4")
    ('int8', {'stem': None, '*': 'dynamic_int4'})
    """
    if "=" not in text:
        return text
    entries = (entry.rpartition("=") for entry in text.split(","))
    return {pattern.strip(): None if name.strip() == "float32" else name.strip() for pattern, _, name in entries}
