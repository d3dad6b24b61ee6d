"""Trains the networks of a table or figure one by one; skips finished runs and resumes interrupted ones."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import os
import pathlib
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from keras_sharenets.folder_lock import FolderInUseError, hold_folder
from keras_sharenets.interruption import Interrupted
from keras_sharenets.timing import in_words
from keras_sharenets.training.papers.entries import DATA, Options
from keras_sharenets.training.recipes.named import differing_fields
from keras_sharenets.training.recipes.recipe import Recipe
from keras_sharenets.training.run.record import RunOptions, read_metrics

if TYPE_CHECKING:
    from keras_sharenets.training.data.dataset import Dataset


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One run.

    Attributes:
        network, options: named network and arguments of its factory.
        data: name of the data set, or a folder.
        recipe: training recipe.
        seed: seed of weights, image order and augmentation.
        multiply_adds: multiply-adds of the network, to estimate the remaining time; 0 if unknown.
    """

    network: str
    options: Options
    data: str
    recipe: Recipe
    seed: int
    multiply_adds: int = 0

    def folder_name(self, limit: int | None) -> str:
        """A folder name with the network, data, recipe, epochs, image limit and seed."""
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
    """Trains the unfinished experiments one by one, grouped by data set.

    Several processes may work in the same folder. A run in progress in another process is skipped and tried again after
    the others, in case that process has died.

    Args:
        experiments: runs to complete.
        output: parent folder, with one folder per run.
        load: function from a name to its data set.
        limit: maximum number of images, evenly spaced, in each split.
        run_options: fields of `RunOptions` other than the seed.
        say: function that is called with progress messages.
        tell: function from a recipe and a data set to arguments for progress output of `fit` and `resume`.

    Returns:
        The folders of all experiments, in training order.

    Raises:
        ValueError: some runs failed (the message names the first; all others were trained), a data set is missing, or
            a folder has a run with other fields of the recipe or other images; nothing is trained in that case.
        Interrupted: a signal was received. The same call continues.
    """
    ordered = sorted(experiments, key=lambda each: list(DATA).index(each.data) if each.data in DATA else len(DATA))
    folders = [output / each.folder_name(limit) for each in ordered]
    for each, folder in zip(ordered, folders, strict=True):
        _check_run(each, folder)
    pending = [pair for pair in zip(ordered, folders, strict=True) if not _is_finished(pair[1])]
    runs = f"{len(ordered)} run{'' if len(ordered) == 1 else 's'}"
    say(f"{runs}, {len(ordered) - len(pending)} already finished; in {output}")
    loaded: dict[str, Dataset] = {}
    clock = _Clock(pending)
    failed: list[str] = []
    waiting, left = list(enumerate(pending, start=1)), []
    while waiting:
        left = []
        for number, (each, folder) in waiting:
            if each.data not in loaded:
                loaded.clear()  # Frees the previous data set.
                loaded[each.data] = _limited(load(each.data), limit)
            epochs = "1 epoch" if each.recipe.epochs == 1 else f"{each.recipe.epochs} epochs"
            say(f"{number} of {len(pending)}: {folder.name} ({epochs}, recipe {each.recipe.name})")
            try:
                accuracy = _train(each, folder, loaded[each.data], run_options or {}, tell)
                outcome = f"test accuracy {accuracy:.2%}{clock.tick(each)}"
            except FolderInUseError as error:
                left.append((number, (each, folder)))
                outcome = str(error).partition(". ")[0]
            except (ValueError, RuntimeError) as error:
                failed.append(f"{folder.name}: {error}")
                outcome = f"failed: {error}{clock.tick(each)}"
            except KeyboardInterrupt as stop:
                number = stop.number if isinstance(stop, Interrupted) else signal.SIGINT
                # Not with `fit --resume`, which resumes a single run, and on all images of the data set.
                raise Interrupted(number, "The same command continues with this run.") from None
            say(f"   {outcome}")
        waiting = left if len(left) < len(waiting) else []
    if left:
        say(f"{len(left)} of {len(pending)} runs are in progress in other processes")
    if failed:
        raise ValueError(f"{len(failed)} of {len(pending)} runs failed; the first: {failed[0]}")
    return folders


