"""Representative data that is not what a network was trained on is refused or warned of; what is, is taken silently."""

import pathlib
import re

import keras
import numpy as np
import pytest
from harness import slow_after
from keras import layers

from keras_sharenets import files
from keras_sharenets.mobile import export_saved_model, export_tflite, predict_tflite, quantize_aware
from keras_sharenets.mobile.export import calibration_check, saved_model
from keras_sharenets.mobile.export.calibration_check import doubts

# Of the digits' pixels, for a network that takes them as they are.
WRONG = {
    "0..1": lambda images: images / 255,
    "-1..1": lambda images: images / 127.5 - 1,
    "standardized": lambda images: (images / 255 - 0.3) / 0.38,
    "16 bits": lambda images: images * 257,
}
RIGHT = {
    "pixels": lambda images: images,
    "two": lambda images: images[:2],
    "sorted by brightness": lambda images: images[np.argsort(images.mean((1, 2, 3)))][:32],
}


def quiet(model, images):
    return not doubts(model, np.asarray(images, "float32"))


@pytest.fixture(scope="module")
def pixels(digits):
    return digits[0][-500:].astype("float32")


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_range_is_refused(trained, pixels, tmp_path, wrong):
    with pytest.raises(ValueError, match=r"`representative_data` has values from .*which normalizes to mean 0"):
        export_tflite(trained, tmp_path / "m.tflite", "int8", representative_data=WRONG[wrong](pixels))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("right", RIGHT)
def test_right_range_is_taken_silently(trained, pixels, right):
    assert quiet(trained, RIGHT[right](pixels))


def test_the_refusal_is_right(trained, digits, pixels, tmp_path, monkeypatch):
    """What is refused would have cost most of the accuracy, which comparing with Keras on the same images hides."""
    accuracy, path = {}, tmp_path / "m.tflite"
    monkeypatch.setattr(calibration_check, "doubts", lambda *_: [])
    for name, images in {"pixels": pixels, "0..1": pixels / 255}.items():
        report = export_tflite(trained, path, "int8", representative_data=images[:100])
        assert report.top1_agreement > 0.9
        accuracy[name] = (predict_tflite(path, pixels).argmax(-1) == digits[1][-500:]).mean()
    assert accuracy["pixels"] > 0.85
    assert accuracy["0..1"] < 0.5


@pytest.mark.parametrize("value", [0, 128])
def test_one_value_is_refused(plain, tmp_path, value):
    images = np.full((4, 6, 5, 3), value)
    with pytest.raises(ValueError, match=f"contains only the value {value}: no range can be measured"):
        export_tflite(plain, tmp_path / "m.tflite", "int8", representative_data=images)
    with pytest.warns(UserWarning, match=f"contains only the value {value}:"):
        export_tflite(plain, tmp_path / "m.tflite", representative_data=images)


@pytest.mark.parametrize(("count", "words"), [(1, "is a single image"), (5, "is 5 times the same image")])
def test_one_image_is_warned_of(trained, pixels, count, words):
    (doubt,) = doubts(trained, np.repeat(pixels[:1], count, axis=0))
    assert doubt.reason.startswith(words)
    assert not doubt.certain


def test_saved_model_warns(trained, pixels, tmp_path, monkeypatch):
    """It is not calibrated: what is wrong with the images does not spoil it."""
    monkeypatch.setattr(saved_model, "_write", lambda model, head, folder, *rest: folder.mkdir())
    monkeypatch.setattr(saved_model, "_verify", lambda *_: 0.0)
    with pytest.warns(UserWarning, match="has values from 0 to 1, but layer"):
        export_saved_model(trained, tmp_path / "m", representative_data=pixels / 255)
    assert (tmp_path / "m").is_dir()


def beginning_with(*preparation):
    """An untrained network, without statistics of its images."""
    end = [layers.Conv2D(4, 3), layers.ReLU(), layers.GlobalAveragePooling2D(), layers.Dense(3, activation="softmax")]
    return keras.Sequential([keras.Input((8, 8, 1)), *preparation, *end])


@pytest.mark.parametrize(
    ("preparation", "right"),
    [
        ([layers.Rescaling(1 / 255)], "pixels"),
        ([layers.RandomFlip(), layers.Rescaling(1 / 127.5, offset=-1)], "pixels"),
        ([layers.Rescaling(1 / 255), layers.Normalization(mean=[0.3], variance=[0.14])], "pixels"),
        ([layers.Normalization(mean=[78.0], variance=[9200.0])], "pixels"),
        ([layers.Rescaling(2, offset=-1)], "0..1"),
        ([layers.Normalization(mean=[0.3], variance=[0.14])], "0..1"),
        ([layers.Rescaling(1 / 65535)], "16 bits"),
        ([], None),
    ],
    ids=lambda value: "-".join(type(layer).__name__ for layer in value) if isinstance(value, list) else str(value),
)
def test_preparation_of_an_untrained_network(pixels, preparation, right):
    model = beginning_with(*preparation)
    for name, of in ({"pixels": RIGHT["pixels"]} | WRONG).items():
        found = doubts(model, of(pixels[:64]))
        assert not any(doubt.certain for doubt in found)
        # What was standardized is of the size of what is in 0 to 1.
        near = right is None or name == right or {name, right} <= {"0..1", "-1..1", "standardized"}
        assert bool(found) != near, (name, found)


