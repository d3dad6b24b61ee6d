"""The search: KerasTuner proposes trials; each is trained, exported, measured and recorded."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc
import keras_tuner

from keras_sharenets import _checks
from keras_sharenets.search import trials
from keras_sharenets.search.budgets import FileBudget
from keras_sharenets.search.hypermodel import SpaceHyperModel
from keras_sharenets.search.measuring import FileLimits, shared_file_bytes, writes_files
from keras_sharenets.search.oracles import RepeatedFailuresError, make_oracle, parts_of_training
from keras_sharenets.search.settings import Search
from keras_sharenets.search.spaces import find_space
from keras_sharenets.search.training import hold_out, starting_network, train_and_measure
from keras_sharenets.training.data.batches import input_shape
from keras_sharenets.training.recipes.recipe import BATCH_CHANGES, Recipe

if TYPE_CHECKING:
    from keras_sharenets.search.sharing import SharingHyperModel
    from keras_sharenets.training.data.dataset import Dataset

# Seconds between two requests for a trial, so that a waiting worker does not poll without pause.
_PAUSE = 0.2


def process_role() -> str:
    """The role that KerasTuner's environment variables give this process: `"alone"`, `"chief"` or `"worker"`.

    Raises:
        ValueError: only some of the variables are set.
    """
    names = ("KERASTUNER_TUNER_ID", "KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT")
    missing = [name for name in names if not os.environ.get(name)]
    if len(missing) == len(names):
        return "alone"
    if missing:
        raise ValueError(f"`{missing[0]}` must be set too: set all or none of {', '.join(names)}.")
    return "chief" if "chief" in os.environ[names[0]] else "worker"


class _Tuner(keras_tuner.Tuner):
    """KerasTuner's loop over trials; `run_trial` runs a trial of this search."""

    def __init__(self, search: Search, tell: Callable[[trials.Result], object]):
        self.search_settings = search
        self.tell = tell
        self.failure = ""
        self.held = hold_out(search.dataset, search.validation, search.seed)
        limits = None
        if search.sharing is None and search.file_budget != FileBudget():
            # A search that an older version started keeps its measurements here.
            old = search.folder / "foreseen"
            limits = FileLimits(
                find_space(search.space),
                budget=search.file_budget,
                dataset=self.held,
                recipe=search.recipe,
                folder=old if old.is_dir() else search.folder / "estimates",
            )
        hypermodel = (
            SpaceHyperModel(search.space, budget=search.budget, violated_limits=limits, **_sizes(search))
            if search.sharing is None
            else _sharing(search, self.held)
        )
        oracle = make_oracle(
            search.tuner,
            trials=search.trials,
            epochs=search.recipe.epochs,
            seed=search.seed,
            path=search.folder / "oracle.json",
            network=hypermodel.point,
        )
        super().__init__(oracle, hypermodel, directory=search.folder, project_name="keras_tuner")
        if self._has_oracle() and oracle.path.is_file():
            self.oracle.reload()

    def _has_oracle(self) -> bool:
        """Whether the oracle is in this process; a worker's oracle is in the chief process."""
        return isinstance(self.oracle, keras_tuner.Oracle)

    def save(self):
        # The oracle is the only state. KerasTuner writes no files here, so it reloads nothing by itself.
        if self._has_oracle():
            self.oracle.save()

    def pre_create_trial(self):
        time.sleep(_PAUSE)

    def run_trial(self, trial, **options):
        search, draft = self.search_settings, self._draft(trial)
        written = search.folder / draft.id / trials.FILE
        if written.is_file():
            known = trials.read(written)
            # The trial was recorded, but the process was killed before the oracle was updated.
            if known.state == "finished" and known.settings == draft.settings:
                return known.score
        self.tell(draft)
        try:
            result = self._run(draft)
        except OSError as error:
            # For example a full disk: other trials would fail too. End the search; this trial is repeated on resume.
            raise keras_tuner.errors.FatalValueError(f"Cannot write a file: {error}") from error
        except keras_tuner.errors.FailedTrialError as error:
            # Re-raising would print a traceback. NaN marks the trial as failed for the oracle, too.
            self._fail(draft, str(error))
            return math.nan
        except keras_tuner.errors.FatalError:
            raise
        except Exception as error:
            self._fail(draft, f"{type(error).__name__}: {error}")
            raise
        trials.write(result, search.folder)
        self.tell(result)
        return result.score

    def _run(self, draft: trials.Result) -> trials.Result:
        search, started = self.search_settings, time.perf_counter()
        network, first_epoch = starting_network(search, draft, self.held)
        accuracy, costs = train_and_measure(
            network,
            search.folder / draft.id,
            search=search,
            dataset=self.held,
            held=self.held,
            first_epoch=first_epoch,
            last_epoch=draft.epochs,
        )
        halvings = 0.0
        if search.halving_worth:
            halvings = math.log2(_checks.known("int8_bytes", costs.int8_bytes))
            halvings += math.log2(_checks.known("latency_ms", costs.latency_ms))
        return dataclasses.replace(
            draft,
            state="finished",
            accuracy=accuracy,
            score=accuracy - search.halving_worth * halvings,
            within_budget=search.file_budget.allows(costs),
            seconds=time.perf_counter() - started,
            **dataclasses.asdict(costs),
        )

    def _fail(self, draft: trials.Result, reason: str) -> None:
        self.failure = reason
        result = dataclasses.replace(draft, state="failed", reason=reason)
        trials.write(result, self.search_settings.folder)
        self.tell(result)

    def _draft(self, trial) -> trials.Result:
        """The record of a trial before it runs, in the state `"running"`."""
        search, settings = self.search_settings, dict(trial.hyperparameters.values)
        name, arguments, counts = self.hypermodel.describe(trial.hyperparameters)
        parts = parts_of_training(search.tuner, search.trials, search.recipe.epochs)
        return trials.Result(
            id=trial.trial_id,
            state="running",
            name=name,
            arguments=arguments,
            parameters=counts.stored_parameters,
            multiply_adds=counts.multiply_adds,
            epochs=math.ceil(search.recipe.epochs * settings.get("tuner/epochs", parts) / parts),
            continues=settings.get("tuner/trial_id"),
            settings=settings,
            worker=self.tuner_id,
        )


