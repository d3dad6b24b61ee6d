"""The head of a network: how its outputs map to classes, and when two sets of outputs agree."""

from __future__ import annotations

import collections
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence, Set

import keras
import numpy as np

from keras_sharenets import files
from keras_sharenets.analysis.graph import Call, Graph, Tensor, is_functional, trace
from keras_sharenets.layers.fake_quantize import FakeQuantize
from keras_sharenets.layers.quantized_kernels import inner

SOFTMAX, SIGMOID = "softmax", "sigmoid"
# A class is present if its probability is above this threshold.
THRESHOLD = 0.5
_FUNCTIONS = {
    SOFTMAX: (keras.activations.softmax, keras.ops.softmax),
    SIGMOID: (keras.activations.sigmoid, keras.ops.sigmoid),
}
_WITHOUT_EFFECT = (
    keras.layers.ActivityRegularization,
    keras.layers.Dropout,
    keras.layers.Flatten,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.Identity,
    keras.layers.Reshape,
    FakeQuantize,
)


@dataclasses.dataclass(frozen=True)
class Head:
    """The head of a classifier.

    Attributes:
        kind: `"multiclass"`: one class per image, that of the largest output; `"binary"`: one sigmoid, the probability
            of the second of two classes; `"multilabel"`: several sigmoids, each the probability that a class is
            present; `"value"`: one output that is not a probability, such as a regression or a logit, without classes.
        units: number of outputs per image.

    >>> head = head_of_end(SIGMOID, 1)
    >>> head.kind, head.classes, head.decide(np.array([[0.2], [0.7]])).tolist()
    ('binary', 2, [0, 1])
    """

    kind: str
    units: int

    @property
    def classes(self) -> int:
        """Number of classes: 2 for one sigmoid, 0 for a value, otherwise one per unit."""
        return {"binary": 2, "value": 0}.get(self.kind, self.units)

    def by_class(self, outputs: np.ndarray) -> np.ndarray:
        """Outputs `(n, units)` with one column per class, `(n, classes)`; `1 - p` and `p` for one sigmoid."""
        return np.concatenate([1 - outputs, outputs], axis=-1) if self.kind == "binary" else outputs

    def decide(self, outputs: np.ndarray) -> np.ndarray | None:
        """The predicted classes for outputs `(n, units)`.

        Returns:
            The class index of each image, `(n,)`; for a multilabel head, whether each class is present, as booleans
            `(n, classes)`; `None` for values.
        """
        if self.kind == "value":
            return None
        return self.present(outputs) if self.kind == "multilabel" else self.by_class(outputs).argmax(axis=-1)

    def present(self, outputs: np.ndarray) -> np.ndarray:
        """Whether each class has a probability above `THRESHOLD`: booleans `(n, classes)`."""
        return self.by_class(outputs) > THRESHOLD

    def agreement(self, outputs: np.ndarray, reference: np.ndarray) -> float | None:
        """Share of images, or of pixels of maps, with the same prediction in both outputs; `None` for values."""
        first, second = self.decide(outputs), self.decide(reference)
        if first is None or second is None:
            return None
        same = first == second
        return float((same.all(axis=-1) if self.kind == "multilabel" else same).mean())

    def correct(self, outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Whether each prediction equals the label `(n,)`; multilabel: whether that class alone is present."""
        decisions = self.decide(outputs)
        if decisions is None:
            raise ValueError("The network outputs one number that is not a probability: it has no classes.")
        if self.kind == "multilabel":
            return (decisions == (np.arange(self.units) == np.asarray(labels)[:, None])).all(axis=-1)
        return decisions == labels

    def check_names(self, class_names: Sequence[str], name: str = "`class_names`") -> tuple[str, ...]:
        """The class names as a tuple.

        Raises:
            ValueError: the number of names is not the number of classes, or a name is empty or has a line break.
        """
        if isinstance(class_names, str):
            raise ValueError(f"{name} (={class_names!r}) must be a sequence of strings, not one string.")
        if isinstance(class_names, (Mapping, Set)):
            raise ValueError(
                f"{name} (={class_names!r}) must be a sequence of strings in the order of the classes, not a"
                f" {type(class_names).__name__}."
            )
        names = tuple(class_names)
        if self.kind == "value":
            raise ValueError(
                f"{name} has {len(names)} entries, but the network ends in one unit without a sigmoid, a regression or"
                " a logit, which has no classes: add a sigmoid if it distinguishes two classes."
            )
        if len(names) != self.classes:
            why = ", since its single sigmoid distinguishes two" if self.kind == "binary" else ""
            count = f"{len(names)} {'entry' if len(names) == 1 else 'entries'}"
            raise ValueError(f"{name} has {count}, but the network has {self.classes} classes{why}.")
        for entry in names:
            lines = entry.replace("\0", "\n").splitlines() if isinstance(entry, str) else ()  # 0 ends a string in C.
            if len(lines) != 1 or entry.strip() != entry:
                raise ValueError(
                    f"{name} entry {entry!r} must be a non-empty single-line string without leading or trailing spaces."
                )
        return names


def load_classifier(path: pathlib.Path) -> keras.Model:
    """Loads a `.keras` file; a `ValueError` unless it maps one image to one vector (`check_ends`)."""
    model = files.load_model(path)
    inputs, outputs = getattr(model, "inputs", None), getattr(model, "outputs", None)
    if not inputs or not outputs:
        raise ValueError(f"{path} is neither a functional nor a sequential network.")
    check_ends(path, *([tuple(tensor.shape) for tensor in tensors] for tensors in (inputs, outputs)))
    return model


def check_ends(path: pathlib.Path, inputs: Sequence[tuple], outputs: Sequence[tuple]) -> None:
    """Raises a `ValueError` unless a network with these shapes, including the batch, maps one image to one vector."""
    if [len(shape) for shape in inputs] != [4] or [len(shape) for shape in outputs] != [2]:
        taken, given = (" and ".join(map(str, shapes)) for shapes in (inputs, outputs))
        raise ValueError(f"{path} takes {taken} and returns {given}; it must map one image to one vector of classes.")


def head_of_end(end: str | None, units: int) -> Head:
    """The head of a network with the given final activation (`SOFTMAX`, `SIGMOID`, another or `None`) and units."""
    if units == 1:
        return Head("binary" if end == SIGMOID else "value", 1)
    return Head("multilabel" if end == SIGMOID else "multiclass", units)


def head_of(model: keras.Model) -> Head:
    """The head of a network, inferred from its last layers, including those of nested models.

    Args:
        model: `keras.Model` with one output `(batch, units)`. The last activation is unknown if the model is not
            functional.

    Raises:
        ValueError: the model has other outputs.
    """
    shape = model.output_shape
    if not (isinstance(shape, tuple) and len(shape) == 2 and isinstance(shape[-1], int)):
        raise ValueError(f"`model` must have one output `(batch, units)`, has {shape}.")
    return head_of_end(final_activation(model), shape[-1])


def final_activation(model: keras.Model) -> str | None:
    """`SOFTMAX` or `SIGMOID` if a network is known to end in it, otherwise `None`."""
    return end_of(trace(model)) if is_functional(model) else None


def end_of(graph: Graph) -> str | None:
    """The final activation of the first output of a traced network."""
    return ends_of(graph)[0]


def ends_of(graph: Graph) -> list[str | None]:
    """The final activation of each output of a traced network."""
    calls = {tensor.number: call for call in graph.calls for tensor in call.outputs}
    return [_end(output, calls) for output in graph.outputs]


def heads_of(graph: Graph) -> list[Head]:
    """The head of each output of a traced network."""
    shapes = [output.shape for output in graph.outputs]
    pairs = zip(ends_of(graph), shapes, strict=True)
    return [head_of_end(end, shape[-1] if len(shape) > 1 else 1) for end, shape in pairs]


def names_of_outputs(model: keras.Model, graph: Graph) -> dict[int, str]:
    """By the identity of an operation, the name of its output among several: that of the nested model that returns it.

    Losses and labels refer to it. An operation that returns outputs of several names keeps its own.

    Args:
        model: functional or sequential model.
        graph: its trace.
    """
    makers = {tensor.number: id(call.operation) for call in graph.calls for tensor in call.outputs}
    found = collections.defaultdict(set)
    for tensor, output in zip(model.outputs, graph.outputs, strict=True):
        if output.number in makers:
            found[makers[output.number]].add(tensor._keras_history.operation.name)
    several = len(model.outputs) > 1
    return {number: name for number, (name, *others) in found.items() if several and not others}


def _end(tensor: Tensor, calls: dict[int, Call]) -> str | None:
    """The activation that computes a tensor."""
    if tensor.number not in calls:
        return None
    call = calls[tensor.number]
    operation = inner(call.operation)
    if type(operation) is keras.layers.Concatenate:
        # One sigmoid layer per label. Several softmaxes are not supported as a head.
        return SIGMOID if all(_end(each, calls) == SIGMOID for each in call.inputs) else None
    end = _activation(operation)
    return _end(call.inputs[0], calls) if end is None and _without_effect(operation) else end


def _activation(operation: keras.Operation) -> str | None:
    if isinstance(operation, keras.layers.Softmax):
        return SOFTMAX
    if isinstance(operation, keras.layers.Layer):
        activation = getattr(operation, "activation", None)
        if isinstance(activation, keras.layers.Layer):
            return _activation(activation)
        if getattr(activation, "__module__", "").startswith("tensorflow."):  # `tf.nn.softmax` is called `softmax_v2`.
            name = getattr(activation, "__name__", "").removesuffix("_v2")
            return name if name in _FUNCTIONS else None
        return next((name for name, functions in _FUNCTIONS.items() if activation in functions), None)
    # The operation of `keras.ops.sigmoid` on a symbolic tensor; its class is not public.
    return {"Softmax": SOFTMAX, "Sigmoid": SIGMOID}.get(type(operation).__name__)


def _without_effect(operation: keras.Operation) -> bool:
    """Whether a layer does not change its input values in inference."""
    if isinstance(operation, keras.layers.Activation):
        return operation.activation is keras.activations.linear
    return type(operation) in _WITHOUT_EFFECT