def test_values_outside_of_pixels(pixels):
    model = beginning_with(layers.Rescaling(1 / 255))
    assert quiet(model, np.clip(pixels * 1.2 - 20, -20, 280))
    (doubt,) = doubts(model, pixels - 128)
    assert doubt.reason == (
        "has values from -128 to 127, but layer 'rescaling"
        + doubt.reason.split("'rescaling")[1].split("'")[0]
        + "' of `model` rescales them to -0.5 to 0.5: it takes pixel values from 0 to 255."
    )


def test_values_outside_of_normalized_pixels(pixels):
    """Pixels without their mean have the variance of pixels."""
    model = beginning_with(layers.Normalization(mean=[78.0], variance=[9200.0]))
    (doubt,) = doubts(model, pixels - 78)
    assert doubt.reason.startswith("has values from -78 to 177, but layer 'normalization")
    assert doubt.reason.endswith("of `model` normalizes pixel values from 0 to 255.")
    assert quiet(beginning_with(layers.Normalization(mean=[0.3], variance=[0.14])), pixels / 255 - 0.3)


def network_without_preparation(scale, momentum):
    """A network that was trained on `scale` times the pixels, and has no layer that says so."""
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(8, 3, use_bias=False)(inputs)
    x = layers.ReLU()(layers.BatchNormalization(momentum=momentum)(x))
    x = layers.ReLU()(layers.BatchNormalization(momentum=momentum)(layers.Conv2D(8, 3, use_bias=False)(x)))
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(layers.GlobalAveragePooling2D()(x)))


@pytest.mark.parametrize(("scale", "momentum"), slow_after(1, [(1 / 255, 0.99), (1.0, 0.9)]))
def test_statistics_of_normalizations(digits, pixels, scale, momentum):
    """With a momentum of 0.99 the statistics have hardly moved: they must not speak against the right images."""
    keras.utils.set_random_seed(2)
    model = network_without_preparation(scale, momentum)
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", jit_compile=False)
    model.fit(digits[0][:1280] * np.float32(scale), digits[1][:1280], batch_size=32, epochs=1, verbose=0)
    assert quiet(model, pixels * scale)
    (doubt,) = doubts(model, pixels / (255 * scale))
    assert "differs from the training statistics of `model`" in doubt.reason
    assert not doubt.certain  # Nothing but the statistics says so.


@pytest.mark.parametrize("variance", [np.nan, -1.0])
def test_broken_statistics_say_nothing_of_the_images(pixels, variance):
    model = network_without_preparation(1.0, 0.9)
    (normalization,) = [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)][:1]
    normalization.moving_variance.assign(np.full(8, variance))
    assert quiet(model, pixels)


def test_statistics_outrank_the_preparation(digits, pixels):
    """Who rescaled twice in training does so in use."""
    model = network_without_preparation(1.0, 0.5)
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, model(layers.Rescaling(1 / 255)(inputs)))
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", run_eagerly=True)
    model.fit(digits[0][:640] / np.float32(255), digits[1][:640], batch_size=32, verbose=0)
    assert quiet(model, pixels / 255)
    assert not quiet(model, pixels)


def test_scores_that_do_not_vary(digits, pixels):
    """Neither preparation nor normalization: what is left is that the network answers the same to every image."""
    keras.utils.set_random_seed(1)
    ends = (
        layers.Conv2D(16, 3, activation="relu"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(10, activation="softmax"),
    )
    model = keras.Sequential([keras.Input((8, 8, 1)), *ends])
    assert quiet(model, pixels)
    assert quiet(model, pixels / 255)
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", jit_compile=False)
    model.fit(digits[0][:-500].astype("float32"), digits[1][:-500], batch_size=64, epochs=8, verbose=0)
    assert quiet(model, pixels)
    (doubt,) = doubts(model, pixels / 255)
    assert "gives the same probabilities for all of its images" in doubt.reason


def test_quantization_aware_network(trained, pixels):
    """The range that its input has learned counts too, and it is looked at with its images as they are."""
    model = quantize_aware(trained)
    assert quiet(model, pixels)
    learned = model.get_layer("images_range")
    learned.low.assign([0.0])
    learned.high.assign([255.0])
    assert quiet(model, pixels)
    # What the preparation makes of the images has a range of its own.
    (prepared,) = (layer for layer in model.layers if re.fullmatch(r"normalization\w*_range", layer.name))
    prepared.low.assign([-1.0])
    prepared.high.assign([2.0])
    assert quiet(model, pixels)
    reasons = [doubt.reason for doubt in doubts(model, pixels / 255)]
    assert "which normalizes to mean 0" in reasons[0]
    assert reasons[-1] == "has values from 0 to 1, but quantization-aware training saw values from 0 to 255."


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.parent.name for path in pathlib.Path("saved_models").glob("*/last.keras")))
def test_trained_networks_and_real_images(name):
    """Networks of every family, images of CIFAR-10: no doubt about a few of them, nor about other colors."""
    tfds = pytest.importorskip("tensorflow_datasets")
    try:
        data = tfds.load("cifar10", split="test[:1000]", download=False, batch_size=1000)
    except Exception:  # Whatever TFDS raises where there is none.
        pytest.skip("no CIFAR-10")
    (batch,) = tfds.as_numpy(data)
    images, labels = batch["image"].astype("float32"), batch["label"]
    model = files.load_model(f"saved_models/{name}/last.keras")
    gray = np.repeat((images @ np.array([0.299, 0.587, 0.114], "float32"))[..., None], 3, axis=-1)
    right = [images, images[..., ::-1], gray, images[labels == 0], *(images[start : start + 4] for start in range(20))]
    for each in right:
        assert quiet(model, each)
    for of in WRONG.values():
        assert doubts(model, of(images))[0].certain
