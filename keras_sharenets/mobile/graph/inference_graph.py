"""What a phone computes for one picture: the explicit graph between a trained network and its file.

Lowering makes it from a Keras model, passes rewrite it, and it can be run by itself (`execution`), quantised and
written. A stored tensor is one object however many operations use it; what differs between uses, such as the scale that
a batch normalisation leaves behind, belongs to the operation.
"""

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Value:
    """What flows between operations: its number in the graph, and its shape with the batch of 1 first."""

    number: int
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Stored:
    """A tensor that the file holds once: name and float32 array, in the layout of Keras."""

    name: str
    array: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Operation:
    """One step: `activation(scale * linear(inputs; kernel) + bias)`, where `linear` is named by `kind`.

    Attributes:
        kind: `"conv"` (attributes strides, padding, groups), `"shared_conv"` (the same and channel_repeats; the kernel
            is one period of the repeated filters), `"depthwise"` (strides, padding), `"dense"`, `"affine"` (only scale
            and bias), `"add"`, `"multiply"`, `"concat"`, `"pad"` (paddings), `"max_pool"` and `"average_pool"`
            (pool_size, strides, padding), `"mean"` and `"max"` over the picture (keepdims), `"reshape"`, `"slice"` and
            `"permute"` of channels (start and, out of a stack, picture; indices), `"stack"` of the groups that
            channels are dealt to, like pictures (groups), `"softmax"`, `"sigmoid"`, `"identity"`.
        name: str, that of the layer.
        use: int, 0 in the first call of the layer, 1 in the second.
        inputs, output: `Value`s.
        kernel: `Stored`, of the kinds with one.
        scale, bias: float32 vectors with one number an output channel, or `None` for 1 and 0.
        activation: `None`, `"relu"` or `"relu6"`.
        attributes: dict.
    """

    kind: str
    name: str
    inputs: tuple[Value, ...]
    output: Value
    kernel: Stored | None = None
    scale: np.ndarray | None = None
    bias: np.ndarray | None = None
    activation: str | None = None
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)
    use: int = 0

    @property
    def site(self):
        """The call of a layer that this comes from: `(name, use)`."""
        return self.name, self.use


@dataclasses.dataclass(frozen=True)
class InferenceGraph:
    """A network for one picture: its input, its operations in order, its output.

    `ranges` is what is known of the ranges of values from training: `{value number: (smallest, largest)}`.
    """

    input: Value
    operations: tuple[Operation, ...]
    output: Value
    ranges: dict[int, tuple[float, float]] = dataclasses.field(default_factory=dict)

    def consumers(self):
        """`{value number: operations that read it}`; the graph's own output is read by nobody in it."""
        readers = {}
        for operation in self.operations:
            for value in operation.inputs:
                readers.setdefault(value.number, []).append(operation)
        return readers

    def uses(self):
        """`{stored tensor: operations that use it}`."""
        users = {}
        for operation in self.operations:
            if operation.kernel is not None:
                users.setdefault(operation.kernel, []).append(operation)
        return users

    def next_number(self):
        """A number that no value has yet."""
        return 1 + max([self.input.number, *(operation.output.number for operation in self.operations)])
