"""Published runs: which of them are one row of a table, and what their seeds say together."""

import dataclasses
import functools
import json
import pathlib
import statistics

from keras_sharenets.analysis.counting import count_parameters
from keras_sharenets.models.registry import VARIANTS, create_model, find_variant
from keras_sharenets.training.reports.paper_results import COMPARISONS, RESULTS
from keras_sharenets.training.run.record import Run, read_metrics


@dataclasses.dataclass(frozen=True)
class Published:
    """A finished run in a folder.

    Attributes:
        folder: path.
        run: `Run`.
        int8: dict, what `export/export.json` says about the int8 file; `None` if there is none.
    """

    folder: pathlib.Path
    run: Run
    int8: dict | None


@dataclasses.dataclass(frozen=True)
class Row:
    """`Published` runs that differ in their seeds only, in the order of these."""

    published: tuple[Published, ...]

    @property
    def run(self):
        """The `Run` of the first seed: but for accuracies it stands for all."""
        return self.published[0].run

    @property
    def accuracies(self):
        """A dict, seed to test accuracy after the last epoch."""
        return {one.run.seed: one.run.test_accuracy for one in self.published}

    @property
    def mean(self):
        """The mean of the accuracies."""
        return statistics.fmean(self.accuracies.values())

    @functools.cached_property
    def stored_parameters(self):
        """The trainable parameters, each shared tensor once: of the network that the record describes, built anew."""
        data, recipe = self.run.data, self.run.recipe
        *sides, channels = data["shape"]
        sides = [recipe.crop_size] * 2 if recipe.crop_size else sides
        classes = len(data["class_names"])
        options = self.run.options
        return count_parameters(
            create_model(self.run.model, input_shape=(*sides, channels), num_classes=classes, **options)
        )

    @property
    def paper(self):
        """The `PaperResult` of the network; `None` without one, or if the network was given options."""
        return None if self.run.options else RESULTS.get(self.run.model)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two rows that a paper compares, and by how much the first is ahead here.

    Attributes:
        first, second: `Row`; the paper puts the first above the second.
        differences: dict, each seed that both have to the difference of the accuracies in percentage points.
    """

    first: Row
    second: Row
    differences: dict

    @property
    def mean(self):
        """The mean of the differences, which is the difference of the means over these seeds."""
        return statistics.fmean(self.differences.values())


def read_published(folder):
    """The `Published` run in a folder.

    Raises:
        ValueError: there is no run, or none that can be read, or it is not finished, or its `export.json` is broken.
    """
    folder = pathlib.Path(folder)
    run = read_metrics(folder / "metrics.json")
    if run.test_accuracy is None:
        raise ValueError(f"The run in {folder} is not finished: it is {run.state} and has no test accuracy to quote.")
    return Published(folder, run, _int8_file(folder / "export" / "export.json"))


def _int8_file(path):
    if not path.is_file():
        return None
    try:
        entries = {entry["form"]: entry for entry in json.loads(path.read_text())["files"]}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not what `export` writes: {type(error).__name__} {error}") from error
    return entries.get("int8")


def make_rows(published):
    """Puts `Published` runs of one network, data set and recipe together.

    Returns:
        A list of `Row`, in the order of the papers' tables.

    Raises:
        ValueError: two runs of a row have the same seed, or a network is unknown.
    """
    groups = {}
    for one in sorted(published, key=lambda one: (one.run.seed, one.folder)):
        run = one.run
        group = groups.setdefault((run.model, str(run.options), run.data["name"], run.recipe), [])
        if group and group[-1].run.seed == run.seed:
            raise ValueError(f"{group[-1].folder} and {one.folder} are the same run: {run.model} with seed {run.seed}.")
        group.append(one)
    return sorted(map(Row, map(tuple, groups.values())), key=_place)


def _place(row):
    find_variant(row.run.model)
    return list(VARIANTS).index(row.run.model), str(row.published[0].folder)


def compare(rows):
    """The comparisons of the papers that these rows allow: both networks as named, on one data set with one recipe.

    Returns:
        A list of `Comparison`.
    """
    return [
        Comparison(first, second, _differences(first, second))
        for names in COMPARISONS
        for first in rows
        for second in rows
        if (first.run.model, second.run.model) == names and _alike(first.run, second.run)
    ]


def _alike(first, second):
    conditions = [(run.data["name"], run.recipe) for run in (first, second)]
    return conditions[0] == conditions[1] and not (first.options or second.options)


def _differences(first, second):
    ours, theirs = first.accuracies, second.accuracies
    # Accuracies are float32: without rounding, equal ones might differ.
    return {seed: round(100 * (ours[seed] - theirs[seed]), 4) for seed in ours if seed in theirs}


def direction(differences):
    """What the differences of the seeds, winner of the paper minus the other, say about its comparison.

    >>> direction([0.4, 0.1]), direction([-0.4, -0.1]), direction([0.4, -0.1])
    ('as in the paper', 'against the paper', 'within the spread of the seeds')
    >>> direction([0.4]), direction([])
    ('as in the paper, but one seed', 'no seed in common')
    """
    if not differences:
        return "no seed in common"
    if all(difference > 0 for difference in differences):
        words = "as in the paper"
    elif all(difference < 0 for difference in differences):
        words = "against the paper"
    else:
        words = "within the spread of the seeds" if len(differences) > 1 else "no difference"
    return words if len(differences) > 1 else f"{words}, but one seed"
