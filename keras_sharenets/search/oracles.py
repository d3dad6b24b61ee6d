"""KerasTuner's oracles, kept in one file that is whole whenever the process is killed.

KerasTuner itself writes a file for the oracle and one for each trial, in place and one after the other: killed in
between, it forgets a trial that it has counted, and a file cut short ends the search for good.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import keras_tuner
from keras_tuner.engine.trial import Trial

from keras_sharenets import _checks, files
from keras_sharenets.models.registry import RENAMED
from keras_sharenets.search.settings import TUNERS

SCORE = "score"
_FACTOR = 3
# After so many draws of networks that were tried before, there is hardly another one.
_COLLISIONS = 200


class RepeatedFailuresError(Exception):
    """Several trials in a row failed, the last one as the message says."""


class _OneFile(keras_tuner.Oracle):
    """Makes an oracle write all it knows, its trials too, in one step to `path`, and ask for no network twice."""

    path: pathlib.Path
    network: Callable[[Mapping[str, Any]], dict[str, Any]]

    def _compute_values_hash(self, values):
        # Several settings mean the same network, which would train to the same accuracy.
        return super()._compute_values_hash(self.network(values))

    def get_state(self):
        return {**super().get_state(), "trials": [trial.get_state() for trial in self.trials.values()]}

    def set_state(self, state):
        trials = map(Trial.from_state, state["trials"])
        self.trials = {trial.trial_id: trial for trial in trials}
        # Whoever ran these is gone. A trial that ended just before the file was written is not among them.
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
        self.set_state(_with_current_names(json.loads(self.path.read_text(encoding="utf-8"))))


def _with_current_names(state: Any) -> Any:
    """The state of an oracle of an older version, its hyperparameters called as they are now."""
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
        # KerasTuner goes on with the best of a round when all of it are trained, and a failed one never is: the others
        # were trained for nothing. Another network takes its place.
        for bracket in self._brackets:
            first = bracket["rounds"][0]
            first[:] = [entry for entry in first if self.trials[entry["id"]].status != "FAILED"]
        return super().populate_space(trial_id)


def _random(trials, epochs, **options):
    return _Random(max_trials=trials, **options)


def _bayesian(trials, epochs, **options):
    # By default it draws three networks a hyperparameter at random first, more than many a search has trials.
    return _Bayesian(max_trials=trials, num_initial_points=max(2, trials // 3), **options)


def _hyperband(trials, epochs, **options):
    parts = parts_of_training("hyperband", trials, epochs)
    oracle = _Hyperband(max_epochs=parts, factor=_FACTOR, hyperband_iterations=trials, **options)
    # Its iterations end with the trials.
    oracle.max_trials = trials
    return oracle


_ORACLES = {"random": _random, "bayesian": _bayesian, "hyperband": _hyperband}


def parts_of_training(tuner: str, trials: int, epochs: int) -> int:
    """Into how many parts a tuner divides the training of a network: 1, or with Hyperband a power of 3.

    It is the highest power for which a first round fits into the trials: 9 networks for a ninth of the training, the
    best 3 of them to a third, the best of all to the end, that is 13 trials. No part is less than an epoch.

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
    network: Callable[[Mapping[str, Any]], dict[str, Any]],
) -> keras_tuner.Oracle:
    """An oracle that looks for the highest `SCORE` and asks for a network once, or to go on with it.

    Where no network is left, the search ends with fewer trials.

    Args:
        tuner: one of `settings.TUNERS`.
        trials: how many there are at most; with Hyperband one that goes on with another counts too.
        epochs: of a whole training.
        seed: at least 0.
        path: file that it is kept in.
        network: function from the values of hyperparameters to a dict that is the same for the same network.
    """
    _checks.one_of("tuner", tuner, TUNERS)
    _checks.positive("trials", trials)
    _checks.positive("epochs", epochs)
    # To KerasTuner 0 means any seed.
    oracle = _ORACLES[tuner](trials, epochs, objective=keras_tuner.Objective(SCORE, "max"), seed=seed + 1)
    oracle.path, oracle.network, oracle._max_collisions = path, network, _COLLISIONS
    return oracle
