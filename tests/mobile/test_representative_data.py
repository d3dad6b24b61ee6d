"""Supported and unsupported forms of representative data."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_sharenets.mobile.export import representative_data
from keras_sharenets.mobile.export.representative_data import (
    fresh_inputs,
    gather_images,
    gather_inputs,
    verification_inputs,
)

SHAPE = (4, 5, 3)
IMAGES = np.random.default_rng(0).integers(0, 256, (12, *SHAPE)).astype("float32")
LABELS = np.arange(12) % 3


class Batches(keras.utils.PyDataset):
    """Indices past the end give empty batches, as slices do."""

    def __len__(self):
        return 3

    def __getitem__(self, place):
        return IMAGES[4 * place : 4 * place + 4], LABELS[4 * place : 4 * place + 4]


FORMS = {
    "array": lambda: IMAGES,
    "bytes": lambda: IMAGES.astype("uint8"),
    "tensor": lambda: tf.constant(IMAGES),
    "list of images": lambda: list(IMAGES),
    "array and labels": lambda: (IMAGES, LABELS),
    "generator of batches": lambda: (IMAGES[start : start + 5] for start in (0, 5, 10)),
    "generator of lists of images": lambda: (list(IMAGES[start : start + 6]) for start in (0, 6)),
    "TFLite's generator function": lambda: lambda: ([image[None]] for image in IMAGES),
    "dataset": lambda: tf.data.Dataset.from_tensor_slices(IMAGES).batch(5),
    "dataset with labels": lambda: tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(5),
    "dataset with labels and weights": lambda: tf.data.Dataset.from_tensor_slices((IMAGES, LABELS, LABELS)),
    "PyDataset": Batches,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.filterwarnings("error::UserWarning")
def test_supported_forms(form):
    np.testing.assert_array_equal(gather_images("data", FORMS[form](), SHAPE), IMAGES)


NUMBERS = np.random.default_rng(1).standard_normal((12, 2)).astype("float32")
BOTH = {"images": IMAGES, "numbers": NUMBERS}
HALVES = [{name: array[part] for name, array in BOTH.items()} for part in (slice(6), slice(6, 12))]
FORMS_OF_SEVERAL = {
    "dict": lambda: BOTH,
    "tuple": lambda: (IMAGES, NUMBERS),
    "list of two batches": lambda: HALVES,
    "generator of examples": lambda: zip(IMAGES, NUMBERS, strict=True),
    "generator of dicts and labels": lambda: ((half, LABELS[:6]) for half in HALVES),
    "generator of tuples, labels, and weights": lambda: ((tuple(half.values()), LABELS, LABELS) for half in HALVES),
    "function": lambda: lambda: iter(HALVES),
}


@pytest.mark.parametrize("form", FORMS_OF_SEVERAL)
def test_supported_forms_for_several_inputs(form):
    found = gather_inputs("data", FORMS_OF_SEVERAL[form](), {"images": SHAPE, "numbers": (2,)})
    for array, expected in zip(found, BOTH.values(), strict=True):
        np.testing.assert_array_equal(array, expected)


def test_verified_examples_include_the_first_and_the_last():
    (found,), text = verification_inputs([np.arange(10.0)[:, None]], [(1,)], count=4)
    assert (found.ravel().tolist(), text) == ([0, 3, 6, 9], "4 given examples")


def test_fresh_inputs_have_the_range_of_the_given_ones():
    """Integers stay integers: a network that looks them up would truncate fractions."""
    whole, real = fresh_inputs((np.array([[3], [9]]), np.array([[-0.5], [1.0]])), [(5,), (5,)], count=40)
    assert set(whole.ravel().tolist()) == set(range(3, 10))
    assert -0.5 <= real.min() < -0.4 < 0.9 < real.max() <= 1
    assert len(set(real.ravel().tolist())) > 50


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"images": IMAGES},
            r"`data` must contain images, but is a dict with the keys 'images': pass one of its entries",
        ),
        (
            [{"x": IMAGES, "y": 0}],
            "but provided a dict with the keys 'x', 'y': map it to the entry that contains the images",
        ),
        ([({"x": IMAGES}, LABELS)], "but provided a dict with the keys 'x'"),
        (
            [(LABELS, IMAGES)],
            r"alone or followed by labels as in \(images, labels\), but provided a tuple of 2 entries",
        ),
        (
            [list(IMAGES[:, :4, :4])],
            r"must contain images of shape \(4, 5, 3\), but contains an array of shape \(1, 4, 4, 3\)",
        ),
        ([[]], "but provided a list of 0 entries"),
        (len, r"is a function that cannot be called without arguments: len\(\) takes"),
        (iter(()), "`data` contains no images"),
        (IMAGES[:0], "`data` contains no images"),
        ("images/", r"`data` \(='images/'\) must be an array of images or an iterable of such arrays: `keras.utils"),
        (IMAGES.transpose(0, 3, 1, 2), r"contains an array of shape \(12, 3, 4, 5\)"),
    ],
)
def test_unsupported_data(data, message):
    with pytest.raises(ValueError, match=message):
        gather_images("data", data, SHAPE)


@pytest.mark.parametrize(
    "endless", [lambda: tf.data.Dataset.from_tensor_slices(IMAGES).batch(5).repeat(), lambda: itertools.cycle(IMAGES)]
)
def test_endless_source_is_truncated(monkeypatch, endless):
    monkeypatch.setattr(representative_data, "MOST_IMAGES", 20)
    with pytest.warns(UserWarning, match="`data` has more than 20 images, or is endless: the first 2[02] are used"):
        images = gather_images("data", endless(), SHAPE)
    np.testing.assert_array_equal(images, np.concatenate([IMAGES, IMAGES])[: len(images)])


def test_endless_source_without_images(monkeypatch):
    monkeypatch.setattr(representative_data, "MOST_IMAGES", 20)
    with pytest.warns(UserWarning, match="is endless"), pytest.raises(ValueError, match="contains no images"):
        gather_images("data", itertools.repeat(IMAGES[:0]), SHAPE)


@pytest.mark.filterwarnings("error::UserWarning")
def test_arrays_are_not_truncated(monkeypatch):
    monkeypatch.setattr(representative_data, "MOST_IMAGES", 4)
    assert len(gather_images("data", IMAGES, SHAPE)) == len(gather_images("data", list(IMAGES), SHAPE)) == 12
