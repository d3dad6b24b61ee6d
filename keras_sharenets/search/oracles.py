"""KerasTuner's oracles, saved atomically in one file, so that a killed process never leaves an inconsistent state.

KerasTuner itself overwrites a file for the oracle and one for each trial, one after the other. If it is killed in
between, it loses a trial that it has counted, and a truncated file makes the search impossible to resume.
"""

from __future__ import annotations

import itertools
import json
import math
import pathlib
from collections.abc import Callable
from typing import Any

import keras_tuner
from keras_tuner.engine.trial import Trial

from keras_sharenets import _checks, files
from keras_sharenets.models.registry import RENAMED
from keras_sharenets.search.settings import TUNERS

SCORE = "score"
_FACTOR = 3
# After this many draws of networks that were tried before, the space counts as exhausted.
_COLLISIONS = 200


class RepeatedFailuresError(Exception):
    """Several trials in a row failed; the message is that of the last one."""


class _OneFile(keras_tuner.Oracle):
    """Makes an oracle save its state with all trials atomically to `path`, and propose no network twice."""

    path: pathlib.Path
    network: Callable[[keras_tuner.HyperParameters], dict[str, Any]]

    def _compute_values_hash(self, values):
        # Different hyperparameters can describe the same network, which would reach the same accuracy.
        parameters = keras_tuner.HyperParameters()
        parameters.values = dict(values)
        return super()._compute_values_hash(self.network(parameters))

    def get_state(self):
        return {**super().get_state(), "trials": [trial.get_state() for trial in self.trials.values()]}

    def set_state(self, state):
        trials = map(Trial.from_state, state["trials"])
        self.trials = {trial.trial_id: trial for trial in trials}
        # The processes that ran these trials are gone. A trial that ended just before the save needs no retry.
        ids = state["ongoing_trials"].values()
        lost = [trial_id for trial_id in ids if self.trials[trial_id].status == "RUNNING"]
        super().set_state({**state, "ongoing_trials": {}, "retry_queue": [*state["retry_queue"], *lost]})

    def end_trial(self, trial):
        try:
            super().end_trial(trial)
        except RuntimeError as error:
            raise RepeatedFailuresError(trial.message) from error

    def save(self):
        files.write_text(self.path, json.dumps(self.get_state()))

    def reload(self):
        self.set_state(_with_current_names(files.read_json(self.path)))


def _with_current_names(state: Any) -> Any:
    """The state of an oracle of an older version, with the current names of its hyperparameters."""
    if isinstance(state, list):
        return [_with_current_names(entry) for entry in state]
    if not isinstance(state, dict):
        return state
    if "name" in state:
        state = {**state, "name": RENAMED.get(state["name"], state["name"])}
    return {RENAMED.get(name, name): _with_current_names(value) for name, value in state.items()}


class _Random(_OneFile, keras_tuner.oracles.RandomSearchOracle):
    pass


class _Bayesian(_OneFile, keras_tuner.oracles.BayesianOptimizationOracle):
    def populate_space(self, trial_id):
        found = super().populate_space(trial_id)
        if found["values"] is not None and self._duplicate(found["values"]):
            return self._random_populate_space()
        return found


