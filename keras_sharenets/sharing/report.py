"""Report of a conversion to a sharing network, as data and as a table."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping

import keras

from keras_sharenets.rendering.tables import text_table


@dataclasses.dataclass(frozen=True)
class SharedLayer:
    """A convolution that was converted to share weights.

    Attributes:
        path: name of the layer, preceded by the names of nested models.
        was, becomes: description of the layer before and after.
        stored_before, stored: number of stored weights before and after; a kernel that several layers share counts for
            the first of them.
        kernel_error: relative error of the kernel, with each output channel scaled as by the normalization that
            follows.
        output_error: relative error of the outputs on the sample images, for the original inputs; of the centered
            outputs if a normalization follows. `None` without images, and for kernels with very long patches.
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
    """A network that shares filters, with a report; `print(shared)` prints a table.

    Attributes:
        model: functional `keras.Model`, not compiled.
        layers: a `SharedLayer` for each converted convolution.
        left: dict from the path of each other convolution to the reason why it is unchanged, except for those that can
            share and that `where` does not select.
        parameters_before, parameters: number of trainable parameters before and after, shared ones once.
        reordered: paths of the layers whose channels have a new order.
        layer_names: dict from the path of each convolution that can share to the name of its layer in `model`.
        tflite_bytes: size of the file if `max_tflite_bytes` was given; otherwise `None`.
    """

    model: keras.Model
    layers: tuple[SharedLayer, ...]
    left: Mapping[str, str]
    parameters_before: int
    parameters: int
    reordered: tuple[str, ...] = ()
    layer_names: Mapping[str, str] = dataclasses.field(default_factory=dict)
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
        lines += [f"unchanged: {', '.join(paths)}: {reason}" for reason, paths in reasons.items()]
        if self.reordered:
            lines.append(f"reordered channels: {', '.join(self.reordered)}")
        trainable = {path: self.model.get_layer(name).trainable for path, name in self.layer_names.items()}
        frozen = [layer.path for layer in self.layers if not trainable.get(layer.path, True)]
        if frozen:
            lines.append(f"frozen: {', '.join(frozen)}: set `trainable = True` to fine-tune them")
        return "\n".join(lines) + "\n"


def _percent(error: float | None) -> str:
    return "" if error is None else f"{error:.1%}"
