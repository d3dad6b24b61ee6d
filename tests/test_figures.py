"""Common code of figures: labels next to their points that cover nothing."""

import io
import warnings

import numpy as np
import PIL.Image
import pytest
from harness import slow_after
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from keras_sharenets.rendering import figures
from keras_sharenets.training.recipes.named import find_recipe
from keras_sharenets.training.reports import plots
from keras_sharenets.training.reports.plots import (
    draw_comparison,
    draw_comparison_parts,
    draw_confusion,
    draw_loss_and_accuracy,
    show_predictions,
)
from keras_sharenets.training.run.record import Epoch, Run


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


def test_long_names_of_crowded_points_are_inside_and_cover_nothing():
    """Names that are free for the first points leave no place for the last ones, unless they move again."""
    figure = figures.new_figure(9, 6)
    axes = figure.subplots()
    axes.set(xlim=(10, 1000), ylim=(0, 1), xscale="log")
    across, up = (14, 15, 16, 19, 20, 21, 22), (0.55, 0.5, 0.58, 0.5, 0.55, 0.45, 0.53)
    names = [f"network_{number} width=(24, 32, 64) blocks_per_stage={number}, 30 epochs" for number in range(7)]
    figures.name_points(figure, axes, across, up, names)
    shown = [text for text in axes.texts if text.get_text()]
    assert [text.get_text().replace("\n", " ") for text in shown] == names
    assert {text.get_text().splitlines()[0].partition(" ")[2] for text in shown} == {"width=(24, 32, 64)"}
    boxes = [text.get_window_extent() for text in shown]
    assert all(axes.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)
    assert all(axes.bbox.y0 <= box.y0 and box.y1 <= axes.bbox.y1 for box in boxes)
    points = [
        Bbox.from_bounds(x - 3, y - 3, 6, 6) for x, y in axes.transData.transform([*zip(across, up, strict=True)])
    ]
    overlaps = np.array([[one.overlaps(other) for other in [*boxes, *points]] for one in boxes])
    assert (overlaps.sum(1) == 1).all()


@pytest.mark.parametrize("nameless", [[], [(0.5, 0.5)]])
def test_no_names(nameless):
    figure = figures.new_figure(4, 3)
    axes = figure.subplots()
    figures.name_points(figure, axes, [], [], [], nameless=nameless)
    assert not axes.texts


def test_dollar_signs_in_names_are_not_formulas():
    figure = figures.new_figure(3, 2, "b$_$")
    axes = figure.subplots()
    axes.plot([1, 2], [1, 2], label="a$b$")
    axes.set_xticks([1, 2], ["US$_to_CA$", "b$_$"])
    figures.name_lines(figure, axes)
    figures.png(figure)
    shown = {text.get_text(): text.get_parse_math() for text in figure.findobj(Text) if "$" in text.get_text()}
    assert shown == dict.fromkeys(("b$_$", "a$b$", "US$_to_CA$"), False)
    assert draw_confusion(np.eye(2, dtype=int), "$^$")


def test_long_and_foreign_class_names(monkeypatch):
    """No warning about missing characters, as it raises an error here."""
    monkeypatch.setattr(figures, "FALLBACKS", ())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for names, expected in (
            (["a" * 300, "b" * 24], [f"0 {'a' * 23}…", f"1 {'b' * 24}"]),
            (["\u732b", "bee"], ["0", "1 bee"]),
        ):
            shown = figures.name_classes(names, 24)
            assert shown == expected
            figure = figures.new_figure(3, 2)
            figure.subplots().set_xticks([0, 1], shown)
            figures.png(figure)
        # A name in a sentence, such as that of a data set in a title.
        figure = figures.new_figure(3, 2, "net on \u732b, \u00e9t\u00e9")
        figures.png(figure)
        assert "net on ?, \u00e9t\u00e9" in {text.get_text() for text in figure.findobj(Text)}
        # A character that the font of matplotlib lacks, and another one has.
        monkeypatch.setattr(figures, "FALLBACKS", ("STIXGeneral",))
        assert figures.name_classes(["\u1d81", "bee"], 6) == ["\u1d81", "bee"]
        figures.png(figures.new_figure(1, 1, "\u1d81"))


@pytest.mark.parametrize(("count", "ticks"), [(1, [1]), (3, [1, 2, 3])])
def test_epochs_are_integers(count, ticks):
    axes = figures.new_figure(5, 4).subplots()
    plots._epochs(axes, count)
    assert [tick for tick in axes.get_xticks() if 0.5 < tick < count + 0.5] == ticks


def test_images_keep_their_pixels():
    """Gray ones, too; small ones are enlarged without blur."""
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, shape) for shape in ((8, 8, 1), (40, 80, 3), (300, 600, 3))]
    probabilities = np.array([[0.25, 0.75], [0.9, 0.1], [0.2, 0.8]])
    shown = show_predictions(images, np.array([1, 1, 1]), probabilities, ["a", "b"])
    assert [(each.text, each.wrong) for each in shown] == [("b 75%", False), ("a 90% (is b)", True), ("b 80%", False)]
    small, wide, large = (np.asarray(PIL.Image.open(io.BytesIO(each.data))) for each in shown)
    np.testing.assert_array_equal(small, np.kron(images[0][..., 0], np.ones((14, 14), int)))
    np.testing.assert_array_equal(wide, images[1])
    np.testing.assert_array_equal(large, images[2])


@pytest.mark.parametrize("loss", slow_after(1, [float("nan"), 0.0]))
def test_runs_without_finite_losses_are_drawn(loss):
    data = {"name": "cifar10", "note": "", "class_names": ["a", "b"], "shape": [8, 8, 3]}
    epochs = (Epoch(1, loss, 0.5, None, 0.5, 0.1, 1.0),)
    given = {"options": {}, "data": data, "backend": "tensorflow", "versions": {}, "epochs": epochs}
    run = Run(model="resnet_8", recipe=find_recipe("fast"), **given)
    assert all(draw_loss_and_accuracy(run))
    assert draw_comparison({"run": run})
    assert len(draw_comparison_parts({"run": run})) == 2