class _Hyperband(_OneFile, keras_tuner.oracles.HyperbandOracle):
    def populate_space(self, trial_id):
        # KerasTuner promotes the best of a round once all are trained, which a failed trial never is: the round would
        # be wasted. Another network replaces the failed one.
        for bracket in self._brackets:
            first = bracket["rounds"][0]
            first[:] = [entry for entry in first if self.trials[entry["id"]].status != "FAILED"]
        return super().populate_space(trial_id)

    def _random_trial(self, trial_id, bracket):
        # KerasTuner ends the search if there are fewer networks than the first round needs, with none trained in full.
        # The rounds are smaller instead.
        found = super()._random_trial(trial_id, bracket)
        return found if found["status"] == "RUNNING" else self._promote(trial_id, bracket) or found

    def _promote(self, trial_id, bracket):
        """The next trial of a bracket whose first round ends early; `None` if there is none, or none yet."""
        for number, (before, entries) in enumerate(itertools.pairwise(bracket["rounds"]), 1):
            trials = [self.trials[entry["id"]] for entry in before]
            if any(trial.status == "RUNNING" for trial in trials):
                return None
            continued = [entry["past_id"] for entry in entries]
            waiting = [trial for trial in trials if trial.status == "COMPLETED" and trial.trial_id not in continued]
            if waiting and len(entries) < math.ceil(len(before) / _FACTOR):
                best = max(waiting, key=lambda trial: trial.score)
                entries.append({"past_id": best.trial_id, "id": trial_id})
                epochs = [self._get_epochs(bracket["bracket_num"], each) for each in (number - 1, number)]
                names = ("trial_id", "initial_epoch", "epochs", "bracket", "round")
                values = (best.trial_id, *epochs, bracket["bracket_num"], number)
                new = {f"tuner/{name}": value for name, value in zip(names, values, strict=True)}
                return {"status": "RUNNING", "values": {**best.hyperparameters.values, **new}}
        return None


def _random(trials, epochs, **options):
    return _Random(max_trials=trials, **options)


def _bayesian(trials, epochs, **options):
    # The default, three random networks per hyperparameter, exceeds the number of trials in many searches.
    return _Bayesian(max_trials=trials, num_initial_points=max(2, trials // 3), **options)


def _hyperband(trials, epochs, **options):
    parts = parts_of_training("hyperband", trials, epochs)
    oracle = _Hyperband(max_epochs=parts, factor=_FACTOR, hyperband_iterations=trials, **options)
    # The number of trials ends the iterations.
    oracle.max_trials = trials
    return oracle


_ORACLES = {"random": _random, "bayesian": _bayesian, "hyperband": _hyperband}


def parts_of_training(tuner: str, trials: int, epochs: int) -> int:
    """Number of parts that a tuner splits the training of a network into: 1, or a power of 3 with Hyperband.

    With Hyperband it is the highest power for which the first bracket fits into the trials. With 9 parts, 9 networks
    train for a ninth of the epochs, the best 3 continue to a third, and the best one to the end: 13 trials. A part is
    at least one epoch.

    >>> [parts_of_training("hyperband", trials, epochs=40) for trials in (3, 4, 12, 13, 40)]
    [1, 3, 3, 9, 27]
    >>> [parts_of_training("hyperband", 40, epochs) for epochs in (2, 3, 9)]
    [1, 3, 9]
    """
    parts = 1
    while tuner == "hyperband" and (parts * _FACTOR**2 - 1) // (_FACTOR - 1) <= trials and parts * _FACTOR <= epochs:
        parts *= _FACTOR
    return parts


def make_oracle(
    tuner: str,
    *,
    trials: int,
    epochs: int,
    seed: int,
    path: pathlib.Path,
    network: Callable[[keras_tuner.HyperParameters], dict[str, Any]],
) -> keras_tuner.Oracle:
    """An oracle that maximizes `SCORE` and proposes each network once, apart from trials that continue another.

    The search ends with fewer trials if no network is left.

    Args:
        tuner: one of `settings.TUNERS`.
        trials: maximum number of trials; with Hyperband, a trial that continues another counts too.
        epochs: epochs of a full training run.
        seed: random seed, at least 0.
        path: file for the state of the oracle.
        network: function from hyperparameters to a dict that identifies the network.
    """
    _checks.one_of("tuner", tuner, TUNERS)
    _checks.positive("trials", trials)
    _checks.positive("epochs", epochs)
    # KerasTuner treats 0 as a random seed.
    oracle = _ORACLES[tuner](trials, epochs, objective=keras_tuner.Objective(SCORE, "max"), seed=seed + 1)
    oracle.path, oracle.network, oracle._max_collisions = path, network, _COLLISIONS
    return oracle
