"""Counts the networks of the papers' tables and figures anew: python -m tools.count_papers (minutes)."""

import keras

from keras_sharenets.cli.command import say
from keras_sharenets.training.papers.counts import Counts, Key, count_network, wanted, write_counts


def count(key: Key) -> Counts:
    """The counts of a key's network, which is built without numbers: shapes are enough."""
    with keras.StatelessScope():
        counts = count_network(key)
        # The end of the scope would make the weights of all that it still knows.
        keras.utils.clear_session()
    return counts


def main() -> None:
    """Writes the table of `keras_sharenets.training.papers.counts`."""
    found = []
    for key in wanted():
        say(" ".join(key))
        found.append((key, count(key)))
    write_counts(found)


if __name__ == "__main__":
    main()
