"""Target devices of an export: one table from names to the export settings that they imply."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from keras_sharenets import _checks, precisions


@dataclasses.dataclass(frozen=True)
class Target:
    """Default export settings for a device.

    Attributes:
        quantization: a name of [`precisions.PRECISIONS`].
        input_type, output_type: types of `"int8"` files; other files have float32 inputs and outputs.
        prefer: one of `PREFERENCES`.
    """

    quantization: str
    input_type: str
    output_type: str
    prefer: str


# Which of several equivalent files to write: see [`mobile.export_tflite`].
PREFERENCES = ("size", "speed", "memory", "npu", "gpu")

# MediaPipe accepts uint8 or float32 images; LiteRT.js does not accept int8. With int8 inputs and outputs, the
# interpreter for microcontrollers and Vela need no conversion. GPU delegates compute in float16 or float32.
TARGETS = {
    "phone": Target("int8", "uint8", "uint8", "size"),
    "browser": Target("int8", "uint8", "float32", "size"),
    "microcontroller": Target("int8", "int8", "int8", "memory"),
    "npu": Target("int8", "int8", "int8", "npu"),
    "gpu": Target("float16", "float32", "float32", "gpu"),
}

# Settings that the software of a device was observed to reject.
_REFUSED = {
    "browser": ("LiteRT.js", {"input_type": ("int8",), "output_type": ("int8",)}),
    "microcontroller": ("LiteRT for Microcontrollers", {"quantization": ("float16", "dynamic_int8", "dynamic_int4")}),
    "npu": ("Vela", {"quantization": ("float16",)}),
}


def choose(target: str | None, **arguments: Any) -> dict[str, Any]:
    """The arguments of an export, with `None` replaced by the defaults of a target.

    Args:
        target: one of `TARGETS`, or `None`.
        arguments: `quantization`, `input_type`, `output_type` and `prefer`; the result has the same order. A
            `quantization` of `"float32"` takes precedence over the target, and becomes `None`.

    Raises:
        ValueError: there is no such target, or its software rejects files with one of the arguments.

    >>> choose("microcontroller", quantization=None, input_type="uint8", output_type=None, prefer=None)
    {'quantization': 'int8', 'input_type': 'uint8', 'output_type': 'int8', 'prefer': 'memory'}
    """
    _checks.one_of("target", target, (None, *TARGETS))
    if target is not None:
        known = dataclasses.asdict(TARGETS[target])
        quantization = known["quantization"] if arguments["quantization"] is None else arguments["quantization"]
        if quantization != "int8":
            # The input and output types of a target apply only to int8 files.
            known |= {"input_type": None, "output_type": None}
        program, refused = _REFUSED.get(target, ("", {}))
        for name, values in refused.items():
            given = arguments[name]
            if any(each in values for each in (given.values() if isinstance(given, Mapping) else (given,))):
                raise ValueError(
                    f"`{name}` (={given!r}) does not work with `target` (={target!r}): {program} rejects such files."
                )
        arguments = {name: known[name] if value is None else value for name, value in arguments.items()}
    return arguments | {"quantization": precisions.without_alias(arguments["quantization"])}
