"""The product of group convolutions (IGC-V2) nearest to a 1x1 kernel, by alternating least squares.

Kernels are matrices `(channels, filters)`: `E = F_1 F_2 ... F_n`, where `F_l` is block diagonal, its columns shuffled.
A stored kernel is an array `(inputs, branches, outputs)` of a branch. The product is linear in each factor, so each is
solved for in turn. Where one path leads from each input to each output, the start is found in closed form.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from keras_sharenets.ops import permutations
from keras_sharenets.sharing.factors import EXACT, RANDOM_STARTS, SCREENING_ROUNDS, best_of_starts
from keras_sharenets.sharing.shared_kernels import conjugate_gradients, squared_error

_ROUNDS, _STEPS = 100, 30
# Products in the screening of random starts beyond which they are left out, and in all rounds of one start: seconds.
_MOST_SCREENING_WORK, _MOST_WORK = 1e9, 1e10


def _dense(kernel):
    """A block-diagonal matrix of a stored kernel."""
    inputs, branches, outputs = kernel.shape
    matrix = np.zeros((branches, inputs, branches, outputs))
    matrix[np.arange(branches), :, np.arange(branches)] = kernel.transpose(1, 0, 2)
    return matrix.reshape(branches * inputs, branches * outputs)


def _blocks(matrix, shape):
    """The entries of a matrix in the blocks of a stored kernel of that shape: the adjoint of [`_dense`]."""
    inputs, branches, outputs = shape
    table = matrix.reshape(branches, inputs, branches, outputs)
    return table[np.arange(branches), :, np.arange(branches)].transpose(1, 0, 2)


def branches(stored: np.ndarray, channels: int) -> np.ndarray:
    """A stored kernel `(inputs of a branch, filters)` as `(inputs, branches, outputs)` of a branch."""
    return stored.reshape(len(stored), channels // len(stored), -1)


def compose(kernels: Sequence[np.ndarray], orders: Sequence[np.ndarray]) -> np.ndarray:
    """The product of all factors, each followed by its shuffle."""
    product = _dense(kernels[0])[:, orders[0]]
    for kernel, order in zip(kernels[1:], orders[1:], strict=True):
        product = (product @ _dense(kernel))[:, order]
    return product


def _one_path_start(target, sizes):
    """The factors in closed form where the product of the sizes is the number of channels.

    The first factor mixes the fastest digit of a channel's number alone. So for one value of this digit in the output
    and one value of all other digits in the input, the kernel is a product of a row and a column: the first pair of
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
        # Digits that are mixed already are the slowest ones, the one of this call the fastest of them.
        tables = [factor.reshape(inputs, mixed, branches // mixed, each) for factor in factors]
        kernels.append(np.stack(tables, axis=2).reshape(inputs, branches * size, each))
        mixed *= inputs
    return kernels


def _round(target, kernels, orders, gram):
    """Solves for every factor once, in place."""
    for place, order in enumerate(orders):
        before = compose(kernels[:place], orders[:place]) if place else np.eye(target.shape[0])
        after = np.eye(target.shape[1])
        for kernel, shuffle in zip(kernels[:place:-1], orders[:place:-1], strict=True):
            after = _dense(kernel)[:, shuffle] @ after
        unshuffled = np.empty_like(after)
        unshuffled[order] = after
        weighted = before if gram is None else gram @ before
        square, outer = before.T @ weighted, unshuffled @ unshuffled.T
        shape = kernels[place].shape

        def apply(kernel, square=square, outer=outer, shape=shape):
            return _blocks(square @ _dense(kernel) @ outer, shape)

        right = _blocks(weighted.T @ target @ unshuffled.T, shape)
        kernels[place] = conjugate_gradients(apply, right, kernels[place], _STEPS)


def fit_product(
    target: np.ndarray, branch_channels: Sequence[int], *, gram: np.ndarray | None = None
) -> tuple[list[np.ndarray], float]:
    """The factors of the interleaved group convolution nearest to a kernel, the best of several starts.

    Args:
        target: matrix `(channels, filters)`.
        branch_channels: input channels of a branch in each factor.
        gram: second moments of the inputs, `(channels, channels)`, or `None` for the nearest weights.

    Returns:
        The kernels, `(inputs of a branch, filters of the factor)` as the layer stores them, and the squared error as a
        share of the squared target.
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
    exact = squared_error([target], [compose(starts[0], orders)], [gram]) < EXACT
    # Two factors with one path have the best start there is.
    best_start = exact or (one_path and len(shapes) <= 2 and gram is None)
    work = len(shapes) * _STEPS * 2 * channels * channels * filters
    if not best_start and work * SCREENING_ROUNDS * RANDOM_STARTS <= _MOST_SCREENING_WORK:
        starts += [start() for _ in range(RANDOM_STARTS)]
    kernels, error = best_of_starts(
        starts,
        take_round=lambda factors: _round(target, factors, orders, gram),
        compose=lambda factors: compose(factors, orders),
        target=target,
        gram=gram,
        rounds=max(2, min(_ROUNDS, int(_MOST_WORK / work))),
    )
    return [kernel.reshape(len(kernel), -1) for kernel in kernels], error
