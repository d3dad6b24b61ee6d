"""The end of a search: its winner, and how it does on the test split, which nothing has seen until then."""

import json

from keras_sharenets import files
from trainers.evaluate import evaluate
from tuning import trials
from tuning.search import NETWORK

FILE = "conclusion.json"


def conclude(search):
    """Tests the winner and writes `conclusion.json`.

    Args:
        search: `Search` whose trials have ended.

    Raises:
        ValueError: no trial ended with a network within the budget.
    """
    best = trials.winner(trials.read_all(search.folder))
    if best is None:
        raise ValueError(f"No trial in {search.folder} ended with a network within the limits on files.")
    folder = search.folder / best.id
    files.write_json(
        search.folder / FILE,
        {
            "winner": best.id,
            "validation_accuracy": best.accuracy,
            "test_accuracy": evaluate(folder / NETWORK, search.dataset).accuracy,
            "int8_test_accuracy": evaluate(folder / "int8.tflite", search.dataset).accuracy,
        },
    )


def read_conclusion(folder):
    """What `conclude` wrote, as a dict; `None` if the search has not come to its end."""
    path = folder / FILE
    return json.loads(path.read_text()) if path.is_file() else None
