"""Limits on the size and the computation of a network, and on its file."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from keras_sharenets import _checks

if TYPE_CHECKING:
    from keras_sharenets.search.measuring import FileCosts
    from keras_sharenets.search.spaces.space import Counts


@dataclasses.dataclass(frozen=True)
class Budget:
    """Limits on a network; `None` means no limit.

    Attributes:
        max_parameters: trainable weights, each shared tensor once.
        max_multiply_adds: multiply-adds for one image.
    """

    max_parameters: int | None = None
    max_multiply_adds: int | None = None

    def __post_init__(self) -> None:
        for name, limit in dataclasses.asdict(self).items():
            if limit is not None:
                _checks.positive(name, limit)

    def allows(self, counts: Counts) -> bool:
        """Whether a network with these counts is within all limits.

        >>> from keras_sharenets.search.spaces.space import Counts
        >>> [Budget(max_parameters=1000).allows(Counts(stored, 10)) for stored in (1000, 1001)]
        [True, False]
        """
        return _within(counts.stored_parameters, self.max_parameters) and _within(
            counts.multiply_adds, self.max_multiply_adds
        )


@dataclasses.dataclass(frozen=True)
class FileBudget:
    """Limits on the int8 file of a network; `None` means no limit.

    Attributes:
        max_tflite_bytes: size of the file.
        max_latency_ms: median latency for one image in LiteRT on this machine, one thread.
    """

    max_tflite_bytes: int | None = None
    max_latency_ms: float | None = None

    def __post_init__(self) -> None:
        for name, limit in dataclasses.asdict(self).items():
            if limit is not None:
                _checks.above_zero(name, limit)

    def allows(self, costs: FileCosts) -> bool:
        """Whether a file with these costs is within all limits."""
        return _within(costs.int8_bytes, self.max_tflite_bytes) and _within(costs.latency_ms, self.max_latency_ms)


def _within(number: float | None, limit: float | None) -> bool:
    return limit is None or (number is not None and number <= limit)
