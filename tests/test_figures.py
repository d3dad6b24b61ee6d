"""Common code of figures: labels next to their points that cover nothing."""

import numpy as np
from matplotlib.transforms import Bbox

from keras_sharenets.rendering import figures


def test_names_cover_neither_each_other_nor_points_with_and_without_names():
    figure = figures.new_figure(5, 4)
    axes = figure.subplots()
    named = [(0.1 * number, 0.5 + 0.02 * (number % 3)) for number in range(1, 9)]
    # At the position of a label.
    nameless = [(x + 0.03, y + 0.03) for x, y in named]
    axes.set(xlim=(0, 1), ylim=(0, 1))
    names = [f"name {number}" for number in range(8)]
    across, up = zip(*named, strict=True)
    figures.name_points(figure, axes, across, up, names, nameless=nameless)
    boxes = {text.get_text(): text.get_window_extent() for text in axes.texts if text.get_text()}
    assert list(boxes) == names
    points = [Bbox.from_bounds(x - 3, y - 3, 6, 6) for x, y in axes.transData.transform([*named, *nameless])]
    everything = [*boxes.values(), *points]
    overlaps = np.array([[one.overlaps(other) for other in everything] for one in boxes.values()])
    assert (overlaps.sum(1) == 1).all()
