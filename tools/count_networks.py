"""Counts networks for the table of `keras_sharenets.models.counts`, which answers queries without building networks.

python -m tools.count_networks                # networks missing from the table
python -m tools.count_networks 'igcv2*'       # recounts these

It counts all configurations of the named networks, the pretrained networks, and the rows of the papers' tables. For the
networks that `sharenets list` shows, it also writes an int8 file, with random weights, normalization statistics as
after training, and 2 % of the scales negative.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import sys
from collections.abc import Mapping
from typing import Any

import keras

from keras_sharenets.analysis.catalog import count_network
from keras_sharenets.analysis.randomization import random_images, randomize_batchnorm
from keras_sharenets.mobile.export import conversion
from keras_sharenets.mobile.graph.lowering import lower_model
from keras_sharenets.models import create_model, list_trained
from keras_sharenets.models.counts import NetworkCounts, find_counts, write_counts
from keras_sharenets.models.registry import VARIANTS
from keras_sharenets.training.papers.entries import configuration_of, papers

IMAGES = 4
# Larger files take minutes.
MAX_MULTIPLY_ADDS = 2_500_000_000
Wanted = tuple[str, Mapping[str, Any], tuple[int, int, int], int]


def listed() -> list[Wanted]:
    """The networks that `sharenets list` shows: each with its defaults, and the pretrained ones."""
    first = {name: variant.configurations[0] for name, variant in VARIANTS.items()}
    default = [(name, {}, each.input_shape, each.num_classes) for name, each in first.items()]
    trained = [(each.model, each.options, each.input_shape, len(each.class_names)) for each in list_trained()]
    return [*default, *trained]


def wanted() -> list[Wanted]:
    """All networks to count."""
    named = [
        (name, {}, each.input_shape, each.num_classes)
        for name, variant in VARIANTS.items()
        for each in variant.configurations
    ]
    printed = [
        configuration_of(paper, row)
        for paper in papers().values()
        for entry in paper.entries
        for row in entry.rows
        if row.network
    ]
    return [*listed(), *named, *printed]


def file_bytes(counts: NetworkCounts) -> int | None:
    """The size of the int8 file of a network with random weights; `None` above `MAX_MULTIPLY_ADDS`."""
    if counts.multiply_adds > MAX_MULTIPLY_ADDS:
        return None
    keras.utils.set_random_seed(0)
    model = create_model(counts.model, **counts.arguments)
    randomize_batchnorm(model, negative_share=0.02)
    images = (127.5 + 50 * random_images(model, IMAGES)).clip(0, 255)
    data, _ = conversion.convert(lower_model(model), quantization="int8", representative_data=(images,))
    return len(data)


def main(patterns: list[str]) -> None:
    """Counts the networks; the table is complete after each one."""
    with_files = set(map(str, listed()))
    named = {str(each): each for each in wanted()}
    found = {key: counts for key, each in named.items() if (counts := find_counts(*each)) is not None}
    for key, each in named.items():
        if key in found and not any(fnmatch.fnmatch(each[0], pattern) for pattern in patterns):
            continue
        with keras.StatelessScope():  # Built without values: shapes are enough.
            counts = count_network(*each)
            # Otherwise the end of the scope would create the weights of all networks that it still knows.
            keras.utils.clear_session()
        if key in with_files:
            counts = dataclasses.replace(counts, int8_bytes=file_bytes(counts))
        found[key] = counts
        write_counts(found.values())
        sys.stderr.write(f"{counts}\n")
    write_counts(found.values())


if __name__ == "__main__":
    main(sys.argv[1:])
