"""Factors of channels with which as many kernels as possible get one scale for all their filters.

The logarithm of the estimated error is convex in the logarithms of the factors, so descent finds the lowest error. It
is not smooth, as the largest number of a channel sets the step of all; smooth maxima of growing sharpness take its
place.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np

from keras_sharenets.mobile.graph.equalization_error import LinkedErrors, Rounding

# Estimated error up to which filters get one scale, in proportion to that with a scale for each. With 1.0, files are 1
# to 7 % larger. With 1.1, 28 trained networks were as accurate as with 1.0 and factors of higher errors (sum of
# correct answers: 235,757 and 235,717 of 280,000).
_MOST_ERROR = 1.1
# Orders of the norms that take the place of the maximum, and the number of steps of descent with each.
_SHARPNESS, _STEPS = (16, 128), 40
# The largest logarithm of a factor, above or below the one from which descent starts.
_LARGEST = np.log(1e6)


def best_factors(errors: LinkedErrors) -> tuple[np.ndarray | None, Collection[int]]:
    """The factors with the fewest scales in the file, and the writers whose filters get one scale.

    Of several, those with the lowest estimated error; `None` if there are no fewer scales, or only with errors above
    `_MOST_ERROR`.
    """
    ones = np.ones(errors.count)
    fewest, least = sum(writer.scales(ones) for writer in errors.writers.values()), 0.0
    most = _MOST_ERROR * (errors.fixed(ones) + sum(writer.separate() for writer in errors.writers.values()))
    chosen: tuple[np.ndarray | None, Collection[int]] = None, ()
    for factors, total, alike in _choices(errors, most):
        scales = sum(1 if number in alike else writer.scales(factors) for number, writer in errors.writers.items())
        if total <= most and (scales, total) < (fewest, least):
            fewest, least, chosen = scales, total, (factors, alike)
    return chosen


def _one_scale(errors, factors, most) -> tuple[float, set[int]]:
    """The estimated error with these factors, and the writers whose filters get one scale: as many as `most` allows."""
    separate = {number: writer.separate() for number, writer in errors.writers.items()}
    total, alike = errors.fixed(factors) + sum(separate.values()), set()
    more = {number: writer.together(factors) - separate[number] for number, writer in errors.writers.items()}
    for number in sorted(more, key=lambda each: more[each]):
        if total + more[number] <= most:
            total += more[number]
            alike.add(number)
    return total, alike


def _choices(errors, most) -> Iterator[tuple[np.ndarray, float, set[int]]]:
    """Factors that keep all integers of kernels, and those with the lowest error if kernels have one scale.

    First all kernels that may change, then those that got one scale with the factors before. With each, what
    `_one_scale` returns.
    """
    writers = errors.writers
    levels = np.full((len(writers), errors.count), -np.inf)
    for level, writer in zip(levels, writers.values(), strict=True):
        np.maximum.at(level, writer.rounding.channels[0], np.log(writer.limits / writer.limits.max()))
    known = np.isfinite(levels)
    mean = np.sum(levels, 0, where=known) / np.sum(known, 0)
    for factors in np.exp([mean, levels.max(0), *np.where(known, levels, mean)] if len(writers) > 1 else levels):
        yield factors, *_one_scale(errors, factors, most)
    alike, before = {number for number, writer in writers.items() if writer.own}, None
    for _ in writers:  # The kernels that get one scale may alternate.
        if not alike or alike == before:
            return
        factors = lowest_error([*errors.always, *(writers[number].rounding for number in alike)], mean)
        total, after = _one_scale(errors, factors, most)
        yield factors, total, after
        alike, before = after, alike


def lowest_error(roundings: Collection[Rounding], start: np.ndarray) -> np.ndarray:
    """The factors with the lowest sum of errors; `start` are logarithms of factors."""
    from scipy.optimize import minimize  # Slow to import.

    def error(logarithms, sharpness):
        errors, gradients = zip(*(each.smooth_error(logarithms, sharpness) for each in roundings), strict=True)
        total = sum(errors) + np.finfo(float).tiny  # Of values that are all 0, the errors are, too.
        return np.log(total), sum(gradients) / total

    found, bounds, options = start, np.stack([start - _LARGEST, start + _LARGEST], axis=1), {"maxiter": _STEPS}
    for sharpness in _SHARPNESS:
        found = minimize(error, found, sharpness, "L-BFGS-B", jac=True, bounds=bounds, options=options).x
    return np.exp(found - found.max())
