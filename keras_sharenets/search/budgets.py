"""Limits on what a network stores and computes, and on its file."""

import dataclasses

from keras_sharenets import _checks


@dataclasses.dataclass(frozen=True)
class Budget:
    """What a network may cost at most; `None` is no limit.

    Attributes:
        max_parameters: int, trainable weights, each shared tensor once.
        max_multiply_adds: int, for one picture.
    """

    max_parameters: int | None = None
    max_multiply_adds: int | None = None

    def __post_init__(self):
        _check(self, _checks.positive)

    def allows(self, counts):
        """Whether a network of these `Counts` is within all limits.

        >>> from keras_sharenets.search.spaces.registry import Counts
        >>> [Budget(max_parameters=1000).allows(Counts(stored, 10)) for stored in (1000, 1001)]
        [True, False]
        """
        return _within((counts.stored_parameters, self.max_parameters), (counts.multiply_adds, self.max_multiply_adds))


@dataclasses.dataclass(frozen=True)
class FileBudget:
    """What the int8 file of a network may cost at most; `None` is no limit.

    Attributes:
        max_tflite_bytes: int.
        max_latency_ms: float, for one picture in LiteRT on this machine, one thread.
    """

    max_tflite_bytes: int | None = None
    max_latency_ms: float | None = None

    def __post_init__(self):
        _check(self, _checks.above_zero)

    def allows(self, costs):
        """Whether a file of these costs (it has `int8_bytes` and `latency_ms`) is within all limits."""
        return _within((costs.int8_bytes, self.max_tflite_bytes), (costs.latency_ms, self.max_latency_ms))


def _check(budget, rule):
    for field in dataclasses.fields(budget):
        limit = getattr(budget, field.name)
        if limit is not None:
            rule(field.name, limit)


def _within(*pairs):
    return all(limit is None or number <= limit for number, limit in pairs)


def add_arguments(parser):
    """`--max-parameters` and `--max-multiply-adds`."""
    parser.add_argument("--max-parameters", type=int, metavar="N", help="stored weights, each shared tensor once")
    parser.add_argument("--max-multiply-adds", type=int, metavar="N", help="for one picture")


def add_file_arguments(parser):
    """`--max-tflite-bytes` and `--max-latency-ms`."""
    parser.add_argument("--max-tflite-bytes", type=int, metavar="N", help="of the int8 file")
    parser.add_argument(
        "--max-latency-ms", type=float, metavar="MS", help="of the int8 file in LiteRT on this machine, one thread"
    )


def from_arguments(args):
    """The `Budget` that the options of `add_arguments` ask for."""
    return Budget(args.max_parameters, args.max_multiply_adds)


def files_from_arguments(args):
    """The `FileBudget` that the options of `add_file_arguments` ask for."""
    return FileBudget(args.max_tflite_bytes, args.max_latency_ms)
