"""The end of a search: its winner, trained on the whole training split, meets the test split, once."""

import dataclasses
import json
import time

import keras_tuner

from keras_sharenets import files
from keras_sharenets.search.finals import play
from keras_sharenets.search.search import starting_network, train_into
from keras_sharenets.search.training import hold_out
from keras_sharenets.training.reports.evaluate import evaluate

FILE, FOLDER = "conclusion.json", "winner"


def conclude(search, say):
    """Trains the winner's network anew, on the whole training split for all epochs; writes `conclusion.json`.

    The trials had to do without the pictures that they were compared on; a network that is used need not. Its files are
    in `winner/`. The test split decides nothing, neither here nor before.

    Args:
        search: `Search` whose trials have ended.
        say: function that is called with a line for each training.

    Raises:
        ValueError: no trial ended with a network within the budget, or the winner's training failed.
    """
    best, finalists = play(search, say)
    if best is None:
        raise ValueError(f"No trial in {search.folder} ended with a network within the limits on files.")
    say("the winner's network is trained anew, on the whole training split")
    started = time.perf_counter()
    # The ranges of int8 are measured on pictures of the training split: the test split stays unseen.
    held = hold_out(search.dataset, search.validation, search.seed)
    network, _ = starting_network(search, dataclasses.replace(best, continues=None), search.dataset)
    folder = search.folder / FOLDER
    try:
        accuracy, costs = train_into(folder, search, network, search.dataset, (0, search.recipe.epochs), held)
    except keras_tuner.errors.FailedTrialError as error:
        raise ValueError(
            f"Trial {best.id} wins, but its training on the whole training split failed: {error}. "
            f"What the trial left is in {search.folder / best.id}."
        ) from error
    crops = "center" if search.recipe.crop_size else "none"
    files.write_json(
        search.folder / FILE,
        {
            "winner": best.id,
            "finalists": [dataclasses.asdict(finalist) for finalist in finalists],
            "validation_accuracy": best.accuracy,
            "test_accuracy": accuracy,
            "int8_test_accuracy": evaluate(folder / "int8.tflite", search.dataset, crops).accuracy,
            **dataclasses.asdict(costs),
            "within_budget": search.file_budget.allows(costs),
            "seconds": time.perf_counter() - started,
        },
    )


def read_conclusion(folder):
    """What `conclude` wrote, as a dict; `None` if the search has not come to its end."""
    path = folder / FILE
    return json.loads(path.read_text()) if path.is_file() else None
