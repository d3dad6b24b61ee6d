"""Least-squares fit of stored weights that several places or kernel entries share.

Kernels are matrices `(inputs, outputs)`, with the inputs of a patch in the order of the kernel's first three axes. A
place k has a target `V_k` and gets `U M_k`. `U` is the common kernel: `index` maps each of its entries to a stored
weight. `M_k` belongs to the place: nothing, a scale for each output, or a matrix that blends outputs. The stored
weights for given `M_k`, and `M_k` for given stored weights, are linear least-squares problems, which are solved
alternately. With the second moments of a place's inputs, the fit approximates its outputs, otherwise its weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from threadpoolctl import threadpool_limits

# Such small matrices gain little from threads, which wait for each other: with other work on two cores, converting the
# 35 convolutions of MobileNetV2 with `HierarchicalGroups(2)` took 156 s with two threads and 7 s with one.
one_thread = threadpool_limits.wrap(limits=1, user_api="blas")
# Number of rounds, and the relative gain below which they end: first for weights, then with second moments, where a
# round takes `_STEPS` conjugate gradient steps, each as long as a round for weights.
_ROUNDS, _LEAST_GAIN = (30, 6), (1e-5, 3e-3)
_STEPS = 12
# Pivots of a Cholesky factor below this fraction of the largest are due to rounding.
_LEAST_PIVOT = 1e-6


@dataclasses.dataclass(frozen=True)
class Fit:
    """Stored weights, the mix of each place, and the squared error relative to the squared targets."""

    stored: np.ndarray
    mixes: tuple[np.ndarray | None, ...]
    error: float


def expand(stored: np.ndarray, index: np.ndarray) -> np.ndarray:
    """The common kernel: the stored weight of each entry's index, or 0 if the index is negative."""
    if _in_order(index, len(stored)):
        return stored.reshape(index.shape)
    return np.where(index >= 0, stored[np.maximum(index, 0)], 0.0)


def collect(kernel: np.ndarray, index: np.ndarray, size: int) -> np.ndarray:
    """The adjoint of [`expand`]: the sum of the entries of each stored weight."""
    if _in_order(index, size):
        return kernel.reshape(-1)
    used = index >= 0
    return np.bincount(index[used], kernel[used], minlength=size)


def _in_order(index, size):
    """Whether entries and stored weights are the same; the general case takes ten times as long."""
    return index.size == size and np.array_equal(index.reshape(-1), np.arange(size))


def _mixed(kernel, mix):
    if mix is None:
        return kernel
    return kernel * mix if mix.ndim == 1 else kernel @ mix


def _weighted(gram, kernel):
    return kernel if gram is None else gram @ kernel


def squared_error(targets: Sequence[np.ndarray], kernels: Sequence[np.ndarray], grams: Sequence) -> float:
    """Squared difference relative to the squared targets, in the metric of the second moments if given."""
    error = total = 0.0
    for target, kernel, gram in zip(targets, kernels, grams, strict=True):
        difference = kernel - target
        error += float(np.sum(difference * _weighted(gram, difference)))
        total += float(np.sum(target * _weighted(gram, target)))
    return max(error, 0.0) / total if total else 0.0


def solve_symmetric(square: np.ndarray, right: np.ndarray, *, ridge: float = 0.0) -> np.ndarray:
    """Solves `square @ x = right` for a symmetric positive semidefinite matrix; minimum-norm x if it is singular.

    `ridge` is added to the diagonal, relative to its mean.
    """
    if ridge:
        square = square + ridge * np.trace(square) / len(square) * np.eye(len(square))
    try:
        pivots = np.diag(np.linalg.cholesky(square))
        if pivots.min() > _LEAST_PIVOT * pivots.max():
            return np.linalg.solve(square, right)
    except np.linalg.LinAlgError:
        pass
    values, vectors = np.linalg.eigh(square)
    kept = values > _LEAST_PIVOT**2 * values[-1]
    return vectors[:, kept] @ ((vectors[:, kept].T @ right) / values[kept, None])


def conjugate_gradients(
    apply: Callable[[np.ndarray], np.ndarray], right: np.ndarray, start: np.ndarray, steps: int
) -> np.ndarray:
    """Solves `apply(x) = right` for a symmetric positive semidefinite `apply`, from `start`."""
    x = start.copy()
    residual = right - apply(x)
    direction, square = residual.copy(), np.sum(residual * residual)
    enough = 1e-24 * np.sum(right * right)
    for _ in range(steps):
        if square <= enough:
            break
        applied = apply(direction)
        curvature = np.sum(direction * applied)
        if curvature <= 0:
            break
        x += square / curvature * direction
        residual -= square / curvature * applied
        square, before = np.sum(residual * residual), square
        direction = residual + square / before * direction
    return x


def _best_mix(kernel, target, gram, mix, signed):
    weighted = _weighted(gram, kernel)
    if mix.ndim == 2:
        return solve_symmetric(kernel.T @ weighted, weighted.T @ target)
    squares = np.sum(kernel * weighted, axis=0)
    scale = np.sum(target * weighted, axis=0) / np.where(squares > 0, squares, 1.0)
    return scale if signed else np.maximum(scale, 1e-2 * np.sqrt(np.mean(scale**2)))


