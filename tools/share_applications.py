"""Shares the convolutional networks of `keras.applications` with each scheme and reports whether each pair works.

python -m tools.share_applications                      # all, hours on two cores
python -m tools.share_applications 'MobileNet*' --schemes hierarchical interleaved

Each network is untrained, with the smallest input size that it accepts, 10 classes, and normalization statistics as
after training. A pair works if the original is unchanged, outputs have the same shape, every trainable weight gets a
gradient, a `.keras` file gives the same outputs, and an int8 file has each stored weight once. Table lines are printed
as soon as they are known.
"""

from __future__ import annotations

import argparse
import collections
import fnmatch
import pathlib
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

import keras_sharenets as ksn
from keras_sharenets.analysis.randomization import randomize_batchnorm
from keras_sharenets.mobile.export.reference import ExportMismatchError
from keras_sharenets.mobile.export.representative_data import synthetic_images
from keras_sharenets.rendering.tables import markdown_table
from keras_sharenets.sharing import HierarchicalGroups, InterleavedGroups, ShareChannels, Shared, ShareDepth
from keras_sharenets.sharing.schemes import Scheme

# The smallest supported image side of each network.
SIDES = {
    "VGG16": 32,
    "ResNet50": 32,
    "ResNet50V2": 32,
    "MobileNet": 32,
    "MobileNetV2": 32,
    "MobileNetV3Small": 32,
    "DenseNet121": 32,
    "EfficientNetB0": 32,
    "EfficientNetV2B0": 32,
    "Xception": 71,
    "NASNetMobile": 32,
    "InceptionV3": 75,
    "ConvNeXtTiny": 32,
}
SCHEMES = {
    "depth": ShareDepth("stage"),
    "channels": ShareChannels(arrangements=2),
    "hierarchical": HierarchicalGroups(2),
    "interleaved": InterleavedGroups(),
}
IMAGES = 4
# Bytes of the constants in an int8 file relative to the stored weights. A file also has the scales of normalization
# layers and of the integers of each channel, which matter if there are few weights.
_MOST_REPETITION = 1.5

Gradients = Callable[[keras.Model, np.ndarray], Sequence[Any]]


def network(name: str) -> keras.Model:
    """One of `SIDES`, untrained, with statistics as after training; otherwise all outputs would be nearly equal."""
    keras.utils.set_random_seed(0)
    sides = (SIDES[name], SIDES[name], 3)
    model = getattr(keras.applications, name)(weights=None, input_shape=sides, classes=10)
    randomize_batchnorm(model)
    return model


def _images(model: keras.Model) -> np.ndarray:
    return synthetic_images(model.input_shape[1:], count=IMAGES).astype("float32")


def gradients_on_tensorflow(model: keras.Model, images: np.ndarray) -> list[Any]:
    """The gradients of a sum over the outputs with respect to the trainable weights, `None` if missing."""
    import tensorflow as tf

    with tf.GradientTape() as tape:
        outputs = model(images, training=True)
        loss = tf.reduce_sum(outputs * np.random.default_rng(1).standard_normal(outputs.shape).astype("float32"))
    return tape.gradient(loss, [variable.value for variable in model.trainable_variables])


def check(
    model: keras.Model,
    scheme: Scheme,
    path: pathlib.Path,
    *,
    where: str | None = None,
    gradients: Gradients = gradients_on_tensorflow,
) -> Shared:
    """Shares a model; writes the `.keras` file `path`.

    Raises:
        AssertionError: something does not work.
        ValueError: the scheme fits no convolution.
    """
    before = [weight.copy() for weight in model.get_weights()]
    shared = ksn.share(model, scheme, where=where)
    same = all(np.array_equal(old, new) for old, new in zip(before, model.get_weights(), strict=True))
    assert same, "the original has changed"
    images = _images(model)
    assert shared.parameters < shared.parameters_before, "nothing is saved"
    found = zip(shared.model.trainable_variables, gradients(shared.model, images), strict=True)
    without = [variable.path for variable, gradient in found if gradient is None]
    assert not without, f"no gradient for {', '.join(without)}"
    shared.model.save(path)
    outputs, again = (
        keras.ops.convert_to_numpy(each(images, training=False))
        for each in (shared.model, keras.saving.load_model(path))
    )
    assert outputs.shape == (IMAGES, *model.output_shape[1:]), f"outputs of shape {outputs.shape}"
    worst = np.max(np.abs(again - outputs))
    assert worst < 1e-5, f"once loaded, outputs are {worst:.2g} away"
    return shared


def check_int8(shared: Shared, path: pathlib.Path) -> float:
    """Bytes of the constants in the int8 file of a network relative to its stored weights.

    Raises:
        AssertionError: the ratio is so large that sharing is lost.
    """
    images = _images(shared.model)
    report = ksn.mobile.export_tflite(shared.model, path, quantization="int8", representative_data=images)
    assert report.repetition < _MOST_REPETITION, f"an int8 file of {report.repetition:.2f} times the stored weights"
    return report.repetition


def refusal(error: ValueError) -> str:
    """The distinct reasons why a scheme fits nowhere, most frequent first.

    >>> refusal(ValueError("`scheme` (=S) fits no convolution of 'm'. 'a': it is 3x3; 'b': a Conv1D; 'c': it is 3x3."))
    'it is 3x3 (2); a Conv1D (1)'
    """
    reasons = str(error).partition("'. ")[2].rstrip(".").split("; ")
    counts = collections.Counter(reason.partition(": ")[2] for reason in reasons)
    return "; ".join(f"{reason} ({count})" for reason, count in counts.most_common())


def row(name: str, model: keras.Model, scheme: str) -> list[str]:
    """The network, the scheme, parameters before and after, sharing convolutions, and the result."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "shared.keras"
        try:
            shared = check(model, SCHEMES[scheme], path)
            verdict = f"works, int8 {check_int8(shared, path.with_suffix('.tflite')):.2f}"
        except ValueError as error:
            if "fits no convolution" not in str(error):
                raise
            return [f"`{name}`", scheme, "", "", "", f"fits nowhere: {refusal(error)}"]
        except (AssertionError, ExportMismatchError) as error:
            return [f"`{name}`", scheme, "", "", "", f"fails: {error}"]
    sharing = f"{len(shared.layers)} of {len(shared.layers) + len(shared.left)}"
    return [f"`{name}`", scheme, f"{shared.parameters_before:,}", f"{shared.parameters:,}", sharing, verdict]


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=["*"], metavar="PATTERN", help="default: all")
    parser.add_argument("--schemes", nargs="+", default=tuple(SCHEMES), choices=SCHEMES, help="default: all")
    given = parser.parse_args(arguments)
    head = ["network", "scheme", "parameters", "shared", "convolutions", "result"]
    lines = markdown_table([head], align="llrrrl").splitlines()
    for name in SIDES:
        if not any(fnmatch.fnmatch(name, pattern) for pattern in given.networks):
            continue
        model = network(name)
        for scheme in given.schemes:
            lines += markdown_table([head, row(name, model, scheme)], align="llrrrl").splitlines()[2:]
            sys.stdout.write("\n".join(lines) + "\n")
            sys.stdout.flush()
            lines = []
    return 0


if __name__ == "__main__":
    sys.exit(main())
