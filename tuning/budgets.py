"""Limits on what a network stores and computes."""

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
        for field in dataclasses.fields(self):
            limit = getattr(self, field.name)
            if limit is not None:
                _checks.positive(field.name, limit)

    def allows(self, counts):
        """Whether a network of these `Counts` is within all limits.

        >>> from tuning.spaces import Counts
        >>> [Budget(max_parameters=1000).allows(Counts(stored, 10)) for stored in (1000, 1001)]
        [True, False]
        """
        pairs = ((counts.stored_parameters, self.max_parameters), (counts.multiply_adds, self.max_multiply_adds))
        return all(limit is None or number <= limit for number, limit in pairs)


def add_arguments(parser):
    """`--max-parameters` and `--max-multiply-adds`."""
    parser.add_argument("--max-parameters", type=int, metavar="N", help="stored weights, each shared tensor once")
    parser.add_argument("--max-multiply-adds", type=int, metavar="N", help="for one picture")


def from_arguments(args):
    """The `Budget` that the options of `add_arguments` ask for."""
    return Budget(args.max_parameters, args.max_multiply_adds)
