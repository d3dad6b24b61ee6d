"""`share`: conversion of a network to one that shares filters, by a scheme or to a budget."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Collection, Sequence
from typing import Any

import keras

from keras_sharenets import _checks
from keras_sharenets.sharing import budget
from keras_sharenets.sharing.changes import Change
from keras_sharenets.sharing.conversion import NOTHING, Network, convert, inspect_network
from keras_sharenets.sharing.matching import match_channels
from keras_sharenets.sharing.places import Where
from keras_sharenets.sharing.proposals import propose
from keras_sharenets.sharing.report import Shared
from keras_sharenets.sharing.schemes import Scheme, ShareDepth, shares_nothing

# Without `where`, changes are made in order of loss per saved weight until they reach this fraction of all savings.
_ENOUGH = 0.95


def share(
    model: keras.Model,
    scheme: Scheme | Sequence[Scheme] | None = None,
    *,
    where: Where = None,
    sample_images: Any = None,
    max_parameters: int | None = None,
    max_tflite_bytes: int | None = None,
) -> Shared:
    """Converts a trained network of ordinary layers to one that shares filters, and transfers its weights.

    The shared kernels are fitted to approximate the original kernels. The fit weights each output channel by the scale
    of the normalization that follows the convolution, and folds a scale per output channel into that normalization.
    With `sample_images`, the fit approximates the outputs instead of the kernels, and the statistics of the
    normalizations are re-estimated, one after the other. Then train for a few epochs at a small learning rate.

    Args:
        model: functional or built sequential `keras.Model`, including nested models. It is not changed.
        scheme: one of the schemes of `keras_sharenets.sharing`, or a sequence of them, applied one after the other.
            `None` if a budget is given: several schemes are then tried for each convolution.
        where: convolutions to convert: names, shell-style patterns, or a function of a layer that returns a bool.
            `"*"`: all that the scheme fits. `None`: of these, the ones with the least loss per saved weight, up to 95 %
            of the possible savings. With several schemes, those that have taken the place of these convolutions are
            converted further.
        sample_images: array of a few hundred images as the network takes them, or a list of arrays for several inputs;
            labels are not needed.
        max_parameters: int, a budget instead of a scheme: the changes with the least loss per saved weight are made
            until the network has at most this many trainable parameters.
        max_tflite_bytes: int, a budget for the size of the float32 TFLite file; needs TensorFlow.

    Returns:
        A [`keras_sharenets.sharing.Shared`]: `.model`, functional and not compiled, and a report of each layer.

    Raises:
        ValueError: the model is neither functional nor sequential; `where` matches no convolution; the scheme fits none
            of the convolutions (the message gives the reasons); the budget is too small (the message gives the
            minimum); not exactly one of scheme and budgets is given; `sample_images` do not fit the inputs; the
            convolutions have different dtype policies; or two layers have a weight in common.
        RuntimeError: `max_tflite_bytes` is given, and the Keras backend is not TensorFlow.

    Warns if a scheme inserts layers that share nothing, such as `ShareChannels()` with all defaults.

    >>> import keras
    >>> import keras_sharenets as ksn
    >>> inputs = x = keras.Input((16, 16, 8))
    >>> for _ in range(4):
    ...     x = keras.layers.BatchNormalization()(keras.layers.Conv2D(8, 3, padding="same", use_bias=False)(x))
    >>> shared = share(keras.Model(inputs, x), ksn.sharing.ShareDepth("stage"))
    >>> shared.parameters_before, shared.parameters
    (2368, 640)
    """
    given = {"scheme": scheme, "max_parameters": max_parameters, "max_tflite_bytes": max_tflite_bytes}
    given = {name: value for name, value in given.items() if value is not None}
    if len(given) != 1:
        raise ValueError(
            f"Exactly one of `scheme`, `max_parameters` and `max_tflite_bytes` must be given, got {given}."
        )
    if scheme is None:
        ((name, value),) = given.items()
        number = _checks.positive(name, value)
        fit = budget.fit_parameters if name == "max_parameters" else budget.fit_tflite_bytes
        network = inspect_network(model, sample_images)
        return fit(network, network.chosen(where), number)
    schemes: list[Any] = list(scheme) if isinstance(scheme, (tuple, list)) else [scheme]
    if not schemes or not all(isinstance(each, Scheme) for each in schemes):
        raise ValueError(
            f"`scheme` (={scheme!r}) must be a scheme of `keras_sharenets.sharing`, or a sequence of them."
        )
    for each in schemes:
        if shares_nothing(each) and not isinstance(each, ShareDepth):  # Its policy "none" says so.
            warnings.warn(
                f"`scheme` (={each}) shares nothing: the layers that it inserts compute the same as the convolutions, "
                "with as many weights.",
                stacklevel=2,
            )
    done, chosen = None, where
    for each in schemes:
        network = inspect_network(model if done is None else done.model, sample_images)
        shared = _share(network, each, chosen)
        done = shared if done is None else _combined(done, shared)
        if where is not None:
            chosen = functools.partial(_is_named, {shared.layer_names[place.path] for place in network.chosen(chosen)})
    assert done is not None
    return done


def _is_named(names: Collection[str], layer: keras.layers.Layer) -> bool:
    return layer.name in names


def _share(network: Network, scheme: Scheme, where: Where) -> Shared:
    changes, refused = propose(scheme, network.chosen(where), network.samples.moments)
    if isinstance(scheme, ShareDepth) and scheme.match_channels:
        matched = match_channels(network, [change.places for change in changes])
        if matched is not network:
            again, _ = propose(scheme, matched.chosen(where), matched.samples.moments)
            # Closer kernels do not guarantee closer outputs.
            if sum(change.loss for change in again) < sum(change.loss for change in changes):
                network, changes = matched, again
    left = {**network.refused, **refused}
    if not changes and getattr(scheme, "policy", None) != "none":
        nothing = "`where` selects none of its convolutions" if network.places else "it has no convolution"
        reasons = "; ".join(f"'{path}': {reason}" for path, reason in left.items()) or nothing
        raise ValueError(f"`scheme` (={scheme}) fits no convolution of '{network.model.name}'. {reasons}.")
    if where is None:
        changes = _most_efficient(changes, left)
    return convert(network, changes, left)


def _most_efficient(changes: Sequence[Change], left: dict[str, str]) -> list[Change]:
    """The changes with the least loss per saved weight."""
    gaining = [change for change in changes if change.saved > 0 and change.loss > NOTHING]
    enough = _ENOUGH * sum(change.saved for change in gaining)
    taken, saved = {change for change in changes if change.loss <= NOTHING and change.saved >= 0}, 0
    for change in sorted(gaining, key=lambda change: change.loss / change.saved):
        if saved < enough:
            taken.add(change)
            saved += change.saved
    for change in changes:
        if change not in taken:
            high = "the loss per saved weight is higher than that of the others; `where='*'` includes it"
            reason = "sharing saves no weights" if change.saved <= 0 else high
            left.update((place.path, reason) for place in change.places)
    return [change for change in changes if change in taken]


def _combined(first: Shared, second: Shared) -> Shared:
    """Combines the reports of two consecutive conversions."""
    converted, names = {layer.path for layer in second.layers}, first.layer_names
    # The second one also reports layers that the first one has made.
    left = {
        path: second.left.get(names.get(path, path), reason)
        for path, reason in first.left.items()
        if names.get(path, path) not in converted
    }
    return dataclasses.replace(
        second,
        layers=first.layers + second.layers,
        left=left,
        parameters_before=first.parameters_before,
        layer_names={path: second.layer_names.get(name, name) for path, name in first.layer_names.items()},
    )
