"""Approximation of a 1x1 kernel by a product of group convolutions (IGC-V2), by alternating least squares.

Kernels are matrices `(channels, filters)`: `E = F_1 F_2 ... F_n`, where `F_l` is block diagonal with shuffled columns.
A stored kernel is an array `(inputs of a branch, branches, outputs of a branch)`. The product is linear in each factor,
so the factors are solved for one after the other. If exactly one path leads from each input to each output, the start
has a closed form.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from keras_sharenets.ops import permutations
from keras_sharenets.sharing.factors import EXACT, RANDOM_STARTS, SCREENING_ROUNDS, best_of_starts
from keras_sharenets.sharing.shared_kernels import conjugate_gradients, solve_symmetric, squared_error

_ROUNDS, _STEPS = 100, 30
# Limits on multiplications, which keep the time to seconds: in the screening of random starts, which is skipped beyond
# the limit, and in all rounds of one start.
_MOST_SCREENING_WORK, _MOST_WORK = 1e8, 1e10


def _times(matrix, kernel):
    """A matrix times the block-diagonal matrix of a stored kernel."""
    inputs, branches, _ = kernel.shape
    parts = matrix.reshape(len(matrix), branches, inputs).transpose(1, 0, 2) @ kernel.transpose(1, 0, 2)
    return parts.transpose(1, 0, 2).reshape(len(matrix), -1)


def _diagonal(matrix, shape):
    """The blocks of a matrix at the positions of a stored kernel of that shape, as `(branches, inputs, outputs)`."""
    inputs, branches, outputs = shape
    every = np.arange(branches)
    return matrix.reshape(branches, inputs, branches, outputs)[every, :, every]


def branches(stored: np.ndarray, channels: int) -> np.ndarray:
    """A stored kernel `(inputs of a branch, filters)` as `(inputs, branches, outputs)`."""
    return stored.reshape(len(stored), channels // len(stored), -1)


def compose(kernels: Sequence[np.ndarray], orders: Sequence[np.ndarray]) -> np.ndarray:
    """The product of all factors, each followed by its shuffle."""
    inputs, branches, _ = kernels[0].shape
    product = np.eye(inputs * branches)
    for kernel, order in zip(kernels, orders, strict=True):
        product = _times(product, kernel)[:, order]
    return product


def _one_path_start(target, sizes):
    """The factors in closed form, if the product of the sizes is the number of channels.

    The first factor mixes only the fastest digit of a channel index. For one value of this digit in the output and one
    value of all other digits in the input, the kernel is therefore a product of a row and a column: the first pair of
    singular vectors. The columns are the kernels of smaller problems, one for each value of the digit in the output.
    Exact for a kernel that is such a product.
    """
    channels, filters = target.shape
    if len(sizes) == 1:
        return [target.reshape(channels, 1, filters)]
    size, rest, outputs = sizes[0], channels // sizes[0], filters // sizes[0]
    table = target.reshape(rest, size, outputs, size).transpose(0, 3, 1, 2)
    left, values, right = np.linalg.svd(table, full_matrices=False)
    root = np.sqrt(values[..., :1])
    first = (left[..., 0] * root).transpose(2, 0, 1)
    others = [_one_path_start((right[:, digit, 0] * root[:, digit]), sizes[1:]) for digit in range(size)]
    kernels, mixed = [first], 1
    for factors in zip(*others, strict=True):
        inputs, branches, each = factors[0].shape
        # Digits that are already mixed are the slowest; the digit of this call is the fastest of them.
        tables = [factor.reshape(inputs, mixed, branches // mixed, each) for factor in factors]
        kernels.append(np.stack(tables, axis=2).reshape(inputs, branches * size, each))
        mixed *= inputs
    return kernels


def _last_factor(square, right, shape):
    """The last factor: its outputs are not mixed, so each branch is solved for separately."""
    inputs, branches, _ = shape
    squares, rights = _diagonal(square, (inputs, branches, inputs)), _diagonal(right, shape)
    return np.stack([solve_symmetric(*each) for each in zip(squares, rights, strict=True)], axis=1)


def _factor(square, right, outer, kernel):
    """The kernel `K` for which `square @ K @ outer` is closest to `right` in its blocks, starting from `kernel`."""
    inputs, branches, outputs = kernel.shape
    # `(input blocks, rows, inputs)`, and for each output block all other blocks stacked.
    reads = square.reshape(-1, branches, inputs).transpose(1, 0, 2)
    gives = outer.reshape(branches, outputs, branches, outputs).transpose(2, 0, 1, 3).reshape(branches, -1, outputs)

    def apply(kernel):
        mixed = (reads @ kernel).reshape(branches, branches, inputs, outputs)
        return mixed.transpose(1, 2, 0, 3).reshape(branches, inputs, -1) @ gives

    return conjugate_gradients(apply, right, kernel.transpose(1, 0, 2), _STEPS).transpose(1, 0, 2)


def _round(square, given, kernels, orders):
    """Solves for every factor once, in place; `square` is the second moments, `given` their product with the target."""
    for place, order in enumerate(orders[:-1]):
        kernel = kernels[place]
        after = compose(kernels[place + 1 :], orders[place + 1 :])[np.argsort(order)]
        kernel = _factor(square, _diagonal(given @ after.T, kernel.shape), after @ after.T, kernel)
        # Propagate to the input of the next factor.
        square, given = (_times(each, kernel)[:, order] for each in (square, given.T))
        square, given = _times(square.T, kernel)[:, order], given.T
        kernels[place] = kernel
    kernels[-1] = _last_factor(square, given[:, np.argsort(orders[-1])], kernels[-1].shape)


def fit_product(
    target: np.ndarray, branch_channels: Sequence[int], *, gram: np.ndarray | None = None
) -> tuple[list[np.ndarray], float]:
    """Fits the factors of an interleaved group convolution to a kernel; returns the best of several starts.

    Args:
        target: matrix `(channels, filters)`.
        branch_channels: input channels of a branch in each factor.
        gram: second moments of the inputs, `(channels, channels)`, or `None` to approximate the weights.

    Returns:
        The kernels, `(inputs of a branch, filters of the factor)` as the layer stores them, and the squared error
        relative to the squared target.
    """
    channels, filters = target.shape
    orders = permutations.interleaved(channels, branch_channels, filters)
    outputs = [*(channels for _ in branch_channels[1:]), filters]
    shapes = [
        (size, channels // size, out * size // channels) for size, out in zip(branch_channels, outputs, strict=True)
    ]
    random = np.random.default_rng(0)

    def start():
        return [random.standard_normal(shape) / math.sqrt(shape[0]) for shape in shapes]

    one_path = math.prod(branch_channels) == channels
    starts = [_one_path_start(target, tuple(branch_channels)) if one_path else start()]
    reached = squared_error([target], [compose(starts[0], orders)], [gram])
    # The start of two factors with one path is optimal.
    best_start = reached < EXACT or (one_path and len(shapes) <= 2 and gram is None)
    metric = np.eye(channels) if gram is None else gram
    wanted = metric @ target
    work = channels * channels * (4 * _STEPS * sum(branch_channels[:-1]) + 6 * filters)
    if not best_start and work * SCREENING_ROUNDS * RANDOM_STARTS <= _MOST_SCREENING_WORK:
        starts += [start() for _ in range(RANDOM_STARTS)]
    kernels, error = best_of_starts(
        starts,
        take_round=lambda factors: _round(metric, wanted, factors, orders),
        compose=lambda factors: compose(factors, orders),
        target=target,
        gram=gram,
        least=reached if best_start else 0.0,
        rounds=max(2, min(_ROUNDS, int(_MOST_WORK / work))),
    )
    return [kernel.reshape(len(kernel), -1) for kernel in kernels], error
