"""What the end of a network means: which class its numbers stand for, and when two runs say the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence, Set

import keras
import numpy as np

from keras_sharenets.analysis.graph import Call, Graph, Tensor, is_functional, trace
from keras_sharenets.layers.fake_quantize import FakeQuantize
from keras_sharenets.layers.quantized_kernels import inner

SOFTMAX, SIGMOID = "softmax", "sigmoid"
# A probability above it says that a class is there.
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
    """The end of a classifier.

    Attributes:
        kind: `"multiclass"`: one class an image, the one of the largest number; `"binary"`: one sigmoid, which gives
            the probability of the second of two classes; `"multilabel"`: several sigmoids, each with a class of its own
            that is there above `THRESHOLD` or not; `"value"`: one number that is no probability, such as a regression
            or a logit, and has no classes.
        units: how many numbers the network gives an image.

    >>> head = head_of_end(SIGMOID, 1)
    >>> head.kind, head.classes, head.decide(np.array([[0.2], [0.7]])).tolist()
    ('binary', 2, [0, 1])
    """

    kind: str
    units: int

    @property
    def classes(self) -> int:
        """How many class names it takes: 2 for one sigmoid, none for a value, else one a unit."""
        return {"binary": 2, "value": 0}.get(self.kind, self.units)

    def by_class(self, outputs: np.ndarray) -> np.ndarray:
        """Outputs `(n, units)` with one column a class, `(n, classes)`: of one sigmoid `1 - p` and `p`."""
        return np.concatenate([1 - outputs, outputs], axis=-1) if self.kind == "binary" else outputs

    def decide(self, outputs: np.ndarray) -> np.ndarray | None:
        """What outputs `(n, units)` say.

        Returns:
            The index of a class for each image, `(n,)`; of a multilabel head whether each class is there, booleans
            `(n, classes)`; `None` for values.
        """
        if self.kind == "value":
            return None
        return self.present(outputs) if self.kind == "multilabel" else self.by_class(outputs).argmax(axis=-1)

    def present(self, outputs: np.ndarray) -> np.ndarray:
        """Which classes have a probability that says that they are there: booleans `(n, classes)`."""
        return self.by_class(outputs) > THRESHOLD

    def agreement(self, outputs: np.ndarray, reference: np.ndarray) -> float | None:
        """Share of the images, or of the pixels of maps, of which two runs say the same about every class.

        `None` for values.
        """
        first, second = self.decide(outputs), self.decide(reference)
        if first is None or second is None:
            return None
        same = first == second
        return float((same.all(axis=-1) if self.kind == "multilabel" else same).mean())

    def correct(self, outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Whether each image of a label `(n,)` was told right: of a multilabel head that class and no other."""
        decisions = self.decide(outputs)
        if decisions is None:
            raise ValueError("The network gives one number that is no probability: it has no classes to be right in.")
        if self.kind == "multilabel":
            return (decisions == (np.arange(self.units) == np.asarray(labels)[:, None])).all(axis=-1)
        return decisions == labels

    def check_names(self, class_names: Sequence[str], name: str = "`class_names`") -> tuple[str, ...]:
        """The class names as a tuple.

        Raises:
            ValueError: they are not as many strings as classes, or one is empty or has a line break in it.
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
                " a logit, which has no classes: put a sigmoid behind it if it tells two classes apart."
            )
        if len(names) != self.classes:
            why = ", as its one sigmoid tells two apart" if self.kind == "binary" else ""
            raise ValueError(f"{name} has {len(names)} entries, but the network has {self.classes} classes{why}.")
        for entry in names:
            lines = entry.replace("\0", "\n").splitlines() if isinstance(entry, str) else ()  # 0 ends a string in C.
            if len(lines) != 1 or entry.strip() != entry:
                raise ValueError(
                    f"{name} entry {entry!r} must be a string of one line, not empty, without spaces at its ends."
                )
        return names


def head_of_end(end: str | None, units: int) -> Head:
    """The head of a network with so many units whose final activation is `SOFTMAX`, `SIGMOID` or another or `None`."""
    if units == 1:
        return Head("binary" if end == SIGMOID else "value", 1)
    return Head("multilabel" if end == SIGMOID else "multiclass", units)


def head_of(model: keras.Model) -> Head:
    """The head of a network, told from its last layers, in nested networks too.

    Args:
        model: `keras.Model` with one output `(batch, units)`. Of one whose calls are not known the last activation is
            not either.
    """
    return head_of_end(final_activation(model), int(model.output_shape[-1]))


def final_activation(model: keras.Model) -> str | None:
    """`SOFTMAX` or `SIGMOID`, if a network visibly ends in it, else `None`."""
    return end_of(trace(model)) if is_functional(model) else None


def end_of(graph: Graph) -> str | None:
    """The same of a network that is traced already, of its first output."""
    return ends_of(graph)[0]


def ends_of(graph: Graph) -> list[str | None]:
    """The same of each output."""
    calls = {tensor.number: call for call in graph.calls for tensor in call.outputs}
    return [_end(output, calls) for output in graph.outputs]


def heads_of(graph: Graph) -> list[Head]:
    """The head of each output of a network that is traced already."""
    shapes = [output.shape for output in graph.outputs]
    pairs = zip(ends_of(graph), shapes, strict=True)
    return [head_of_end(end, shape[-1] if len(shape) > 1 else 1) for end, shape in pairs]


def _end(tensor: Tensor, calls: dict[int, Call]) -> str | None:
    """The activation that gives a tensor."""
    if tensor.number not in calls:
        return None
    call = calls[tensor.number]
    operation = inner(call.operation)
    if type(operation) is keras.layers.Concatenate:
        # One sigmoid for each label, each with a layer of its own. Several softmaxes are no head of ours.
        return SIGMOID if all(_end(each, calls) == SIGMOID for each in call.inputs) else None
    end = _activation(operation)
    return _end(call.inputs[0], calls) if end is None and _without_effect(operation) else end


def _activation(operation: keras.Operation) -> str | None:
    if isinstance(operation, keras.layers.Softmax):
        return SOFTMAX
    if isinstance(operation, keras.layers.Layer):
        activation = getattr(operation, "activation", None)
        return next((name for name, functions in _FUNCTIONS.items() if activation in functions), None)
    # What `keras.ops.sigmoid` of a symbolic tensor leaves; its class is not public.
    return {"Softmax": SOFTMAX, "Sigmoid": SIGMOID}.get(type(operation).__name__)


def _without_effect(operation: keras.Operation) -> bool:
    """Whether a layer leaves the numbers of an end what they are in inference."""
    if isinstance(operation, keras.layers.Activation):
        return operation.activation is keras.activations.linear
    return type(operation) in _WITHOUT_EFFECT
