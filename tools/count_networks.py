"""Counts every named network, for what must answer without building any.

python -m tools.count_networks                # those that are not in the list yet
python -m tools.count_networks 'igcv2*'       # these anew

Every network is counted as `create_model(name)` builds it, and as those that come trained are. The int8 files are those
of random weights with normalizations as after training, 2 % of the scales negative.
"""

from __future__ import annotations

import dataclasses
import sys

import keras

from keras_sharenets import files
from keras_sharenets.analysis import profile
from keras_sharenets.analysis.randomization import random_images, randomize_batchnorm
from keras_sharenets.mobile.export import conversion
from keras_sharenets.mobile.export.reference import lower_model
from keras_sharenets.models import create_model, find_variant, list_counts, list_models, list_trained
from keras_sharenets.models.registry import COUNTS, NetworkCounts

IMAGES = 4
# A file of more takes minutes.
MAX_MULTIPLY_ADDS = 2_500_000_000


def wanted(pattern: str = "*") -> list[tuple[str, dict]]:
    """What is counted of the networks that match: `(name, arguments)`."""
    found = [(name, {}) for name in list_models(pattern)]
    for trained in list_trained(pattern):
        arguments = dict(trained.options)
        if find_variant(trained.model).configurations[0].num_classes != len(trained.class_names):
            arguments["num_classes"] = len(trained.class_names)
        found += [(trained.model, arguments)] if arguments else []
    return found


def measure(name: str, arguments: dict) -> NetworkCounts:
    """Builds a network with random weights, counts it and writes its int8 file."""
    keras.utils.set_random_seed(0)
    model = create_model(name, **arguments)
    counts = profile(model)
    int8_bytes = None
    if counts.multiply_adds <= MAX_MULTIPLY_ADDS:
        randomize_batchnorm(model, negative_share=0.02)
        images = (127.5 + 50 * random_images(model, IMAGES)).clip(0, 255)
        int8_bytes = len(conversion.convert(lower_model(model), quantization="int8", representative_data=(images,)))
    return NetworkCounts(
        model=name,
        arguments=arguments,
        input_shape=model.input_shape[1:],
        num_classes=model.output_shape[-1],
        stored_parameters=counts.stored_parameters,
        effective_parameters=counts.effective_parameters,
        multiply_adds=counts.multiply_adds,
        int8_bytes=int8_bytes,
    )


def main(patterns: list[str]) -> None:
    """Measures; the list is whole after every network."""
    known = {(each.model, str(dict(each.arguments))): each for each in list_counts()}
    for name, arguments in [pair for pattern in patterns or ["*"] for pair in wanted(pattern)]:
        if not patterns and (name, str(arguments)) in known:
            continue
        found = known[name, str(arguments)] = measure(name, arguments)
        files.write_json(COUNTS, [dataclasses.asdict(known[key]) for key in sorted(known)])
        sys.stderr.write(f"{found}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
