"""Knowledge distillation: a student learns from labels and from the outputs and features of a teacher.

The losses are those of `keras.distillation`. Its `Distiller` is not used, because it omits the regularization losses of
the layers and the sample weights, runs the student twice for features, in training mode even during evaluation, and
saves the teacher in every file.
"""

from __future__ import annotations

import collections
import inspect
import types
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_sharenets import _checks
from keras_sharenets._types import Tensor
from keras_sharenets.analysis.graph import Graph, ends, in_order, rebuild, trace
from keras_sharenets.heads import SIGMOID, SOFTMAX, ends_of
from keras_sharenets.sharing.places import is_merge

_SMALLEST = 1e-7  # Lower bound of probabilities in logarithms.
BLOCKS = "blocks"
# Names of layers in both networks, a mapping from names in the student to names in the teacher, or `BLOCKS`.
Features = str | Sequence[str] | Mapping[str, str] | None


def distill(
    student: keras.Model,
    teacher: keras.Model,
    *,
    weight: float = 0.5,
    temperature: float = 3.0,
    features: Features = None,
    feature_weight: float = 1.0,
) -> keras.Model:
    """Prepares a student network to learn from the labels and from a teacher.

    The loss of a training step is `(1 - w) * L + w * (D + f * F)`. L is the compiled loss plus the regularization
    losses of the layers. D is the Kullback-Leibler divergence between the probabilities of both networks at the
    temperature T, times T^2 (Hinton et al.). F is the mean over the features of `mean((t - s)^2) / mean(t^2)`, where t
    is the feature of the teacher and s that of the student. Each of several sigmoids is a binary classifier, and D is
    their mean. Evaluation uses only the loss on the labels. Both networks see the same images.

    The result uses the same layers as `student`: training updates the weights of both. It is saved as a plain
    functional model without the teacher, which is not changed.

    Args:
        student: functional or sequential `keras.Model` with one output: softmax or sigmoid probabilities, or their
            logits. A model with a training step or a loss of its own, such as the results of
            `keras_sharenets.mobile.prune`, `cluster` and `distill` itself, is also supported, without `features`; it is
            returned itself, because no other has these methods. Its loss is L. In mixed precision, the last layer
            should have `dtype="float32"`, as Keras advises: probabilities in float16 cause a warning.
        teacher: trained `keras.Model` with the same inputs and number of classes. Logits are interpreted according to
            the activation of the other network.
        weight: w, from 0 to 1.
        temperature: T, above 0.
        features: features to compare in addition to the outputs: names of layers that both networks have (after
            [`keras_sharenets.share`], layers that are not in its `reordered`); a mapping from names in the student to
            names in the teacher; or `"blocks"` for the ends of all blocks, such as the `Add` of a residual block. For a
            layer that is called several times, the first call counts. The name of a layer in a nested model is
            `"outer/inner"`; `share` dissolves nested models, and `"blocks"` finds these layers again.
        feature_weight: f, at least 0.

    Returns:
        A functional `keras.Model` that is not compiled; train it with `fit`, on TensorFlow or JAX.

    Raises:
        ValueError: an argument breaks a rule above; a layer is missing, or its outputs have different shapes in the two
            networks; the networks share a layer; or the `compute_loss` of the student has no argument `training`, so
            that its evaluation would use the teacher.

    Reference: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2; Romero et al.,
    "FitNets: Hints for Thin Deep Nets", ICLR 2015, section 2.2.

    >>> import keras_sharenets as ksn, numpy as np
    >>> inputs = keras.Input((4,))
    >>> teacher, student = (keras.Model(inputs, keras.layers.Dense(3)(inputs)) for _ in range(2))
    >>> model = ksn.distill(student, teacher, weight=1.0)
    >>> model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    >>> before = np.abs(teacher.get_weights()[0] - student.get_weights()[0]).sum()
    >>> _ = model.fit(np.eye(4), np.zeros(4), epochs=20, verbose=0)
    >>> bool(np.abs(teacher.get_weights()[0] - student.get_weights()[0]).sum() < before)
    True
    """
    _checks.share("weight", weight)
    _checks.above_zero("temperature", temperature)
    if feature_weight != 0:
        _checks.above_zero("feature_weight", feature_weight)
    graphs = trace(student), trace(teacher)
    _check_compatible(student, teacher, graphs)
    places = _places(features, *graphs)
    divergence = logits_divergence(temperature)
    student_logits, teacher_logits = _logits(*graphs)
    if student.outputs[0].dtype == "float16" and ends_of(graphs[0])[0] is not None:
        warnings.warn(
            f"`student` (='{student.name}') returns probabilities in float16. The gradient of their logarithm "
            "overflows, which makes Keras skip steps and lower the loss scale: give its last layer `dtype='float32'`.",
            stacklevel=2,
        )
    if _has_own_training(student):
        if places:
            raise ValueError(
                f"`features` (={features!r}) require a student without a training step or loss of its own."
            )
        model, seen = student, types.SimpleNamespace(features=[])
    else:
        model, seen = _recording_features(student, graphs[0], list(places))
    asked = _with_features(teacher, graphs[1], list(places.values())) if places else teacher
    compared = keras.distillation.FeatureDistillation(loss=_relative_error)

    def distance(x: Any, y_pred: Tensor) -> Tensor:
        answer = asked(_as_given(asked, in_order(student, x)), training=False)
        said, *theirs = map(ops.stop_gradient, keras.tree.flatten(answer))
        (own,) = keras.tree.flatten(y_pred)
        loss = divergence.compute_loss(teacher_logits(said), student_logits(own))
        if not theirs:
            return loss
        errors = [compared.compute_loss(*pair) for pair in zip(theirs, seen.features, strict=True)]
        mean = ops.reshape(feature_weight * sum(errors) / len(errors), (1,))
        return loss + _Number()(mean, mean)

    add_distillation_loss(model, distance, weight)
    return model


