"""The search: KerasTuner asks for trials, each is trained, exported, measured and written down."""

import dataclasses
import math
import os
import pathlib
import time
import warnings

import grpc
import keras
import keras_tuner
import numpy as np

from keras_sharenets import files
from keras_sharenets.mobile.export.parity import ExportMismatchError
from keras_sharenets.search import trials as records
from keras_sharenets.search.budgets import Budget, FileBudget
from keras_sharenets.search.hypermodel import SpaceHyperModel
from keras_sharenets.search.measuring import FileLimits, measure
from keras_sharenets.search.oracles import make_oracle, parts_of_training
from keras_sharenets.search.spaces.registry import count, find_space, named
from keras_sharenets.search.training import hold_out, train
from keras_sharenets.training.data.dataset import Dataset
from keras_sharenets.training.recipes.named import Recipe
from keras_sharenets.training.run.network import build, input_shape

NETWORK, SETTINGS = "network.keras", "search.json"
# How long a process waits before it asks for a trial, so that one that is told to wait does not ask all the time.
_PAUSE = 0.2


@dataclasses.dataclass(frozen=True)
class Search:
    """Everything that a search needs to know.

    Attributes:
        folder: path.
        space: str, name of the space.
        dataset: `Dataset`; its test split is left alone.
        tuner: a key of `ORACLES`.
        trials: int.
        recipe: `Recipe`, of a whole training.
        budget: `Budget`.
        file_budget: `FileBudget`.
        seed: int, of what is drawn, of the validation split and of every training.
        validation: float, the part of the training split that is held out to compare networks on.
        halving_worth: float, the accuracy that half the bytes or half the time of the int8 file is worth; 0 looks for
            accuracy alone.
        finalists: int, so many of the best trials are compared anew before one wins.
    """

    folder: pathlib.Path
    space: str
    dataset: Dataset
    tuner: str
    trials: int
    recipe: Recipe
    budget: Budget
    file_budget: FileBudget
    seed: int
    validation: float
    halving_worth: float
    finalists: int


def role():
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

    def __init__(self, search, tell):
        self.search_settings = search
        self.tell = tell
        self.held = hold_out(search.dataset, search.validation, search.seed)
        space, limits = find_space(search.space), None
        if search.file_budget != FileBudget():
            limits = FileLimits(space, search.file_budget, self.held, search.recipe, search.folder / "foreseen")
        self.picture, self.classes = input_shape(search.dataset, search.recipe), len(search.dataset.class_names)
        hypermodel = SpaceHyperModel(search.space, self.picture, self.classes, search.budget, limits)
        settings = search.tuner, search.trials, search.recipe.epochs, search.seed
        oracle = make_oracle(*settings, search.folder / "oracle.json", hypermodel.point_of_values)
        super().__init__(oracle, hypermodel, directory=search.folder, project_name="keras_tuner")
        if self._has_oracle() and oracle.path.is_file():
            self.oracle.reload()

    def _has_oracle(self):
        """Whether the oracle lives in this process; a worker's lives with the chief."""
        return isinstance(self.oracle, keras_tuner.Oracle)

    def save(self):
        # The oracle is all that there is to keep. Without files of its own, KerasTuner reloads nothing by itself.
        if self._has_oracle():
            self.oracle.save()

    def pre_create_trial(self):
        time.sleep(_PAUSE)

    def run_trial(self, trial, **options):
        search, started = self.search_settings, time.perf_counter()
        draft = self._draft(trial)
        known = records.read(search.folder / draft.id / records.FILE)
        # Written down, but killed before the oracle knew.
        if known is not None and known.state == "finished" and known.settings == draft.settings:
            return known.score
        self.tell(draft)
        folder = search.folder / draft.id
        try:
            network, first_epoch = starting_network(search, draft, self.held)
            accuracy, costs = train_into(folder, search, network, self.held, (first_epoch, draft.epochs), self.held)
        except OSError as error:
            # A full disk: no other network would fare better, and the trial is not lost.
            raise keras_tuner.errors.FatalValueError(f"A file cannot be written: {error}") from error
        except keras_tuner.errors.FailedTrialError as error:
            # Raised further, it would be shown with its traceback. To the oracle no number is a failed trial too.
            trial.message = str(error)
            self._fail(draft, trial.message)
            return math.nan
        halvings = math.log2(costs.int8_bytes) + math.log2(costs.latency_ms)
        result = dataclasses.replace(
            draft,
            state="finished",
            accuracy=accuracy,
            score=accuracy - search.halving_worth * halvings,
            within_budget=search.file_budget.allows(costs),
            seconds=time.perf_counter() - started,
            **dataclasses.asdict(costs),
        )
        records.write(result, search.folder)
        self.tell(result)
        return result.score

    def on_trial_end(self, trial):
        if trial.status != "COMPLETED":
            # The last line of a traceback.
            self._fail(self._draft(trial), (trial.message or "no reason given").strip().splitlines()[-1])
        super().on_trial_end(trial)

    def _fail(self, draft, reason):
        result = dataclasses.replace(draft, state="failed", reason=reason)
        records.write(result, self.search_settings.folder)
        self.tell(result)

    def _draft(self, trial):
        """What is known of a trial before it is run, as a `Result` in the state `"running"`."""
        search, settings = self.search_settings, dict(trial.hyperparameters.values)
        space, point = self.hypermodel.space, self.hypermodel.point(trial.hyperparameters)
        name, arguments = named(space, point)
        counts = count(space, point, self.picture, self.classes)
        parts = parts_of_training(search.tuner, search.trials, search.recipe.epochs)
        return records.Result(
            id=trial.trial_id,
            state="running",
            name=name,
            arguments={**arguments, "input_shape": self.picture, "num_classes": self.classes},
            parameters=counts.stored_parameters,
            multiply_adds=counts.multiply_adds,
            epochs=math.ceil(search.recipe.epochs * settings.get("tuner/epochs", parts) / parts),
            continues=settings.get("tuner/trial_id"),
            settings=settings,
            worker=self.tuner_id,
        )


