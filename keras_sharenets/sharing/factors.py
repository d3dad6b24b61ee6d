"""Factors of a kernel by alternating least squares, from the best of several starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from keras_sharenets.sharing.shared_kernels import squared_error

Factors = list[np.ndarray]

# Random starts where they take seconds, rounds that all starts have, and starts that have the other rounds too.
RANDOM_STARTS, SCREENING_ROUNDS, _FINISHED = 20, 10, 5
# The squared error that is none; where rounds gain less than the second number of the error, they end.
EXACT, _LEAST_GAIN = 1e-14, 1e-7


def best_of_starts(
    starts: Sequence[Factors],
    *,
    take_round: Callable[[Factors], object],
    compose: Callable[[Factors], np.ndarray],
    target: np.ndarray,
    gram: np.ndarray | None,
    rounds: int,
    least: float = 0.0,
) -> tuple[Factors, float]:
    """The best factors that are found, and the squared error as a share of the squared target.

    Args:
        starts: factors to begin with; they are changed in place.
        take_round: function that solves for each factor once, in place.
        compose: function of the factors that gives the kernel.
        target: the kernel that is wanted, a matrix `(channels, filters)`.
        gram: second moments of the inputs, `(channels, channels)`, or `None` for the nearest weights.
        rounds: how many from one start at most.
        least: an error that none can be below: where it is reached, nothing is left to do.
    """

    def improve(factors: Factors, most: int) -> tuple[float, Factors]:
        error = squared_error([target], [compose(factors)], [gram])
        for _ in range(most):
            if error - least < EXACT:
                break
            take_round(factors)
            last, error = error, squared_error([target], [compose(factors)], [gram])
            if last - error <= _LEAST_GAIN * error:
                break
        return error, factors

    screened = [improve(factors, min(rounds, SCREENING_ROUNDS)) for factors in starts]
    best = sorted(screened, key=lambda each: each[0])[:_FINISHED]
    error, factors = min((improve(factors, rounds) for _, factors in best), key=lambda each: each[0])
    return factors, error
