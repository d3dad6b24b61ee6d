"""Approximation of a 1x1 kernel by a hierarchical group convolution (HGC), by alternating least squares.

Kernels are matrices `(channels, filters)`. The factor of group i, `W_i`, has a row for each of the group's channels and
one for each output of the previous group: the columns of the group are `E_i = [S_i, E_(i-1)] W_i`, where `S_i` selects
the group's channels. The kernel is linear in each factor, so the factors are solved for one after the other.

The outputs of the previous group may need large coefficients. The ridge [`INT8`] keeps them small.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from keras_sharenets.sharing.factors import EXACT, RANDOM_STARTS, SCREENING_ROUNDS, best_of_starts
from keras_sharenets.sharing.shared_kernels import solve_symmetric, squared_error

_ROUNDS = 200
# Limits on multiplications, which keep the time to seconds: in the screening of random starts, which is skipped beyond
# the limit, and in all rounds of one start.
_MOST_SCREENING_WORK, _MOST_WORK = 3e8, 1e9
# The ridge that models int8: rounding has a mean squared error of `step^2 / 12`, where the step is 1/127 of the largest
# number of the column, which is about three times as large as the others: 10 / 12 / 127^2 of their mean square.
INT8 = 5e-5
# The squared error below which a kernel is an exact chain, and the ratio to the least error that suffices with a ridge.
_CHAIN, _NEAR = 1e-10, 1.002


def _with_group(columns, kernel, group):
    """The columns of a group from those of the previous group: its own rows and the transformed earlier rows."""
    size = group.stop - group.start
    result = np.zeros_like(columns)
    result[: group.start] = columns[: group.start] @ kernel[size:] if group.start else 0.0
    result[group] = kernel[:size]
    return result


def _columns(kernels, rows, channels):
    columns = [np.zeros((channels, kernels[0].shape[1]))]
    for kernel, group in zip(kernels, rows, strict=True):
        columns.append(_with_group(columns[-1], kernel, group))
    return np.concatenate(columns[1:], axis=1)


def _after(kernels, rows, place, channels):
    """The columns from a group on without the group's contribution, and the matrix that multiplies the contribution."""
    filters = kernels[0].shape[1]
    columns, products = [np.zeros((channels, filters))], [np.eye(filters)]
    for kernel, group in zip(kernels[place + 1 :], rows[place + 1 :], strict=True):
        columns.append(_with_group(columns[-1], kernel, group))
        products.append(products[-1] @ kernel[-filters:])
    return np.concatenate(columns, axis=1), np.concatenate(products, axis=1)


def _factor(wanted, columns, group, gram, ridge):
    """The factor of a group that best fits its columns to the target; `wanted` is `gram @ target`."""
    start, stop = group.start, group.stop
    before = columns[:start] if start else np.zeros((0, 0))
    weighted = np.concatenate([gram[:stop, group], gram[:stop, :start] @ before], axis=1)
    square = np.concatenate([weighted[group], before.T @ weighted[:start]])
    return solve_symmetric(square, np.concatenate([wanted[group], before.T @ wanted[:start]]), ridge=ridge)


def _greedy(wanted, rows, filters, gram, ridge):
    """Fits each group's columns without regard to later groups. Exact for a chain."""
    kernels, columns = [], np.zeros((len(wanted), filters))
    for place, group in enumerate(rows):
        wanted_here = wanted[:, place * filters : (place + 1) * filters]
        kernels.append(_factor(wanted_here, columns, group, gram, ridge))
        columns = _with_group(columns, kernels[-1], group)
    return kernels


def _round(wanted, kernels, rows, gram, ridge):
    """Solves for every factor once, in place."""
    channels, filters = len(wanted), kernels[0].shape[1]
    columns = np.zeros((channels, filters))
    for place, group in enumerate(rows):
        rest, right = _after(kernels, rows, place, channels)
        stop = group.stop
        # In the rows before `stop`, where the factor counts, `rest` is 0.
        still_wanted = wanted[:stop, place * filters :] - gram[:stop, stop:] @ rest[stop:]
        factor = _factor(still_wanted @ right.T, columns, group, gram, ridge)
        kernels[place] = solve_symmetric(right @ right.T, factor.T, ridge=ridge).T
        columns = _with_group(columns, kernels[place], group)


def _rows(sizes):
    ends = list(itertools.accumulate(sizes))
    return [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]


def compose(kernels: Sequence[np.ndarray], sizes: Sequence[int]) -> np.ndarray:
    """The kernel `(channels, filters)` of all factors."""
    return _columns(kernels, _rows(sizes), sum(sizes))


def fit_chain(
    target: np.ndarray, sizes: Sequence[int], *, gram: np.ndarray | None = None, ridge: float = 0.0
) -> tuple[list[np.ndarray], float]:
    """Fits the factors of a hierarchical group convolution to a kernel; returns the best of several starts.

    Args:
        target: matrix `(channels, filters)`.
        sizes: number of channels of every group.
        gram: second moments of the inputs, `(channels, channels)`, or `None` to approximate the weights.
        ridge: regularization that keeps the factors small: added to the diagonal of the equations, relative to its
            mean. A kernel that is an exact chain is still found exactly.

    Returns:
        The kernels as the layer stores them, `(inputs, filters / groups)`, and the squared error relative to the
        squared target.
    """
    channels, filters = len(target), target.shape[1] // len(sizes)
    rows = _rows(sizes)
    metric = np.eye(channels) if gram is None else gram
    wanted = metric @ target
    # Lower bound of the error: each group unconstrained in its own and all earlier rows.
    free = np.zeros_like(target)
    for place, group in enumerate(rows):
        columns, stop = slice(place * filters, (place + 1) * filters), group.stop
        free[:stop, columns] = solve_symmetric(metric[:stop, :stop], wanted[:stop, columns])
    least = squared_error([target], [free], [gram])
    starts = [_greedy(wanted, rows, filters, metric, 0.0)]
    reached = squared_error([target], [_columns(starts[0], rows, channels)], [gram])
    if reached < _CHAIN:
        ridge = 0.0
    if ridge:
        # The ridge costs more than what further rounds can gain here.
        starts, least = [_greedy(wanted, rows, filters, metric, ridge)], least * _NEAR
    random = np.random.default_rng(0)
    work = len(sizes) * channels * target.size * 4
    if reached - least >= EXACT and work * SCREENING_ROUNDS * RANDOM_STARTS <= _MOST_SCREENING_WORK:
        shapes = [kernel.shape for kernel in starts[0]]
        starts += [[random.standard_normal(shape) for shape in shapes] for _ in range(RANDOM_STARTS)]
    return best_of_starts(
        starts,
        take_round=lambda factors: _round(wanted, factors, rows, metric, ridge),
        compose=lambda factors: _columns(factors, rows, channels),
        target=target,
        gram=gram,
        least=least,
        rounds=max(2, min(_ROUNDS, int(_MOST_WORK / work))),
    )