def starting_network(search, result, dataset):
    """The network that the training of a `Result` begins with, and how many epochs it has been trained for before."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(search.seed)
    if result.continues is None:
        return build(result.name, dataset, result.choices, search.recipe), 0
    before = search.folder / result.continues
    return files.load_model(before / NETWORK), records.read(before / records.FILE).epochs


def train_into(folder, search, network, dataset, epochs, held):
    """Trains a network of a search and leaves it and its files in a folder.

    Args:
        folder: path.
        search: `Search`.
        network: functional `keras.Model`.
        dataset: `Dataset` to train and to test on.
        epochs: the first epoch and the one after the last.
        held: `Dataset` whose test split has the pictures to measure the ranges of int8 on.

    Returns:
        The accuracy on the test split, and `Costs`.

    Raises:
        keras_tuner.errors.FailedTrialError: the training diverged, or int8 does not suit the network: it has no file.
    """
    accuracy = train(network, dataset, search.recipe, search.seed, *epochs)
    if not all(np.isfinite(weight).all() for weight in network.get_weights()):
        raise keras_tuner.errors.FailedTrialError("the training diverged: a weight is no finite number")
    files.save_model(network, folder / NETWORK)
    files.write_labels(folder, dataset.class_names)
    try:
        return accuracy, measure(network, folder, held)
    except ExportMismatchError as error:
        raise keras_tuner.errors.FailedTrialError(str(error)) from None


def run(search, tell):
    """Runs all trials that are left, or this process's share of them; with a chief it waits until all are run.

    Args:
        search: `Search`.
        tell: function that is called with a `Result` when a trial begins (its state is `"running"`) and when it ends.

    Raises:
        ValueError: an argument breaks a rule, no network is within the budget, the data cannot be read, a file cannot
            be written, or three trials in a row failed.
        OSError: the chief does not answer.
    """
    if search.recipe.schedule == "plateau":
        raise ValueError("`schedule` (='plateau') watches one long training: a search needs another, 'cosine' for one.")
    tuner = _Tuner(search, tell)
    try:
        with warnings.catch_warnings():
            # The score of a failed trial is no number.
            warnings.filterwarnings("ignore", "All-NaN", RuntimeWarning)
            tuner.search(verbose=0)
    except grpc.RpcError as error:
        raise OSError(f"The chief does not answer as it should: {error.details()}") from error
    except RuntimeError as error:
        if "consecutive failures" not in str(error):
            raise
        raise ValueError(
            f"Three trials in a row failed, the last one with {str(error).strip().splitlines()[-1]}"
        ) from error
