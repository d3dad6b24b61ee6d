"""What a file has to be like for the device that it is for: one table, from words to what they choose."""

from __future__ import annotations

import dataclasses
from typing import Any

from keras_sharenets import _checks


@dataclasses.dataclass(frozen=True)
class Target:
    """What is chosen for a device where the arguments of an export do not say it.

    Attributes:
        quantization: a name of [`precisions.PRECISIONS`].
        input_type, output_type: of `"int8"` files; others take and give float32.
        prefer: one of `PREFERENCES`.
    """

    quantization: str
    input_type: str
    output_type: str
    prefer: str


# Which of the files that compute the same: see [`mobile.export_tflite`].
PREFERENCES = ("size", "speed", "memory", "npu", "gpu")

# MediaPipe takes images of uint8 or float32, and LiteRT.js no int8. The interpreter for microcontrollers and Vela have
# nothing to do where the ends are int8. Delegates for GPUs compute in float16 or float32.
TARGETS = {
    "phone": Target("int8", "uint8", "uint8", "size"),
    "browser": Target("int8", "uint8", "float32", "size"),
    "microcontroller": Target("int8", "int8", "int8", "memory"),
    "npu": Target("int8", "int8", "int8", "npu"),
    "gpu": Target("float16", "float32", "float32", "gpu"),
}

# What the program of a device was seen to refuse.
_REFUSED = {
    "browser": ("LiteRT.js", {"input_type": ("int8",), "output_type": ("int8",)}),
    "microcontroller": ("LiteRT for Microcontrollers", {"quantization": ("float16", "dynamic_int8", "dynamic_int4")}),
    "npu": ("Vela", {"quantization": ("float16",)}),
}


def choose(target: str | None, **arguments: Any) -> dict[str, Any]:
    """The arguments of an export, those that are `None` as a target has them.

    Args:
        target: one of `TARGETS`, or `None`.
        arguments: `quantization`, `input_type`, `output_type` and `prefer`; the result has them in the same order.

    Raises:
        ValueError: there is no such target, or its program refuses files with one of the arguments.

    >>> choose("microcontroller", quantization=None, input_type="uint8", output_type=None, prefer=None)
    {'quantization': 'int8', 'input_type': 'uint8', 'output_type': 'int8', 'prefer': 'memory'}
    """
    _checks.one_of("target", target, (None, *TARGETS))
    if target is not None:
        known = dataclasses.asdict(TARGETS[target])
        quantization = known["quantization"] if arguments["quantization"] is None else arguments["quantization"]
        if quantization != "int8":
            # What a target says of the ends is of integers.
            known |= {"input_type": None, "output_type": None}
        program, refused = _REFUSED.get(target, ("", {}))
        for name, values in refused.items():
            if arguments[name] in values:
                raise ValueError(
                    f"`{name}` (={arguments[name]!r}) is not for `target` (={target!r}): {program} refuses such files."
                )
        arguments = {name: known[name] if value is None else value for name, value in arguments.items()}
    return arguments
