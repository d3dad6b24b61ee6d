"""The search: KerasTuner asks for trials, each is trained, exported, measured and written down."""

from __future__ import annotations

import dataclasses
import math
import os
import time
import warnings
from collections.abc import Callable
from typing import Any

import grpc
import keras_tuner

from keras_sharenets import _checks
from keras_sharenets.search import trials
from keras_sharenets.search.budgets import FileBudget
from keras_sharenets.search.hypermodel import SpaceHyperModel
from keras_sharenets.search.measuring import FileLimits, writes_files
from keras_sharenets.search.oracles import RepeatedFailuresError, make_oracle, parts_of_training
from keras_sharenets.search.settings import Search
from keras_sharenets.search.spaces import find_space
from keras_sharenets.search.training import hold_out, starting_network, train_and_measure
from keras_sharenets.training.data.batches import input_shape
from keras_sharenets.training.recipes.recipe import BATCH_CHANGES, Recipe

# How long a process waits before it asks for a trial, so that one that is told to wait does not ask all the time.
_PAUSE = 0.2


def process_role() -> str:
    """What KerasTuner's variables make of this process: `"alone"`, `"chief"` or `"worker"`.

    Raises:
        ValueError: some of them are set and others not.
    """
    names = ("KERASTUNER_TUNER_ID", "KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT")
    missing = [name for name in names if not os.environ.get(name)]
    if len(missing) == len(names):
        return "alone"
    if missing:
        raise ValueError(f"`{missing[0]}` must be set too: of {', '.join(names)} all or none.")
    return "chief" if "chief" in os.environ[names[0]] else "worker"


class _Tuner(keras_tuner.Tuner):
    """KerasTuner's loop over trials, with this search's way to run one."""

    def __init__(self, search: Search, tell: Callable[[trials.Result], object]):
        self.search_settings = search
        self.tell = tell
        self.failure = ""
        self.held = hold_out(search.dataset, search.validation, search.seed)
        limits = None
        if search.sharing is None and search.file_budget != FileBudget():
            # An interrupted search of an older version goes on with what it has measured.
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
            else search.sharing.hypermodel
        )
        oracle = make_oracle(
            search.tuner,
            trials=search.trials,
            epochs=search.recipe.epochs,
            seed=search.seed,
            path=search.folder / "oracle.json",
            network=hypermodel.point_of_values,
        )
        super().__init__(oracle, hypermodel, directory=search.folder, project_name="keras_tuner")
        if self._has_oracle() and oracle.path.is_file():
            self.oracle.reload()

    def _has_oracle(self) -> bool:
        """Whether the oracle lives in this process; a worker's lives with the chief."""
        return isinstance(self.oracle, keras_tuner.Oracle)

    def save(self):
        # The oracle is all that there is to keep. Without files of its own, KerasTuner reloads nothing by itself.
        if self._has_oracle():
            self.oracle.save()

    def pre_create_trial(self):
        time.sleep(_PAUSE)

    def run_trial(self, trial, **options):
        search, draft = self.search_settings, self._draft(trial)
        written = search.folder / draft.id / trials.FILE
        if written.is_file():
            known = trials.read(written)
            # Written down, but killed before the oracle knew.
            if known.state == "finished" and known.settings == draft.settings:
                return known.score
        self.tell(draft)
        try:
            result = self._run(draft)
        except OSError as error:
            # A full disk: no other network would fare better, and the trial is not lost.
            raise keras_tuner.errors.FatalValueError(f"A file cannot be written: {error}") from error
        except keras_tuner.errors.FailedTrialError as error:
            # Raised further, it would be shown with its traceback. To the oracle no number is a failed trial too.
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
        """What is known of a trial before it is run, in the state `"running"`."""
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


def _sizes(search: Search) -> dict[str, Any]:
    """What the data give to a network."""
    shape = input_shape(search.dataset, search.recipe)
    return {"input_shape": shape, "num_classes": len(search.dataset.class_names)}


def check(search: Search) -> None:
    """Raises a `ValueError` where the recipe or the backend does not suit a search, or the budget has no network."""
    if search.recipe.schedule == "plateau":
        raise ValueError("`schedule` (='plateau') watches one long training: a search needs another, 'cosine' for one.")
    for name in (*BATCH_CHANGES, "ema", "early_stopping", "accumulate"):
        if (value := getattr(search.recipe, name)) != getattr(Recipe, name):
            raise ValueError(f"`{name}` (={value}) is for `fit`: a search trains without it.")
    wanted = {**dataclasses.asdict(search.file_budget), "halving_worth": search.halving_worth or None}
    for name, value in wanted.items():
        if value is not None and not writes_files():
            raise ValueError(f"`{name}` (={value}) is about int8 files, which need the TensorFlow backend.")
    if search.sharing is None:
        SpaceHyperModel(search.space, budget=search.budget, **_sizes(search))


def run(search: Search, tell: Callable[[trials.Result], object]) -> None:
    """Runs all trials that are left, or this process's share of them; with a chief it waits until all are run.

    Args:
        search: what to do.
        tell: function that is called with a `Result` when a trial begins (its state is `"running"`) and when it ends.

    Raises:
        ValueError: an argument breaks a rule, no network is within the budget, the data cannot be read, a file cannot
            be written, or three trials in a row failed.
        OSError: the chief does not answer.
    """
    check(search)
    tuner = _Tuner(search, tell)
    try:
        with warnings.catch_warnings():
            # The score of a failed trial is no number.
            warnings.filterwarnings("ignore", "All-NaN", RuntimeWarning)
            tuner.search(verbose=0)
    except grpc.RpcError as error:
        raise OSError(f"The chief does not answer as it should: {error.details()}") from error
    except RepeatedFailuresError as error:
        raise ValueError(f"Three trials in a row failed, the last one with {tuner.failure}") from error