def logits_divergence(temperature: float) -> keras.distillation.LogitsDistillation:
    """Keras' distillation loss between logits."""
    # With the loss by name, Keras' default, a function would receive logits as probabilities, and return 0.
    divergence = keras.losses.KLDivergence()
    return keras.distillation.LogitsDistillation(temperature=float(temperature), loss=divergence)


def as_logits(probabilities: Tensor) -> Tensor:
    """Logits whose softmax is these probabilities."""
    return ops.log(ops.maximum(_in_full(probabilities), _SMALLEST))


def _has_own_training(model: keras.Model) -> bool:
    """Whether a model trains or evaluates in its own way, which a plain model over the same layers would not."""
    names = ("train_step", "test_step", "compute_loss", "compute_metrics")
    return any(name in vars(model) or getattr(type(model), name) is not getattr(keras.Model, name) for name in names)


def _in_full(outputs: Tensor) -> Tensor:
    return ops.cast(outputs, keras.config.floatx())  # As Keras' losses do; temperature and softmax come first here.


def add_distillation_loss(model: keras.Model, distance: Callable[[Any, Tensor], Tensor], weight: float) -> None:
    """Sets the training loss to `(1 - weight) * L + weight * distance(x, y_pred)`; evaluation uses only L, its loss."""
    own_loss = model.compute_loss
    if "training" not in inspect.signature(own_loss).parameters:
        raise ValueError(f"`student` (='{model.name}') must have a `compute_loss` with an argument `training`.")

    def compute_loss(
        x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        loss = own_loss(x, y, y_pred, sample_weight, training=training)
        return (1 - weight) * loss + weight * distance(x, y_pred) if training else loss

    model.compute_loss = compute_loss


def _check_compatible(student: keras.Model, teacher: keras.Model, graphs: tuple[Graph, Graph]) -> None:
    for side in ("inputs", "outputs"):
        shapes = [[tensor.shape for tensor in getattr(graph, side)] for graph in graphs]
        same = len(shapes[0]) == len(shapes[1]) and all(_fit(own, other) for own, other in zip(*shapes, strict=True))
        if not same or (side == "outputs" and len(shapes[0]) != 1):
            rule = "the same inputs" if side == "inputs" else "one output each, of the same shape"
            raise ValueError(
                f"`student` (='{student.name}') and `teacher` (='{teacher.name}') must have {rule}: they have "
                f"{shapes[0]} and {shapes[1]}."
            )
    layers = [
        {id(call.operation): call.path for call in graph.calls if getattr(call.operation, "weights", ())}
        for graph in graphs
    ]
    common = [path for number, path in layers[0].items() if number in layers[1]]
    if common:
        raise ValueError(
            f"`student` and `teacher` (='{teacher.name}') must not share layers; both have: {', '.join(common[:5])}."
        )


def _fit(shape: Sequence[int | None], other: Sequence[int | None]) -> bool:
    pairs = zip(shape, other, strict=False)
    return len(shape) == len(other) and all(None in pair or pair[0] == pair[1] for pair in pairs)


def _logits(student: Graph, teacher: Graph) -> list[Callable[[Tensor], Tensor]]:
    """For each network a function from its output to logits; a sigmoid unit has the logits of two classes."""
    last = [*ends_of(student), *ends_of(teacher)]
    if {SOFTMAX, SIGMOID} <= set(last):
        raise ValueError(
            "`student` and `teacher` must both end in a softmax, or both in sigmoids: they end in "
            f"{last[0]} and {last[1]}."
        )
    if SIGMOID not in last and student.outputs[0].shape[-1] == 1:
        raise ValueError(
            "`student` and `teacher` must output probabilities or logits of classes, but have a single output unit."
        )
    to_logits = {SOFTMAX: as_logits, SIGMOID: _logit, None: _in_full}
    functions = [to_logits[end] for end in last]
    return [lambda outputs, of=of: _as_two_classes(of(outputs)) for of in functions] if SIGMOID in last else functions


def _logit(probabilities: Tensor) -> Tensor:
    return as_logits(probabilities) - as_logits(1 - _in_full(probabilities))


def _as_two_classes(logits: Tensor) -> Tensor:
    return ops.stack([ops.zeros_like(logits), logits], axis=-1)


def _shapes(graph: Graph) -> dict[str, tuple[int | None, ...]]:
    """The output shape of the first call of each layer, by path."""
    firsts = [call for call in graph.calls if call.index == 0 and len(call.outputs) == 1]
    return {call.path: call.outputs[0].shape for call in firsts}


def _places(features: Features, student: Graph, teacher: Graph) -> dict[str, str]:
    """Paths in the student to paths in the teacher."""
    shapes = _shapes(student), _shapes(teacher)
    if features is None:
        return {}
    if features == BLOCKS:
        merges = [call.path for call in student.calls if call.index == 0 and is_merge(call)]
        paths = _paths_by_name(shapes[1])
        named = {name: paths[name] for name in merges if name in paths}
        named = {name: path for name, path in named.items() if _fit(shapes[0][name], shapes[1][path])}
    elif isinstance(features, Mapping):
        named = dict(features)
    else:
        named = {} if isinstance(features, str) else {name: name for name in features}
    if not named:
        raise ValueError(
            f"`features` (={features!r}) must be names of layers, or 'blocks' if both networks have merge layers with "
            "the same names."
        )
    for pair in named.items():
        for name, path, known in zip(("student", "teacher"), pair, shapes, strict=True):
            if path not in known:
                raise ValueError(f"`features` (={features!r}) must name layers: the {name} has no '{path}'.")
        own, other = (known[path] for known, path in zip(shapes, pair, strict=True))
        if not _fit(own, other):
            raise ValueError(
                f"`features` (={features!r}) must name layers with outputs of one shape: '{pair[0]}' has {own} in the "
                f"student, and '{pair[1]}' {other} in the teacher."
            )
    return named


def _paths_by_name(paths: Iterable[str]) -> dict[str, str]:
    """Paths by themselves and by the names that `share` gives their layers, whose result has no nested models."""
    names = collections.Counter(path.rpartition("/")[2] for path in paths)
    unique = {path.rpartition("/")[2]: path for path in paths if names[path.rpartition("/")[2]] == 1}
    return {**unique, **{path.replace("/", "_"): path for path in paths}, **{path: path for path in paths}}


def _as_given(model: keras.Model, tensors: Sequence[Tensor]) -> Any:
    """Tensors in the order of a model's inputs, in the structure that it takes."""
    return keras.tree.pack_sequence_as(ends(model)[0], tensors)


def _with_features(model: keras.Model, graph: Graph, paths: Sequence[str]) -> keras.Model:
    """A network over the same layers that returns its output, followed by those of the given layers."""
    found = {}

    def call(call: Any, operation: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = operation(*args, **kwargs)
        if call.index == 0 and call.path in paths:
            found[call.path] = outputs
        return outputs

    new = rebuild(model, graph, call)
    return keras.Model(ends(new)[0], [*new.outputs, *(found[path] for path in paths)], name=model.name)


def _recording_features(
    student: keras.Model, graph: Graph, paths: Sequence[str]
) -> tuple[keras.Model, types.SimpleNamespace]:
    """The student as a plain model, and an object that holds its features after each call, so that it runs once."""
    given, results = ends(student)
    model = keras.Model(given, results, name=student.name)
    seen = types.SimpleNamespace(features=[])
    if paths:
        whole = _with_features(student, graph, paths)

        def call(inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
            output, *seen.features = whole(_as_given(whole, in_order(student, inputs)), training=training)
            return keras.tree.pack_sequence_as(results, [output])

        model.call = call
    return model, seen


class _Number(keras.losses.Loss):
    """A number as Keras counts losses: in `floatx`, and divided by the number of devices, whose gradients are added."""

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return y_pred


def _relative_error(theirs: Tensor, own: Tensor) -> Tensor:
    # In float16, the square of 256 is infinite; TensorFlow does not add losses of several types.
    theirs, own = (ops.cast(each, "float32") for each in (theirs, own))
    return ops.mean(ops.square(theirs - own)) / (ops.mean(ops.square(theirs)) + _SMALLEST)
