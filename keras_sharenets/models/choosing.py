"""Named networks for a task and a budget: pretrained networks first, then others whose size fits."""

from __future__ import annotations

import dataclasses
import numbers
import shlex
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from keras_sharenets import _checks
from keras_sharenets.models.counts import NetworkCounts, counts_of, list_counts
from keras_sharenets.models.registry import create_model, list_models
from keras_sharenets.models.variant import network_label
from keras_sharenets.models.weights import TrainedWeights, list_trained
from keras_sharenets.timing import Timing

if TYPE_CHECKING:
    import keras

CALL_BYTES = 1_500  # Estimated bytes per call in an int8 file in addition to the weights, if no such file was written.
LARGE = 96  # Image side in pixels from which the papers' networks for ImageNet are proposed.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Proposal:
    """A network within a budget, for a given number of classes and image shape.

    Attributes:
        model, options: name of the network, and arguments of its factory.
        test_accuracy: test accuracy of the pretrained network on `trained_on`; `None` if it is not pretrained.
        trained_on: data set of the pretrained weights, or `None`.
        stored_parameters, multiply_adds: counts for the given classes and image shape.
        int8_bytes: size of its int8 `.tflite` file.
        estimated: whether `int8_bytes` is estimated from a file with random weights, or with other classes or image
            shape, rather than the size of a trained network's file.
        milliseconds: median time for one image in LiteRT on this machine with one thread; `None` if not measured.
        unsteady: whether the machine was busy with other work during the measurement.
        command: command that trains the network, with `FOLDER` as a placeholder for the images.
    """

    model: str
    options: Mapping[str, Any]
    test_accuracy: float | None
    trained_on: str | None
    stored_parameters: int
    multiply_adds: int
    int8_bytes: int
    estimated: bool
    milliseconds: float | None
    unsteady: bool
    command: str

    @property
    def label(self) -> str:
        """The name of the network with its options."""
        return network_label(self.model, self.options)


def choose(
    num_classes: int,
    input_shape: tuple[int, int, int],
    *,
    max_bytes: int | None = None,
    max_milliseconds: float | None = None,
    limit: int = 5,
    show: Callable[[str], object] = lambda label: None,
) -> list[Proposal]:
    """Proposes named networks for a task, best first.

    Pretrained networks come first, ordered by test accuracy. The others follow, whose accuracy is unknown: the largest
    within `max_bytes` first, or without a limit the smallest first. For images of at least 96 pixels, networks for
    large images come before the pretrained ones. A network is built only if it is a candidate and its counts for
    these classes and image shape are not stored.

    Args:
        num_classes: number of classes; at least 2.
        input_shape: `(height, width, channels)`.
        max_bytes: maximum size of the int8 `.tflite` file.
        max_milliseconds: maximum time for one image in LiteRT on this machine with one thread. Each candidate is then
            measured in a file with random weights, which takes a few seconds, and its size is that of this file.
        limit: maximum number of proposals.
        show: function called with the name of each network before it is built or measured.

    Returns:
        The proposals; an empty list if no network fits.

    Raises:
        ValueError: an argument violates a rule.

    >>> choose(3, (32, 32, 3), max_bytes=85_000, limit=1)[0].label
    'xception_c35_d8'
    """
    check_task(num_classes, input_shape)
    num_classes = int(num_classes)
    if max_bytes is not None:
        _checks.positive("max_bytes", max_bytes)
    if max_milliseconds is not None:
        _checks.above_zero("max_milliseconds", max_milliseconds)
    _checks.positive("limit", limit)
    found: list[Proposal] = []
    for counts, trained in _candidates(num_classes, input_shape, max_bytes):
        if len(found) == limit:
            break
        if max_bytes is not None and trained is not None and trained.int8_bytes > 2 * max_bytes:
            continue
        show(counts.model)
        proposal = _proposal(counts, trained, num_classes, input_shape, measured=max_milliseconds is not None)
        if proposal is None or (max_bytes is not None and proposal.int8_bytes > max_bytes):
            continue
        if max_milliseconds is None or (proposal.milliseconds or 0.0) <= max_milliseconds:
            found.append(proposal)
    # Stored sizes, by which the candidates are ordered, may be for another number of classes.
    untrained = [each for each in found if each.trained_on is None]
    ordered = iter(sorted(untrained, key=lambda each: each.int8_bytes, reverse=max_bytes is not None))
    return [next(ordered) if each.trained_on is None else each for each in found]


def check_task(num_classes: int, input_shape: tuple[int, int, int]) -> None:
    """Raises a `ValueError` for fewer than 2 classes, or for a shape that is not that of an image."""
    if isinstance(num_classes, bool) or not isinstance(num_classes, numbers.Integral) or num_classes < 2:
        raise ValueError(f"`num_classes` (={num_classes!r}) must be an integer of at least 2.")
    for side in input_shape:
        _checks.positive("input_shape", side)
    if len(input_shape) != 3 or input_shape[-1] not in (1, 3):
        raise ValueError(f"`input_shape` (={input_shape}) must be `(height, width, channels)` with 1 or 3 channels.")


