"""The hierarchical group convolution (HGC) nearest to a 1x1 kernel, by alternating least squares.

Kernels are matrices `(channels, filters)`. The factor of group i, `W_i`, has a row for each of the group's channels and
one for each output of the group before: the columns of the group are `E_i = [S_i, E_(i-1)] W_i`, where `S_i` takes the
group's channels. The kernel is linear in each factor, so each is solved for in turn.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from keras_sharenets.sharing.factors import EXACT, RANDOM_STARTS, SCREENING_ROUNDS, best_of_starts
from keras_sharenets.sharing.shared_kernels import squared_error

_ROUNDS = 200
# Products in the screening of random starts beyond which they are left out, and in all rounds of one start: seconds.
_MOST_SCREENING_WORK, _MOST_WORK = 3e8, 1e9


def _reads(columns, group, channels):
    """The matrix that a factor is multiplied with: its own channels, and the columns of the group before."""
    own = np.eye(channels)[:, group]
    return own if columns is None else np.concatenate([own, columns], axis=1)


def _columns(kernels, rows, channels):
    columns: list[np.ndarray] = []
    for kernel, group in zip(kernels, rows, strict=True):
        columns.append(_reads(columns[-1] if columns else None, group, channels) @ kernel)
    return np.concatenate(columns, axis=1)


def _after(kernels, rows, place, channels):
    """What the columns after a group are without those of the group, and the matrix by which these come in."""
    filters = kernels[0].shape[1]
    columns, products = [np.zeros((channels, filters))], [np.eye(filters)]
    for kernel, group in zip(kernels[place + 1 :], rows[place + 1 :], strict=True):
        columns.append(_reads(columns[-1], group, channels) @ kernel)
        products.append(products[-1] @ kernel[-filters:])
    return np.concatenate(columns, axis=1), np.concatenate(products, axis=1)


def _round(target, kernels, rows, gram):
    """Solves for every factor once, in place."""
    channels, filters = target.shape[0], kernels[0].shape[1]
    columns = None
    for place, group in enumerate(rows):
        rest, right = _after(kernels, rows, place, channels)
        rest = target[:, place * filters :] - rest
        left = _reads(columns, group, channels)
        weighted = left if gram is None else gram @ left
        factor = np.linalg.lstsq(left.T @ weighted, weighted.T @ (rest @ right.T), rcond=1e-12)[0]
        kernels[place] = np.linalg.lstsq(right @ right.T, factor.T, rcond=1e-12)[0].T
        columns = left @ kernels[place]


def _greedy(target, rows, filters):
    """Group after group: its own rows as they are, then the best of what the group before has. Exact for a chain."""
    kernels, columns = [], None
    for place, group in enumerate(rows):
        wanted = target[:, place * filters : (place + 1) * filters]
        kernel = wanted[group]
        if columns is not None:
            # The group before has nothing in the rows of this one.
            kernel = np.concatenate([kernel, np.linalg.lstsq(columns, _without(wanted, group), rcond=1e-10)[0]])
        kernels.append(kernel)
        columns = _reads(columns, group, len(target)) @ kernel
    return kernels


def _without(columns, group):
    """The rows before a group, zeros from it on."""
    return np.concatenate([columns[: group.start], np.zeros_like(columns[group.start :])])


def _rows(sizes):
    ends = list(itertools.accumulate(sizes))
    return [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]


def compose(kernels: Sequence[np.ndarray], sizes: Sequence[int]) -> np.ndarray:
    """The kernel `(channels, filters)` of all factors."""
    return _columns(kernels, _rows(sizes), sum(sizes))


def fit_chain(
    target: np.ndarray, sizes: Sequence[int], *, gram: np.ndarray | None = None
) -> tuple[list[np.ndarray], float]:
    """The factors of the hierarchical group convolution nearest to a kernel, the best of several starts.

    Args:
        target: matrix `(channels, filters)`.
        sizes: channels of every group.
        gram: second moments of the inputs, `(channels, channels)`, or `None` for the nearest weights.

    Returns:
        The kernels as the layer stores them, `(inputs, filters / groups)`, and the squared error as a share of the
        squared target.
    """
    channels, filters = len(target), target.shape[1] // len(sizes)
    rows = _rows(sizes)
    starts = [_greedy(target, rows, filters)]
    random = np.random.default_rng(0)
    work = len(sizes) * channels * target.size * 4
    exact = squared_error([target], [_columns(starts[0], rows, channels)], [gram]) < EXACT
    if not exact and len(sizes) > 1 and work * SCREENING_ROUNDS * RANDOM_STARTS <= _MOST_SCREENING_WORK:
        shapes = [(len(kernel), filters) for kernel in starts[0]]
        starts += [[random.standard_normal(shape) for shape in shapes] for _ in range(RANDOM_STARTS)]
    return best_of_starts(
        starts,
        take_round=lambda factors: _round(target, factors, rows, gram),
        compose=lambda factors: _columns(factors, rows, channels),
        target=target,
        gram=gram,
        rounds=max(2, min(_ROUNDS, int(_MOST_WORK / work))),
    )
