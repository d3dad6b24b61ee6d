"""The steps of a compression: applies them to a network, and checks that they can be applied before training."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from keras_sharenets import _checks

if TYPE_CHECKING:
    import keras
    import numpy as np

    from keras_sharenets.sharing import Shared

SHARE, PRUNE, CLUSTER, QUANTIZE = "share", "prune", "cluster", "quantize"
SCHEMES = {
    "depth": "ShareDepth",
    "channels": "ShareChannels",
    "hierarchical": "HierarchicalGroups",
    "interleaved": "InterleavedGroups",
}
BUDGETS = ("max_parameters", "max_tflite_bytes")
# Fraction of training after which pruning ends, so that the remaining weights can recover.
_PRUNED = 2 / 3


@dataclasses.dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        kind: `"share"`, `"prune"`, `"cluster"`, or `"quantize"`.
        value: how to share, for [`parse_share`]; the sparsity; the number of clusters; or `None`.
    """

    kind: str
    value: Any = None

    def __str__(self) -> str:
        return self.kind if self.value is None else f"{self.kind} {self.value}"


def parse_share(text: str) -> tuple[str, Any]:
    """Parses `"40%"` of the parameters, a budget, or a scheme with its fields.

    Returns:
        `("part", 0.4)`, `("max_parameters", 40_000)` or `("depth", {"policy": "all"})`.

    Raises:
        ValueError: the text is none of these.

    >>> parse_share("40%"), parse_share("max_parameters=9000"), parse_share("depth:policy=all,blending=True")
    (('part', 0.4), ('max_parameters', 9000), ('depth', {'policy': 'all', 'blending': True}))
    """
    if part := re.fullmatch(r"(\d+(?:\.\d+)?)%", text):
        if not 0 < float(part[1]) < 100:
            raise ValueError(f"`--share` (={text}) must be above 0 % and below 100 % of the parameters.")
        return "part", float(part[1]) / 100
    name, equals, value = text.partition("=")
    if equals and name in BUDGETS:
        return name, _checks.positive(f"--share {name}", _literal(value))
    name, _, fields = text.partition(":")
    if name not in SCHEMES:
        known = [*SCHEMES, "N%", *(f"{budget}=N" for budget in BUDGETS)]
        raise ValueError(f"`--share` (={text}) must start with one of {', '.join(known)}.")
    pairs = [each.partition("=") for each in fields.split(",") if each]
    if not all(key and value for key, _, value in pairs):
        raise ValueError(f"`--share` (={text}) must be SCHEME:FIELD=VALUE,FIELD=VALUE.")
    return name, {key: _literal(value) for key, _, value in pairs}


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def share_arguments(text: str, parameters: int) -> dict[str, Any]:
    """The arguments of `keras_sharenets.share` for a text, given the number of parameters of the original.

    Raises:
        ValueError: a scheme has no such field, or its value is invalid.
    """
    from keras_sharenets import sharing
    from keras_sharenets.sharing.schemes import shares_nothing

    name, value = parse_share(text)
    if name == "part":
        return {"max_parameters": max(1, int(value * parameters))}
    if name in BUDGETS:
        return {name: value}
    scheme = getattr(sharing, SCHEMES[name])
    names = ", ".join(field.name for field in dataclasses.fields(scheme))
    try:
        chosen = scheme(**value)
    except TypeError as error:
        raise ValueError(f"`--share` (={text}) must have fields of {SCHEMES[name]}, some of {names}.") from error
    if shares_nothing(chosen):
        raise ValueError(
            f"`--share` (={text}) shares nothing: every convolution keeps its kernel. Set some of {names}."
        )
    return {"scheme": chosen}


def make_steps(
    shares: Sequence[str], sparsity: float | None, clusters: int | None, quantization_aware: bool
) -> tuple[Step, ...]:
    """The steps in order: any number of sharing steps, pruning, clustering, quantization-aware training.

    Raises:
        ValueError: there are no steps, or a value is invalid.
    """
    for text in shares:
        parse_share(text)
    steps = [Step(SHARE, text) for text in shares]
    if sparsity is not None:
        _checks.rate("--prune", sparsity)
        steps.append(Step(PRUNE, sparsity))
    if clusters is not None:
        fewest = 2 if sparsity is None else 3
        if clusters < fewest:
            raise ValueError(f"`--cluster` (={clusters}) must be at least 2, and at least 3 with `--prune`.")
        steps.append(Step(CLUSTER, clusters))
    if quantization_aware:
        steps.append(Step(QUANTIZE))
    if not steps:
        raise ValueError("At least one of `--share`, `--prune`, `--cluster` and `--quantization-aware` is required.")
    return tuple(steps)


def apply_sharing(model: keras.Model, step: Step, where: Any, images: np.ndarray, parameters: int) -> Shared:
    """Applies a sharing step to a network; errors as in `keras_sharenets.share`."""
    from keras_sharenets.sharing import share

    return share(model, **share_arguments(step.value, parameters), where=where, sample_images=images)


def followed(where: Sequence[str] | None, layer_names: Mapping[str, str]) -> tuple[str, ...] | None:
    """`where` for a network after sharing: the layers that have taken the place of the named convolutions.

    Args:
        where: names or patterns for the network before; `None` for all convolutions.
        layer_names: as in `keras_sharenets.sharing.Shared`.

    >>> followed(["conv?"], {"conv1": "conv1_shared", "inner/conv2": "conv1_shared", "stem": "stem"})
    ('conv1_shared',)
    """
    if where is None:
        return None
    from keras_sharenets.sharing.places import matches

    found = [name for path, name in layer_names.items() if any(matches(path, pattern) for pattern in where)]
    return tuple(dict.fromkeys(found))


def to_train(model: keras.Model, steps: Sequence[Step], number: int, total_steps: int) -> keras.Model:
    """The network that a step trains, with the layers of `model`.

    Args:
        model: the network after the previous step or, for a sharing step, the shared network.
        steps: all steps.
        number: index of the step.
        total_steps: number of its training steps.
    """
    from keras_sharenets import mobile

    step, before = steps[number], {each.kind for each in steps[:number]}
    if step.kind == PRUNE:
        end = max(1, round(_PRUNED * total_steps))
        return mobile.prune(model, step.value, end_step=end, frequency=max(1, min(100, end // 10)))
    if step.kind == CLUSTER:
        return mobile.cluster(model, step.value)
    if step.kind == QUANTIZE:
        preserve = "clusters" if CLUSTER in before else "zeros" if PRUNE in before else None
        return mobile.quantize_aware(model, preserve=preserve)
    return model


def dry_run(model: keras.Model, steps: Sequence[Step], where: Any, images: np.ndarray) -> None:
    """Applies all steps to a copy without training, so that errors occur now instead of hours later.

    Raises:
        ValueError: the network takes images of any size, a scheme fits nowhere, a budget cannot be met, or a layer
            cannot be exported.
    """
    from keras_sharenets.analysis import profile
    from keras_sharenets.analysis.copying import copy_network
    from keras_sharenets.mobile.export.verification import check_model

    check_model(model)
    parameters = profile(model).stored_parameters
    model = copy_network(model)
    for number, step in enumerate(steps):
        if step.kind == SHARE:
            shared = apply_sharing(model, step, where, images, parameters)
            model, where = shared.model, followed(where, shared.layer_names)
        elif step.kind != QUANTIZE:
            to_train(model, steps, number, 1)  # Changes the layers in place.
        else:
            to_train(model, [step], 0, 1)
