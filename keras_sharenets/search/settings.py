"""Settings of a search, and their record in its folder."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from keras_sharenets import _checks, files
from keras_sharenets.folder_lock import is_unused
from keras_sharenets.search.budgets import Budget, FileBudget

if TYPE_CHECKING:
    from keras_sharenets.search.sharing import SharingHyperModel
    from keras_sharenets.training.data.dataset import Dataset
    from keras_sharenets.training.data.sources import DataSource
    from keras_sharenets.training.recipes.recipe import Recipe

FILE = "search.json"
TUNERS = ("random", "bayesian", "hyperband")
_NUMBERS = ("trials", "seed", "validation", "halving_worth", "finalists")


@dataclasses.dataclass(frozen=True, eq=False)
class Sharing:
    """A search of sharing in a trained network, in place of a space.

    Attributes:
        network: the network, as the caller named it.
        where: names or patterns of the convolutions that may share; `None` for all.
        images: number of training images that `hypermodel` was given.
        hypermodel: the networks to choose from.
    """

    network: str
    where: tuple[str, ...] | None
    images: int
    hypermodel: SharingHyperModel


@dataclasses.dataclass(frozen=True)
class Search:
    """All settings of a search.

    Attributes:
        folder: folder for all its files.
        space: name of the space; with `sharing` a text for display.
        dataset: data set; the trials do not use its test split.
        tuner: one of `TUNERS`.
        trials: maximum number of trials.
        recipe: recipe of a full training run.
        budget, file_budget: limits on networks and on their files.
        seed: seed of random choices, of the validation split and of every training run.
        validation: fraction of the training split that is held out to compare networks.
        halving_worth: accuracy to trade for half the bytes or half the latency of the int8 file; 0 optimizes accuracy
            alone.
        finalists: number of best trials to compare again before one wins.
        sharing: the trained network of a search of sharing, or `None` for a space.

    Raises:
        ValueError: one of the numbers breaks a rule.
    """

    folder: pathlib.Path
    space: str
    dataset: Dataset
    tuner: str
    trials: int
    recipe: Recipe
    budget: Budget = dataclasses.field(default_factory=Budget)
    file_budget: FileBudget = dataclasses.field(default_factory=FileBudget)
    seed: int = 0
    validation: float = 0.2
    halving_worth: float = 0.0
    finalists: int = 1
    sharing: Sharing | None = None

    def __post_init__(self) -> None:
        check_numbers(**{name: getattr(self, name) for name in _NUMBERS})


def check_numbers(*, trials: int, seed: int, validation: float, halving_worth: float, finalists: int) -> None:
    """Raises a `ValueError` if a number of a `Search` breaks a rule."""
    _checks.seed("seed", seed, higher=2)  # The tuner uses the next seed, and the final round the next two.
    _checks.positive("trials", trials)
    _checks.positive("finalists", finalists)
    _checks.above_zero("validation", validation)
    _checks.rate("validation", validation)
    _checks.rate("halving_worth", halving_worth)


def record(search: Search, source: DataSource) -> dict[str, Any]:
    """The settings of a search and its data source as plain data, for `search.json`."""
    summary = {name: getattr(search.dataset, name) for name in ("name", "note", "class_names", "shape")}
    splits = {"train": len(search.dataset.train), "test": len(search.dataset.test)}
    settings = {
        **{name: getattr(search, name) for name in ("space", "tuner", *_NUMBERS)},
        **dataclasses.asdict(search.budget),
        **dataclasses.asdict(search.file_budget),
        "recipe": dataclasses.asdict(search.recipe),
        "data": summary | splits,
        "checksums": dict(search.dataset.checksums),
        "source": source.to_record(),
        "sharing": search.sharing and {name: getattr(search.sharing, name) for name in ("network", "where", "images")},
    }
    return json.loads(json.dumps(settings))


def claim_folder(folder: pathlib.Path, settings: Mapping[str, Any]) -> None:
    """Writes the record of a search into its folder, or checks it against an existing record.

    Raises:
        ValueError: the folder contains another search, or other files.
    """
    path = folder / FILE
    if not path.is_file():
        # Processes of one search may start at the same time.
        if not is_unused(folder):
            raise ValueError(f"`output` (={folder}) must be an empty folder or the folder of a search.")
        files.write_json(path, settings)
        return
    before = read(folder)
    changed = _changed_split(settings, before)
    if changed is not None:
        raise ValueError(
            f"The images of the {changed} split of {settings['data']['name']} are not those that the search in "
            f"{folder} was started with: some have changed, have other labels, or are in another order. Use another "
            "`--output` to start another search."
        )
    for name, given, recorded in _differences(settings, before):
        raise ValueError(
            f"`{name}` (={given}) must match the search in {folder} (={recorded}). Use another `--output` to start "
            "another search."
        )


def forget_unbegun(folder: pathlib.Path, settings: Mapping[str, Any]) -> None:
    """Removes the record and the measurements of another search that has no trials yet.

    Limits on files may turn out to allow no network; with other limits, the same folder can be used again. Only the
    process that holds the folder lock may call this.
    """
    path = folder / FILE
    begun = (folder / "oracle.json").exists() or any(folder.glob("*/trial.json"))
    if not path.is_file() or begun:
        return
    before = read(folder)
    if _changed_split(settings, before) is not None or any(_differences(settings, before)):
        shutil.rmtree(folder / "estimates", ignore_errors=True)
        path.unlink()


def _changed_split(settings: Mapping[str, Any], before: Mapping[str, Any]) -> str | None:
    from keras_sharenets.training.data.dataset import changed_split

    return changed_split(before.get("checksums", {}), settings.get("checksums", {}))


def _differences(settings: Mapping[str, Any], before: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Name, value and recorded value of each setting that differs from the record."""
    from keras_sharenets.training.recipes.recipe import OPTIONS

    # Older records lack the fields that recipes have got since. JSON has no tuples.
    defaults: dict[str, Any] = {field.name: [] if field.default == () else field.default for field in OPTIONS}
    given, recorded = ({**defaults, **values, **values["recipe"]} for values in (settings, before))
    for name in given:
        if name not in ("recipe", "source", "checksums") and given[name] != recorded.get(name):
            yield name, given[name], recorded.get(name)


def read(folder: pathlib.Path) -> dict[str, Any]:
    """The record in the folder of a search; a `ValueError` if there is none."""
    path = folder / FILE
    if not path.is_file():
        raise ValueError(f"There is no {path}: {folder} contains no search.")
    return files.read_json(path)
