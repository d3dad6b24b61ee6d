"""Power laws from measured points."""

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class PowerLaw:
    """`factor * x ** exponent`.

    Attributes:
        exponent, factor: float.
        deviation: float, by how much of the law a point is off at most: 0.1 for a tenth above or below.
    """

    exponent: float
    factor: float
    deviation: float

    def __call__(self, x):
        return self.factor * x**self.exponent

    def __str__(self):
        # Without the addition a constant could have the exponent -0.00.
        return f"{round(self.exponent, 2) + 0:.2f}"


def fit(xs, ys):
    """The `PowerLaw` whose logarithm is nearest to that of some points, by least squares.

    Args:
        xs, ys: sequences of as many numbers above 0, at least two different `xs`.

    >>> law = fit([1, 2, 4], [3, 12, 48])
    >>> round(law.exponent, 6), round(law.factor, 6), round(law.deviation, 6)
    (2.0, 3.0, 0.0)
    """
    xs, ys = np.log(xs), np.log(ys)
    exponent, constant = np.polyfit(xs, ys, 1)
    farthest = np.abs(ys - exponent * xs - constant).max()
    return PowerLaw(float(exponent), math.exp(constant), math.expm1(farthest))
