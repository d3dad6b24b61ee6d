"""What sharing made of a network, as data and as a table."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping

import keras

from keras_sharenets.rendering.tables import text_table


@dataclasses.dataclass(frozen=True)
class SharedLayer:
    """One convolution that now shares.

    Attributes:
        path: its name, with the names of nested models before it.
        was, becomes: what it was and what it is, in words.
        stored_before, stored: weights that are stored for it, before and after; a kernel that several share counts for
            the first of them.
        kernel_error: length of the difference of the kernels as a share of the length of the old one, each output
            channel as the normalization behind it scales it.
        output_error: the same of its outputs on the sample images, given the inputs that it had before; around their
            mean where a normalization follows. `None` without images, and for kernels whose patches are too long.
    """

    path: str
    was: str
    becomes: str
    stored_before: int
    stored: int
    kernel_error: float
    output_error: float | None


@dataclasses.dataclass(frozen=True, eq=False)
class Shared:
    """A network that shares. Printed it is a table.

    Attributes:
        model: a functional `keras.Model`, not compiled.
        layers: a `SharedLayer` for each convolution that shares.
        left: for each other convolution, by its path, why it is as it was.
        parameters_before, parameters: trainable parameters of both networks, shared ones once.
        reordered: paths of the layers whose channels come in another order than before.
        tflite_bytes: size of the file, where `max_tflite_bytes` was given; else `None`.
    """

    model: keras.Model
    layers: tuple[SharedLayer, ...]
    left: Mapping[str, str]
    parameters_before: int
    parameters: int
    reordered: tuple[str, ...] = ()
    tflite_bytes: int | None = None

    def __str__(self) -> str:
        header = ("convolution", "was", "becomes", "stored before", "stored", "kernel error", "output error")
        rows = [
            (
                layer.path,
                layer.was,
                layer.becomes,
                f"{layer.stored_before:,}",
                f"{layer.stored:,}",
                _percent(layer.kernel_error),
                _percent(layer.output_error),
            )
            for layer in self.layers
        ]
        share = self.parameters / self.parameters_before if self.parameters_before else 1.0
        total = ("network", "", "", f"{self.parameters_before:,}", f"{self.parameters:,}", f"{share:.1%} left", "")
        lines = [text_table([header, *rows, total], align="lllrrrr")]
        if self.tflite_bytes is not None:
            lines.append(f"{self.tflite_bytes:,} bytes as a TFLite file")
        reasons = collections.defaultdict(list)
        for path, reason in self.left.items():
            reasons[reason].append(path)
        lines += [f"as before: {', '.join(paths)}: {reason}" for reason, paths in reasons.items()]
        if self.reordered:
            lines.append(f"channels in another order: {', '.join(self.reordered)}")
        return "\n".join(lines) + "\n"


def _percent(error: float | None) -> str:
    return "" if error is None else f"{error:.1%}"
