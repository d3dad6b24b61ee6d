"""The last round of a search: its best networks are compared on more parts of the training split.

The part that a search holds out is a coarse measure where pictures are few: of 287 digits one is 0.35 %. The best of
many networks on one such part is the luckiest as well as the best; on other parts it has no such luck.
"""

import dataclasses
import json
import statistics
import time

from keras_sharenets import files
from keras_sharenets.search import trials
from keras_sharenets.search.search import starting_network
from keras_sharenets.search.training import hold_out, train

FOLDER = "finals"
# Parts that every finalist is compared on, that of its trial among them.
PARTS = 3


@dataclasses.dataclass(frozen=True)
class Finalist:
    """A trial in the last round.

    Attributes:
        id: str, of the trial.
        accuracies: tuple of float, one for each held-out part, that of the trial first.
        score: float, their mean, less what the search takes off for bytes and time.
    """

    id: str
    accuracies: tuple
    score: float


def play(search, say):
    """Compares the best trials of a search anew, if it wants more than one.

    A finalist is trained from its start through all epochs once for each further part, with another seed. What was
    found stays in `finals/`, so that an interrupted round goes on.

    Args:
        search: `Search` whose trials have ended.
        say: function that is called with a line for each training.

    Returns:
        The winner, a `Result` (`None` if no trial can win), and a list of `Finalist`, the best first; with one
        finalist, which wins by its trial, it is empty.
    """
    ranked = trials.ranked(trials.read_all(search.folder))[: search.finalists]
    if len(ranked) < 2:
        return next(iter(ranked), None), []
    finalists = []
    for result in ranked:
        accuracies = [result.accuracy, *(_accuracy(search, result, part, say) for part in range(1, PARTS))]
        costs = result.accuracy - result.score
        finalists.append(Finalist(result.id, tuple(accuracies), statistics.mean(accuracies) - costs))
    # Of equals the one that was ahead before: sorting keeps their order.
    finalists.sort(key=lambda finalist: -finalist.score)
    return next(result for result in ranked if result.id == finalists[0].id), finalists


def _accuracy(search, result, part, say):
    """The accuracy of a network on another held-out part, which also gives the seed of its training."""
    path = search.folder / FOLDER / f"{result.id}-{part}.json"
    if not path.is_file():
        started, other = time.perf_counter(), dataclasses.replace(search, seed=search.seed + part)
        held = hold_out(search.dataset, search.validation, other.seed)
        network, _ = starting_network(other, dataclasses.replace(result, continues=None), held)
        accuracy = train(network, held, search.recipe, other.seed, 0, search.recipe.epochs)
        files.write_json(path, {"accuracy": accuracy})
        seconds = time.perf_counter() - started
        say(f"finalist {result.id}, part {part + 1} of {PARTS}: validation accuracy {accuracy:.4f}; {seconds:.0f} s")
    return json.loads(path.read_text())["accuracy"]
