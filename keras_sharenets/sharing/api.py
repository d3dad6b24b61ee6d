"""`share`: from a network and a scheme or a budget to the network that shares."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras

from keras_sharenets import _checks
from keras_sharenets.sharing import budget
from keras_sharenets.sharing.changes import Change
from keras_sharenets.sharing.conversion import NOTHING, convert, look_at
from keras_sharenets.sharing.matching import match_channels
from keras_sharenets.sharing.places import Where
from keras_sharenets.sharing.proposals import propose
from keras_sharenets.sharing.report import Shared
from keras_sharenets.sharing.schemes import Scheme, ShareDepth

# Without `where`, the changes that lose least for a weight are made until they save this share of what all would.
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
    """A network that shares filters, from a trained one of ordinary layers, whose weights it takes over.

    The stored kernels are those whose uses come nearest to the kernels that were there. What a normalization behind a
    convolution scales counts as it is scaled, and a scale for each output channel goes into that normalization. With
    `sample_images` it is the outputs that come near, and the statistics of the normalizations are measured anew, one
    after the other. Then train for a few epochs at a small learning rate.

    Args:
        model: functional or built sequential `keras.Model`; models inside it are opened. It is not touched.
        scheme: one of `keras_sharenets.sharing`, or a sequence of them, which are applied one after the other. `None`
            where a budget is given: then several are tried at each convolution.
        where: which convolutions: names, patterns in the manner of a shell, or a function of a layer that returns a
            bool. `None`: those that lose least for a weight that is saved, until they save 95 % of what all would.
        sample_images: array of some hundred images as the network is given them, or a list of arrays for several
            inputs; labels are not needed.
        max_parameters: int, a budget instead of a scheme: changes that lose least for a weight that is saved are made
            until the network has at most so many trainable parameters.
        max_tflite_bytes: int, the same for the bytes of the float32 TFLite file, which needs TensorFlow.

    Returns:
        A [`keras_sharenets.sharing.Shared`]: `.model`, functional and not compiled, and what became of each layer.

    Raises:
        ValueError: the model is neither functional nor sequential; `where` matches no convolution; the scheme fits
            none of those, and the message says why; the budget is below what is possible, and the message says the
            least; not exactly one of scheme and budgets is given; `sample_images` do not fit the inputs; or the
            convolutions have several dtype policies.
        RuntimeError: `max_tflite_bytes`, and Keras does not run on TensorFlow.

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
        raise ValueError(f"One of `scheme`, `max_parameters` and `max_tflite_bytes` must be given, got {given}.")
    if scheme is None:
        ((name, value),) = given.items()
        number = _checks.positive(name, value)
        fit = budget.fit_parameters if name == "max_parameters" else budget.fit_tflite_bytes
        network = look_at(model, sample_images)
        return fit(network, network.chosen(where), number)
    schemes: list[Any] = list(scheme) if isinstance(scheme, (tuple, list)) else [scheme]
    if not schemes or not all(isinstance(each, Scheme) for each in schemes):
        raise ValueError(f"`scheme` (={scheme!r}) must be one of those in `keras_sharenets.sharing`, or several.")
    done = None
    for each in schemes:
        done = _followed(done, _share(model if done is None else done.model, each, where, sample_images))
    assert done is not None
    return done


def _share(model: keras.Model, scheme: Scheme, where: Where, sample_images: Any) -> Shared:
    network = look_at(model, sample_images)
    changes, refused = propose(scheme, network.chosen(where), network.samples.moments)
    if isinstance(scheme, ShareDepth) and scheme.match_channels:
        matched = match_channels(network, [change.places for change in changes])
        if matched is not network:
            again, _ = propose(scheme, matched.chosen(where), matched.samples.moments)
            # Kernels that are nearer may have outputs that are not.
            if sum(change.loss for change in again) < sum(change.loss for change in changes):
                network, changes = matched, again
    left = {**network.refused, **refused}
    if not changes and getattr(scheme, "policy", None) != "none":
        reasons = "; ".join(f"'{path}': {reason}" for path, reason in left.items()) or "there is no convolution"
        raise ValueError(f"`scheme` (={scheme}) fits no convolution of '{model.name}'. {reasons}.")
    if where is None:
        changes = _paying(changes, left)
    return convert(network, changes, left)


def _paying(changes: Sequence[Change], left: dict[str, str]) -> list[Change]:
    """The changes with the least loss for a weight that is saved."""
    gaining = [change for change in changes if change.saved > 0 and change.loss > NOTHING]
    enough = _ENOUGH * sum(change.saved for change in gaining)
    taken, saved = {change for change in changes if change.loss <= NOTHING and change.saved >= 0}, 0
    for change in sorted(gaining, key=lambda change: change.loss / change.saved):
        if saved < enough:
            taken.add(change)
            saved += change.saved
    for change in changes:
        if change not in taken:
            reason = "it would save nothing" if change.saved <= 0 else "it loses much for what it saves"
            left.update((place.path, reason) for place in change.places)
    return [change for change in changes if change in taken]


def _followed(first: Shared | None, second: Shared) -> Shared:
    """Two conversions as one."""
    if first is None:
        return second
    return dataclasses.replace(
        second,
        layers=first.layers + second.layers,
        left={**first.left, **second.left},
        parameters_before=first.parameters_before,
    )
