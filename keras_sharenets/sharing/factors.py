"""Factorization of a kernel by alternating least squares with several starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from keras_sharenets.sharing.shared_kernels import squared_error

Factors = list[np.ndarray]

# Random starts where they take only seconds, rounds of every start, and the number of starts that get more rounds.
RANDOM_STARTS, SCREENING_ROUNDS, _FINISHED = 20, 10, 5
# The squared error that counts as zero, and the relative gain below which rounds end.
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
    """Returns the best factors found and the squared error relative to the squared target.

    Args:
        starts: initial factors; they are changed in place.
        take_round: function that solves for each factor once, in place.
        compose: function that returns the kernel of the factors.
        target: the target kernel, a matrix `(channels, filters)`.
        gram: second moments of the inputs, `(channels, channels)`, or `None` to approximate the weights.
        rounds: maximum number of rounds per start.
        least: lower bound of the error; rounds end when it is reached.
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