def _best_stored(targets, grams, mixes, index, size, stored):
    scaled = all(mix is None or mix.ndim == 1 for mix in mixes)
    if scaled and all(gram is None for gram in grams):
        scales = [np.ones(index.shape[1]) if mix is None else mix for mix in mixes]
        scaled_targets = [target * scale for target, scale in zip(targets, scales, strict=True)]
        above = collect(np.sum(scaled_targets, axis=0), index, size)
        squares = np.broadcast_to(np.sum(np.square(scales), axis=0), index.shape)
        below = collect(squares, index, size)
        return above / np.where(below > 0, below, 1.0)

    def adjoint(kernels):
        back = [
            _mixed(_weighted(gram, kernel), mix if mix is None or mix.ndim == 1 else mix.T)
            for kernel, mix, gram in zip(kernels, mixes, grams, strict=True)
        ]
        return collect(np.sum(back, axis=0), index, size)

    def apply(numbers):
        kernel = expand(numbers, index)
        return adjoint([_mixed(kernel, mix) for mix in mixes])

    return conjugate_gradients(apply, adjoint(targets), stored, _STEPS)


def _leading_vectors(matrix, count):
    """The left singular vectors of the largest singular values, filled with zeros for missing ones."""
    # Computed from the eigenvectors of the smaller product: a third of the time of an SVD for long patches.
    wide = len(matrix) < matrix.shape[1]
    vectors = np.linalg.eigh(matrix @ matrix.T if wide else matrix.T @ matrix)[1][:, ::-1][:, :count]
    scaled = matrix.T @ vectors if wide else matrix @ vectors
    lengths = np.linalg.norm(scaled, axis=0)
    kept = lengths > _LEAST_PIVOT * lengths.max()
    result = np.zeros((len(matrix), count))
    result[:, : len(kept)][:, kept] = vectors[:, kept] if wide else scaled[:, kept] / lengths[kept]
    return result


def _first_kernel(targets, index, size, blending):
    """Initial weights: the leading singular vectors, or the first use of each stored weight."""
    if blending and size == index.size:
        return collect(_leading_vectors(np.concatenate(targets, axis=1), index.shape[1]), index, size)
    numbers, firsts = np.unique(index, return_index=True)
    stored = np.zeros(size)
    used = numbers >= 0
    stored[numbers[used]] = targets[0].reshape(-1)[firsts[used]]
    return stored


def fit_shared_kernel(
    targets: Sequence[np.ndarray],
    index: np.ndarray,
    size: int,
    *,
    mixing: str = "none",
    grams: Sequence[np.ndarray | None] | None = None,
    signed: bool = True,
) -> Fit:
    """Fits the stored weights and the mixes by least squares.

    Args:
        targets: a matrix `(inputs, outputs)` for each place.
        index: int matrix of the same shape with the index of the stored weight, or -1 for none.
        size: int, number of stored weights.
        mixing: mix of each place: `"none"`, `"scale"` or `"blend"`.
        grams: for each place the second moments `(inputs, inputs)` of its inputs, or `None`.
        signed: whether scales may be negative.

    Returns:
        A `Fit`.
    """
    grams = [None] * len(targets) if grams is None else grams
    outputs = index.shape[1]
    stored = _first_kernel(targets, index, size, mixing == "blend")
    starts = {"none": None, "scale": np.ones(outputs), "blend": np.eye(outputs)}
    mixes = [starts[mixing]] * len(targets)
    error, measured = np.inf, any(gram is not None for gram in grams)
    # Singular vectors are optimal.
    best = mixing == "blend" and not measured and size == index.size
    for _ in range(1 if best else _ROUNDS[measured]):
        if mixing != "none":
            kernel = expand(stored, index)
            mixes = [
                _best_mix(kernel, target, gram, mix, signed)
                for target, gram, mix in zip(targets, grams, mixes, strict=True)
            ]
        if not best:
            stored = _best_stored(targets, grams, mixes, index, size, stored)
        kernel = expand(stored, index)
        before, error = error, squared_error(targets, [_mixed(kernel, mix) for mix in mixes], grams)
        if mixing == "none" or before - error <= _LEAST_GAIN[measured] * error:
            break
    return Fit(stored, tuple(mixes), error)


def balance_scales(
    stored: np.ndarray, mixes: Sequence[np.ndarray], index: np.ndarray, size: int
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Rescales the stored weights so that the scales of their uses have mean square 1; the kernels stay the same."""
    uses = np.maximum(collect(np.ones(index.shape), index, size), 1)
    squares = collect(np.broadcast_to(np.mean(np.square(mixes), axis=0), index.shape), index, size) / uses
    sums = collect(np.broadcast_to(np.mean(mixes, axis=0), index.shape), index, size)
    size_of = np.sqrt(squares) * np.where(sums < 0, -1.0, 1.0)
    size_of[size_of == 0] = 1.0
    # The weights of one output have a common factor, since they are used in the same outputs.
    of_output = np.ones(index.shape[1])
    for output in range(index.shape[1]):
        used = index[:, output][index[:, output] >= 0]
        if len(used):
            of_output[output] = size_of[used[0]]
    return stored * size_of, [mix / of_output for mix in mixes]