def _candidates(
    classes: int, shape: tuple[int, int, int], max_bytes: int | None
) -> list[tuple[NetworkCounts, TrainedWeights | None]]:
    """Candidate networks in the order of `choose`."""
    trained = sorted(list_trained(), key=lambda each: -each.test_accuracy)
    large = min(shape[:2]) >= LARGE
    proven = [(_counts_of(each), each) for each in trained if shape[-1] == each.input_shape[-1]]
    known = {each.model for each in trained}
    others = [_nearest(name, classes) for name in list_models() if name not in known or large]
    others = [each for each in others if (min(each.input_shape[:2]) >= LARGE) == large]
    others.sort(key=_known_bytes, reverse=max_bytes is not None)
    if max_bytes is not None:
        # The size changes with the head, which may hold most of the weights of a network for many classes.
        others = [each for each in others if _known_bytes(each) * (1 if each.num_classes <= 100 else 0.5) <= max_bytes]
    untrained = [(each, None) for each in others]
    # At 224 pixels, networks for 32 have too small a receptive field and cost a lot, but a small budget may leave no
    # others.
    return [*untrained, *proven] if large else [*proven, *untrained]


def _known_bytes(counts: NetworkCounts) -> int:
    return counts.int8_bytes or counts.stored_parameters


def _counts_of(trained: TrainedWeights) -> NetworkCounts:
    return counts_of(trained.model, trained.options, trained.input_shape, len(trained.class_names))


def _nearest(name: str, classes: int) -> NetworkCounts:
    """The counts of a network without options, for the nearest number of classes."""
    own = [counts for counts in list_counts(name) if not counts.options]
    return min(own, key=lambda counts: abs(counts.num_classes - classes))


def _proposal(
    base: NetworkCounts,
    trained: TrainedWeights | None,
    num_classes: int,
    input_shape: tuple[int, int, int],
    *,
    measured: bool,
) -> Proposal | None:
    """The proposal for these classes and image shape; `None` if the network does not accept such images."""
    name, options = base.model, base.options
    size = trained.int8_bytes if trained is not None else base.int8_bytes
    same = (base.num_classes, tuple(base.input_shape)) == (num_classes, input_shape) and size is not None
    timing, counted = None, {"stored_parameters": base.stored_parameters, "multiply_adds": base.multiply_adds}
    if measured or not same:
        from keras_sharenets.analysis.profile import profile

        try:
            model = create_model(name, num_classes=num_classes, input_shape=input_shape, **options)
        except ValueError:
            return None
        counts = profile(model)
        stored = counts.stored_parameters
        counted = {"stored_parameters": stored, "multiply_adds": counts.multiply_adds}
        calls = sum(bool(row.multiply_adds) for row in counts.layers)
        size = (CALL_BYTES * calls if size is None else size - base.stored_parameters) + stored
        if measured:
            size, timing = _measure(model, input_shape, num_classes)
    return Proposal(
        model=name,
        options=options,
        test_accuracy=trained.test_accuracy if trained else None,
        trained_on=trained.weights if trained else None,
        **counted,
        int8_bytes=size or 0,
        estimated=not measured and (trained is None or not same),
        milliseconds=None if timing is None else timing.median_ms,
        unsteady=timing is not None and timing.unsteady,
        command=_command(name, options, trained, input_shape),
    )


def _measure(model: keras.Model, input_shape: tuple[int, int, int], num_classes: int) -> tuple[int, Timing]:
    """Size of an int8 file with random weights, and its inference time on this machine."""
    import numpy as np

    from keras_sharenets.search.measuring import estimate_file, latencies
    from keras_sharenets.training.data.dataset import Arrays, make_dataset

    generator = np.random.default_rng(0)
    part = Arrays(generator.integers(0, 256, (8, *input_shape)).astype("uint8"), np.arange(8) % num_classes)
    data = estimate_file(model, make_dataset("noise", "noise", [str(n) for n in range(num_classes)], part, part))
    return len(data), latencies([data])[0]


def _command(
    name: str, options: Mapping[str, Any], trained: TrainedWeights | None, input_shape: tuple[int, int, int]
) -> str:
    words = ["sharenets", "fit"]
    if trained is not None:
        words += ["--from", trained.label]
    else:
        words += [
            "--model",
            name,
            *(word for key, value in options.items() for word in ("--model-option", f"{key}={value}")),
        ]
    folder = "_".join([f"runs/{name}", *(f"{key}_{value}" for key, value in options.items())])
    return shlex.join([*words, "--data", "FOLDER", "--input-shape", *map(str, input_shape), "--output", folder])
