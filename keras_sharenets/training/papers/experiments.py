"""Trains what a table or figure of a paper needs, run after run; finished runs are skipped, others resumed."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import pathlib
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from keras_sharenets.folder_lock import FolderInUseError, hold_folder
from keras_sharenets.timing import in_words
from keras_sharenets.training.papers.entries import DATA, Options
from keras_sharenets.training.recipes.recipe import Recipe
from keras_sharenets.training.run.record import RunOptions, read_metrics

if TYPE_CHECKING:
    from keras_sharenets.training.data.dataset import Dataset


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One run.

    Attributes:
        network, options: the named network and arguments of its factory.
        data: the name of the data set, or a folder.
        recipe: how it is trained.
        seed: of weights, order and augmentation.
        multiply_adds: those of the network, by which the time left is estimated; 0 if they are not known.
    """

    network: str
    options: Options
    data: str
    recipe: Recipe
    seed: int
    multiply_adds: int = 0

    def folder_name(self, limit: int | None) -> str:
        """A name that says what is trained, on how many images at most."""
        data = pathlib.PurePath(self.data).name
        recipe = self.recipe.name
        options = [f"{name}{value}" for name, value in self.options.items()]
        named_so = data.replace("_", "-") in recipe
        images = [] if limit is None else [f"{limit}images"]
        parts = [self.network, *options, *([] if named_so else [data]), recipe, f"{self.recipe.epochs}epochs", *images]
        return "_".join([*parts, f"seed{self.seed}"]).replace(" ", "")


def train_all(
    experiments: Iterable[Experiment],
    output: pathlib.Path,
    load: Callable[[str], Dataset],
    *,
    limit: int | None = None,
    run_options: Mapping[str, object] | None = None,
    say: Callable[[str], None] = lambda text: None,
    tell: Callable[[Recipe, Dataset], Mapping[str, Any]] = lambda recipe, dataset: {"verbose": 2},
) -> list[pathlib.Path]:
    """Trains what is missing, data set by data set, one run after the other.

    Several processes may do so in one folder at the same time. A run that another one trains is left to it, and tried
    again after the others: that process may have died.

    Args:
        experiments: what is to be there.
        output: gets one folder a run.
        load: gives the data set of a name.
        limit: train and test with so many images at most, evenly spread over either split.
        run_options: fields of `RunOptions` beside the seed.
        say: takes lines about what goes on.
        tell: gives the arguments of `fit` and `resume` by which a training with a recipe tells of itself.

    Returns:
        The folders of all experiments, in the order in which they are trained.

    Raises:
        ValueError: some runs failed, of which the message names the first; all others were trained. Or a data set is
            not there.
    """
    ordered = sorted(experiments, key=lambda each: list(DATA).index(each.data) if each.data in DATA else len(DATA))
    folders = [output / each.folder_name(limit) for each in ordered]
    pending = [pair for pair in zip(ordered, folders, strict=True) if not _is_finished(pair[1])]
    runs = f"{len(ordered)} run{'' if len(ordered) == 1 else 's'}"
    say(f"{runs}, {len(ordered) - len(pending)} of them finished before; in {output}")
    loaded: dict[str, Dataset] = {}
    clock = _Clock(pending)
    failed: list[str] = []
    waiting, left = list(enumerate(pending, start=1)), []
    while waiting:
        left = []
        for number, (each, folder) in waiting:
            if each.data not in loaded:
                loaded.clear()  # Not needed beside those of this one.
                loaded[each.data] = _limited(load(each.data), limit)
            say(f"{number} of {len(pending)}: {folder.name} ({each.recipe.epochs} epochs, recipe {each.recipe.name})")
            try:
                accuracy = _train(each, folder, loaded[each.data], run_options or {}, tell)
                outcome = f"test accuracy {accuracy:.2%}{clock.tick(each)}"
            except FolderInUseError as error:
                left.append((number, (each, folder)))
                outcome = str(error).partition(". ")[0]
            except (ValueError, RuntimeError) as error:
                failed.append(f"{folder.name}: {error}")
                outcome = f"failed: {error}{clock.tick(each)}"
            say(f"   {outcome}")
        waiting = left if len(left) < len(waiting) else []
    if left:
        say(f"{len(left)} of {len(pending)} runs are left to other processes")
    if failed:
        raise ValueError(f"{len(failed)} of {len(pending)} runs failed; the first: {failed[0]}")
    return folders


def _is_finished(folder: pathlib.Path) -> bool:
    return (folder / "metrics.json").is_file() and read_metrics(folder / "metrics.json").state == "finished"


def _train(
    each: Experiment,
    folder: pathlib.Path,
    dataset: Dataset,
    run_options: Mapping[str, object],
    tell: Callable[[Recipe, Dataset], Mapping[str, Any]],
) -> float:
    """Begins or resumes a run; its test accuracy."""
    import keras

    from keras_sharenets.training.devices.devices import connect
    from keras_sharenets.training.run.fit import RunExistsError, fit, resume

    told = tell(each.recipe, dataset)
    options = RunOptions(**{**run_options, "seed": each.seed})
    run = None
    # Standard output is for the answer.
    with contextlib.redirect_stdout(sys.stderr):
        # Until another process has written its first record, the lock alone says that it is there.
        with hold_folder(folder) if connect(options.strategy).chief else contextlib.nullcontext():
            is_begun = (folder / "metrics.json").is_file()
        with contextlib.suppress(RunExistsError):  # Begun by another process since.
            if not is_begun:
                more = {"recipe": each.recipe, "options": each.options, "run_options": options}
                run = fit(each.network, dataset, folder, **more, **told)
        run = run or resume(folder, dataset, strategy=options.strategy, **told)
    keras.utils.clear_session()
    gc.collect()
    return run.test_accuracy or 0.0


def _limited(dataset: Dataset, limit: int | None) -> Dataset:
    """The data set with so many images at most in either split; its note says so."""
    from keras_sharenets.images import evenly_spaced

    if limit is None:
        return dataset
    parts = {name: getattr(dataset, name) for name in ("train", "test")}
    parts = {name: part.part(evenly_spaced(len(part), limit)) for name, part in parts.items()}
    note = f"{dataset.note}; {limit:,} images of either split at most"
    return dataclasses.replace(dataset, **parts, note=note)


class _Clock:
    """Says how much time is left, if it goes with multiply-adds, images and epochs."""

    def __init__(self, pending: Sequence[tuple[Experiment, pathlib.Path]]) -> None:
        self.left = sum(_work(each) for each, _ in pending)
        self.done = 0.0
        self.start = time.monotonic()

    def tick(self, each: Experiment) -> str:
        """The end of a line, after a run."""
        self.done += _work(each)
        self.left -= _work(each)
        if not self.left or not self.done:
            return ""
        return f"; about {in_words(self.left / self.done * (time.monotonic() - self.start))} left"


def _work(each: Experiment) -> float:
    images = DATA[each.data].images if each.data in DATA else 1
    return float(each.multiply_adds * each.recipe.epochs * images)
