"""Named networks for a task and a budget: those that are proven first, then those whose counts fit."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from keras_sharenets import _checks
from keras_sharenets.models.counts import NetworkCounts, counts_of, list_counts
from keras_sharenets.models.registry import create_model, list_models
from keras_sharenets.models.weights import TrainedWeights, list_trained
from keras_sharenets.timing import Timing

if TYPE_CHECKING:
    import keras

CALL_BYTES = 1_500  # What a call with weights takes in an int8 file beside them, where no such file was ever made.
LARGE = 96  # The side of images from which on networks are those that papers have for ImageNet.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Proposal:
    """A network within a budget, for so many classes and images of such a shape.

    Attributes:
        model, options: the network, and arguments of its factory.
        test_accuracy: of the network as it comes trained, on `trained_on`; `None` if it comes untrained.
        trained_on: the data set; `None`.
        stored_parameters, multiply_adds: of the network with these classes and images.
        int8_bytes: of its int8 `.tflite` file.
        estimated: whether these follow from those of a file of random weights, or for other classes or images, and are
            not those of a trained network's file.
        milliseconds: median of one image in LiteRT on this machine, one thread; `None` unless it was measured.
        unsteady: whether the machine had other work meanwhile.
        command: trains it; `FOLDER` stands for the images.
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
        """The network with its options."""
        return " ".join([self.model, *(f"{key}={value}" for key, value in self.options.items())])


def choose(
    num_classes: int,
    input_shape: tuple[int, int, int],
    *,
    max_bytes: int | None = None,
    max_milliseconds: float | None = None,
    limit: int = 5,
    show: Callable[[str], object] = lambda label: None,
) -> list[Proposal]:
    """Named networks for a task, the best first.

    First come those that come trained, by their test accuracy; then the others, whose accuracy is not known here: those
    that make most of `max_bytes`, or without a limit the smallest. For images of 96 pixels and more, networks for large
    images come before those that come trained. Only what is proposed is built, and only where its
    counts are not known for these classes and images.

    Args:
        num_classes: at least 2.
        input_shape: `(height, width, channels)`.
        max_bytes: of the int8 `.tflite` file.
        max_milliseconds: of one image in LiteRT on this machine, one thread. Each network that is looked at is measured
            then, in a file of random weights: some seconds each, and the bytes are those of that file.
        limit: the most proposals.
        show: takes the name of each network before it is built or measured.

    Returns:
        The proposals; none if no network fits.

    Raises:
        ValueError: an argument breaks its rule.

    >>> choose(3, (32, 32, 3), max_bytes=85_000, limit=1)[0].label
    'xception_c35_d8'
    """
    check_task(num_classes, input_shape)
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
    return found


def check_task(num_classes: int, input_shape: tuple[int, int, int]) -> None:
    """Raises a `ValueError` for a task that no network is for: fewer than 2 classes, or no shape of images."""
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 2:
        raise ValueError(f"`num_classes` (={num_classes!r}) must be an integer of at least 2.")
    for side in input_shape:
        _checks.positive("input_shape", side)
    if len(input_shape) != 3 or input_shape[-1] not in (1, 3):
        raise ValueError(f"`input_shape` (={input_shape}) must be `(height, width, channels)` with 1 or 3 channels.")


def _candidates(
    classes: int, shape: tuple[int, int, int], max_bytes: int | None
) -> list[tuple[NetworkCounts, TrainedWeights | None]]:
    """What may fit, in the order of `choose`."""
    trained = sorted(list_trained(), key=lambda each: -each.test_accuracy)
    large = min(shape[:2]) >= LARGE
    proven = [(_counts_of(each), each) for each in trained if shape[-1] == each.input_shape[-1]]
    known = {each.model for each in trained}
    others = [_nearest(name, classes) for name in list_models() if name not in known or large]
    others = [each for each in others if (min(each.input_shape[:2]) >= LARGE) == large]
    others.sort(key=_known_bytes, reverse=max_bytes is not None)
    if max_bytes is not None:
        # Another head changes it; most of the weights of networks for many classes may be theirs.
        others = [each for each in others if _known_bytes(each) * (1 if each.num_classes <= 100 else 0.5) <= max_bytes]
    untrained = [(each, None) for each in others]
    # At 224 pixels those for 32 see too little of an image, and compute a lot; but a small budget leaves no others.
    return [*untrained, *proven] if large else [*proven, *untrained]


def _known_bytes(counts: NetworkCounts) -> int:
    return counts.int8_bytes or counts.stored_parameters


def _counts_of(trained: TrainedWeights) -> NetworkCounts:
    return counts_of(trained.model, trained.options, trained.input_shape, len(trained.class_names))


def _nearest(name: str, classes: int) -> NetworkCounts:
    """The counts of a network without options, for as many classes or the nearest number."""
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
    """The network with these classes and images; `None` if it cannot take such images."""
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
    """Bytes of an int8 file of random weights, and the time that it takes here."""
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