def _sharing(search: Search, held: Dataset) -> SharingHyperModel:
    """The networks of a search of sharing, within the limit on their files."""
    assert search.sharing is not None
    limit = search.file_budget.max_tflite_bytes
    if limit is None:
        return search.sharing.hypermodel
    file_bytes = functools.partial(shared_file_bytes, dataset=held, folder=search.folder / "estimates")
    return search.sharing.hypermodel.limited(limit, file_bytes)


def _sizes(search: Search) -> dict[str, Any]:
    """The arguments of a network that the data set determines."""
    shape = input_shape(search.dataset, search.recipe)
    return {"input_shape": shape, "num_classes": len(search.dataset.class_names)}


def check(search: Search) -> None:
    """Raises a `ValueError` if the recipe or the backend does not support a search, or the budget allows no network."""
    if search.recipe.schedule == "plateau":
        raise ValueError("`schedule` (='plateau') is for `fit` only: choose another for a search, such as 'cosine'.")
    for name in (*BATCH_CHANGES, "ema", "early_stopping", "accumulate"):
        if (value := getattr(search.recipe, name)) != getattr(Recipe, name):
            raise ValueError(f"`{name}` (={value}) is for `fit` only: a search does not support it.")
    wanted = {**dataclasses.asdict(search.file_budget), "halving_worth": search.halving_worth or None}
    for name, value in wanted.items():
        if value is not None and not writes_files():
            raise ValueError(f"`{name}` (={value}) applies to int8 files, which need the TensorFlow backend.")
    if search.sharing is None:
        SpaceHyperModel(search.space, budget=search.budget, **_sizes(search))


def run(search: Search, tell: Callable[[trials.Result], object]) -> None:
    """Runs all remaining trials, or this worker's part of them; a chief waits until all have ended.

    Args:
        search: settings of the search.
        tell: function that is called with a `Result` when a trial starts (state `"running"`) and when it ends.

    Raises:
        ValueError: an argument breaks a rule, no network is within the budget, the data cannot be read, a file cannot
            be written, or three trials in a row failed.
        OSError: the chief does not answer.
    """
    check(search)
    tuner = _Tuner(search, tell)
    try:
        with warnings.catch_warnings():
            # The score of a failed trial is NaN.
            warnings.filterwarnings("ignore", "All-NaN", RuntimeWarning)
            tuner.search(verbose=0)
    except grpc.RpcError as error:
        raise OSError(f"The chief does not answer correctly: {error.details()}") from error
    except RepeatedFailuresError as error:
        raise ValueError(f"Three trials in a row failed. The last error: {tuner.failure}") from error
