"""The hierarchical group convolution (HGC) nearest to a 1x1 kernel, by alternating least squares.

Kernels are matrices `(channels, filters)`. The factor of group i, `W_i`, has a row for each of the group's channels and
one for each output of the group before: the columns of the group are `E_i = [S_i, E_(i-1)] W_i`, where `S_i` takes the
group's channels. The kernel is linear in each factor, so each is solved for in turn.

What the group before has may have to be multiplied by large numbers. [`INT8`] keeps them small.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from keras_sharenets.sharing.factors import EXACT, RANDOM_STARTS, SCREENING_ROUNDS, best_of_starts
from keras_sharenets.sharing.shared_kernels import solve_symmetric, squared_error

_ROUNDS = 200
# Products in the screening of random starts beyond which they are left out, and in all rounds of one start: seconds.
_MOST_SCREENING_WORK, _MOST_WORK = 3e8, 1e9
# The ridge that stands for int8: a rounded number is wrong by `step^2 / 12` in the square, where the step is a 127th of
# the largest number of the column, some three times as large as the others: 10 / 12 / 127^2 of their mean square.
INT8 = 5e-5
# The squared error below which a kernel is a chain, and how near to the least the error is near enough with a ridge.
_CHAIN, _NEAR = 1e-10, 1.002


def _with_group(columns, kernel, group):
    """The columns of a group from those of the group before: its own rows, and what it makes of the rows before."""
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
    """What the columns from a group on are without those of the group, and the matrix by which these come in."""
    filters = kernels[0].shape[1]
    columns, products = [np.zeros((channels, filters))], [np.eye(filters)]
    for kernel, group in zip(kernels[place + 1 :], rows[place + 1 :], strict=True):
        columns.append(_with_group(columns[-1], kernel, group))
        products.append(products[-1] @ kernel[-filters:])
    return np.concatenate(columns, axis=1), np.concatenate(products, axis=1)


def _factor(wanted, columns, group, gram, ridge):
    """The factor of a group that brings its columns nearest to the target; `wanted` is `gram @ target`."""
    start, stop = group.start, group.stop
    before = columns[:start] if start else np.zeros((0, 0))
    weighted = np.concatenate([gram[:stop, group], gram[:stop, :start] @ before], axis=1)
    square = np.concatenate([weighted[group], before.T @ weighted[:start]])
    return solve_symmetric(square, np.concatenate([wanted[group], before.T @ wanted[:start]]), ridge=ridge)


def _greedy(wanted, rows, filters, gram, ridge):
    """Each group's columns as near as they come, whatever follows. Exact for a chain."""
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
    """The factors of the hierarchical group convolution nearest to a kernel, the best of several starts.

    Args:
        target: matrix `(channels, filters)`.
        sizes: channels of every group.
        gram: second moments of the inputs, `(channels, channels)`, or `None` for the nearest weights.
        ridge: what is added to the diagonal of the equations, as a share of its mean, so that the factors stay small.
            A kernel that is such a chain is found exactly all the same.

    Returns:
        The kernels as the layer stores them, `(inputs, filters / groups)`, and the squared error as a share of the
        squared target.
    """
    channels, filters = len(target), target.shape[1] // len(sizes)
    rows = _rows(sizes)
    metric = np.eye(channels) if gram is None else gram
    wanted = metric @ target
    # What each group would be if it were free in its rows and those before: no chain is nearer.
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
        # The ridge costs more than what is left to gain here.
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