def _check_run(each: Experiment, folder: pathlib.Path) -> None:
    """Raises a `ValueError` if the run in a folder has another recipe or other images.

    Its name contains neither changed fields of the recipe nor the whole path of the images. If their former place is
    gone, they have been moved.
    """
    if not (folder / "metrics.json").is_file():
        return
    run = read_metrics(folder / "metrics.json")
    before, recipe = (run.source or {}).get("data", each.data), run.recipe
    if os.path.isdir(before) and os.path.isdir(each.data) and not os.path.samefile(before, each.data):
        raise ValueError(
            f"`data` (={each.data!r}) must be that of the run in {folder} (={before!r}): choose another `--output`."
        )
    for name in differing_fields([recipe, each.recipe]):
        raise ValueError(
            f"`{name}` (={getattr(each.recipe, name)}) must be that of the run in {folder} (={getattr(recipe, name)}): "
            "choose another `--output`."
        )


def _is_finished(folder: pathlib.Path) -> bool:
    return (folder / "metrics.json").is_file() and read_metrics(folder / "metrics.json").state == "finished"


def _train(
    each: Experiment,
    folder: pathlib.Path,
    dataset: Dataset,
    run_options: Mapping[str, object],
    tell: Callable[[Recipe, Dataset], Mapping[str, Any]],
) -> float:
    """Starts or resumes a run; returns its test accuracy."""
    import keras

    from keras_sharenets.training.devices.devices import connect
    from keras_sharenets.training.run.fit import RunExistsError, fit, resume

    told = tell(each.recipe, dataset)
    options = RunOptions(**{**run_options, "seed": each.seed})
    run = None
    # Standard output is reserved for the result.
    with contextlib.redirect_stdout(sys.stderr):
        # Before another process writes its first record, only the lock shows that it owns the folder.
        with hold_folder(folder) if connect(options.strategy).chief else contextlib.nullcontext():
            is_begun = (folder / "metrics.json").is_file()
        with contextlib.suppress(RunExistsError):  # Another process has started it in the meantime.
            if not is_begun:
                more = {"recipe": each.recipe, "options": each.options, "run_options": options}
                run = fit(each.network, dataset, folder, **more, **told)
        run = run or resume(folder, dataset, strategy=options.strategy, **told)
    keras.utils.clear_session()
    gc.collect()
    return run.test_accuracy or 0.0


def _limited(dataset: Dataset, limit: int | None) -> Dataset:
    """The data set with at most `limit` images in each split, as stated in its note."""
    from keras_sharenets.images import evenly_spaced

    if limit is None:
        return dataset
    parts = {name: getattr(dataset, name) for name in ("train", "test")}
    parts = {name: part.part(evenly_spaced(len(part), limit)) for name, part in parts.items()}
    note = f"{dataset.note}; {limit:,} images of either split at most"
    return dataclasses.replace(dataset, **parts, note=note)


class _Clock:
    """Estimates the remaining time, assumed proportional to multiply-adds, images and epochs."""

    def __init__(self, pending: Sequence[tuple[Experiment, pathlib.Path]]) -> None:
        self.left = sum(_work(each) for each, _ in pending)
        self.done = 0.0
        self.start = time.monotonic()

    def tick(self, each: Experiment) -> str:
        """The text to append to the message after a run."""
        self.done += _work(each)
        self.left -= _work(each)
        if not self.left or not self.done:
            return ""
        return f"; about {in_words(self.left / self.done * (time.monotonic() - self.start))} left"


def _work(each: Experiment) -> float:
    images = DATA[each.data].images if each.data in DATA else 1
    return float(each.multiply_adds * each.recipe.epochs * images)
