"""Representative data with an unexpected range is rejected or causes a warning; the expected range is accepted."""

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

SAVED = pathlib.Path(__file__).parents[2] / "saved_models"
# Transformations of the digits, for a network that expects pixels from 0 to 255.
WRONG = {
    "0..1": lambda images: images / 255,
    "-1..1": lambda images: images / 127.5 - 1,
    "standardized": lambda images: (images / 255 - 0.3) / 0.38,
    "16 bits": lambda images: images * 257,
}
RIGHT = {
    "pixels": lambda images: images,
    "two": lambda images: images[:2],
    "one of two images twice": lambda images: images[[0, 0, 1]],
    "sorted by brightness": lambda images: images[np.argsort(images.mean((1, 2, 3)))][:32],
}


def has_no_doubts(model, images):
    return not doubts(model, np.asarray(images, "float32"))


@pytest.fixture(scope="module")
def pixels(digits):
    return digits[0][-500:].astype("float32")


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_range_is_rejected(trained, pixels, tmp_path, wrong):
    with pytest.raises(ValueError, match=r"`representative_data` has values from .*which normalizes to mean 0"):
        export_tflite(trained, tmp_path / "m.tflite", "int8", representative_data=WRONG[wrong](pixels))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("right", RIGHT)
def test_expected_range_is_accepted_silently(trained, pixels, right):
    assert has_no_doubts(trained, RIGHT[right](pixels))


def test_rejected_data_would_ruin_accuracy(trained, digits, pixels, tmp_path, monkeypatch):
    """The comparison with Keras uses the same images and therefore does not reveal the loss of accuracy."""
    accuracy, path = {}, tmp_path / "m.tflite"
    monkeypatch.setattr(calibration_check, "doubts", lambda *_: [])
    for name, images in {"pixels": pixels, "0..1": pixels / 255}.items():
        report = export_tflite(trained, path, "int8", representative_data=images[:100])
        assert report.top1_agreement > 0.9
        accuracy[name] = (predict_tflite(path, pixels).argmax(-1) == digits[1][-500:]).mean()
    assert accuracy["pixels"] > 0.85
    assert accuracy["0..1"] < 0.5


@pytest.mark.parametrize("value", [0, 128])
def test_constant_images_are_rejected(plain, tmp_path, value):
    images = np.full((4, 6, 5, 3), value)
    with pytest.raises(ValueError, match=f"contains only the value {value}: no range can be measured"):
        export_tflite(plain, tmp_path / "m.tflite", "int8", representative_data=images)
    with pytest.warns(UserWarning, match=f"contains only the value {value}:"):
        export_tflite(plain, tmp_path / "m.tflite", representative_data=images)


@pytest.mark.parametrize(("count", "words"), [(1, "is a single image"), (5, "is 5 times the same image")])
def test_single_image_causes_a_warning(trained, pixels, count, words):
    (doubt,) = doubts(trained, np.repeat(pixels[:1], count, axis=0))
    assert doubt.reason.startswith(words)
    assert not doubt.certain


def test_saved_model_export_only_warns(trained, pixels, tmp_path, monkeypatch):
    """A SavedModel is not calibrated, so wrong images do not affect it."""
    monkeypatch.setattr(saved_model, "_write", lambda model, head, folder, *rest: folder.mkdir())
    monkeypatch.setattr(saved_model, "_verify", lambda *_: 0.0)
    with pytest.warns(UserWarning, match="has values from 0 to 1, but layer"):
        export_saved_model(trained, tmp_path / "m", representative_data=pixels / 255)
    assert (tmp_path / "m").is_dir()


def network_with_preprocessing(*preparation):
    """An untrained network, without statistics of its training images."""
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
def test_expected_range_from_preprocessing_layers(pixels, preparation, right):
    model = network_with_preprocessing(*preparation)
    for name, of in ({"pixels": RIGHT["pixels"]} | WRONG).items():
        found = doubts(model, of(pixels[:64]))
        assert not any(doubt.certain for doubt in found)
        # Standardized values have the same magnitude as values from 0 to 1.
        near = right is None or name == right or {name, right} <= {"0..1", "-1..1", "standardized"}
        assert bool(found) != near, (name, found)


def test_values_outside_pixel_range(pixels):
    model = network_with_preprocessing(layers.Rescaling(1 / 255))
    assert has_no_doubts(model, np.clip(pixels * 1.2 - 20, -20, 280))
    (doubt,) = doubts(model, pixels - 128)
    assert doubt.reason == (
        "has values from -128 to 127, but layer 'rescaling"
        + doubt.reason.split("'rescaling")[1].split("'")[0]
        + "' of `model` rescales them to -0.5 to 0.5: it takes pixel values from 0 to 255."
    )


def test_values_outside_range_of_normalization(pixels):
    """Centered pixels still have the variance of pixels."""
    model = network_with_preprocessing(layers.Normalization(mean=[78.0], variance=[9200.0]))
    (doubt,) = doubts(model, pixels - 78)
    assert doubt.reason.startswith("has values from -78 to 177, but layer 'normalization")
    assert doubt.reason.endswith("of `model` normalizes pixel values from 0 to 255.")
    assert has_no_doubts(
        network_with_preprocessing(layers.Normalization(mean=[0.3], variance=[0.14])), pixels / 255 - 0.3
    )


def network_without_preprocessing(scale, momentum):
    """A network to be trained on `scale` times the pixels, without a preprocessing layer."""
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(8, 3, use_bias=False)(inputs)
    x = layers.ReLU()(layers.BatchNormalization(momentum=momentum)(x))
    x = layers.ReLU()(layers.BatchNormalization(momentum=momentum)(layers.Conv2D(8, 3, use_bias=False)(x)))
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(layers.GlobalAveragePooling2D()(x)))


@pytest.mark.parametrize(("scale", "momentum"), slow_after(1, [(1 / 255, 0.99), (1.0, 0.9)]))
def test_expected_range_from_batch_normalization_statistics(digits, pixels, scale, momentum):
    """With a momentum of 0.99, the statistics have hardly moved, but must not reject the right images."""
    keras.utils.set_random_seed(2)
    model = network_without_preprocessing(scale, momentum)
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", jit_compile=False)
    model.fit(digits[0][:1280] * np.float32(scale), digits[1][:1280], batch_size=32, epochs=1, verbose=0)
    assert has_no_doubts(model, pixels * scale)
    (doubt,) = doubts(model, pixels / (255 * scale))
    assert "differs from the training statistics of `model`" in doubt.reason
    assert not doubt.certain  # Only the statistics indicate it.


@pytest.mark.parametrize("variance", [np.nan, -1.0])
def test_invalid_statistics_are_ignored(pixels, variance):
    model = network_without_preprocessing(1.0, 0.9)
    (normalization,) = [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)][:1]
    normalization.moving_variance.assign(np.full(8, variance))
    assert has_no_doubts(model, pixels)


def test_statistics_take_precedence_over_preprocessing_layers(digits, pixels):
    """Images that were rescaled twice in training are also rescaled twice in use."""
    model = network_without_preprocessing(1.0, 0.5)
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, model(layers.Rescaling(1 / 255)(inputs)))
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", run_eagerly=True)
    model.fit(digits[0][:640] / np.float32(255), digits[1][:640], batch_size=32, verbose=0)
    assert has_no_doubts(model, pixels / 255)
    assert not has_no_doubts(model, pixels)


def test_constant_scores_cause_a_warning(digits, pixels):
    """Without preprocessing and normalization, the only sign is the same output for every image."""
    keras.utils.set_random_seed(1)
    ends = (
        layers.Conv2D(16, 3, activation="relu"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(10, activation="softmax"),
    )
    model = keras.Sequential([keras.Input((8, 8, 1)), *ends])
    assert has_no_doubts(model, pixels)
    assert has_no_doubts(model, pixels / 255)
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", jit_compile=False)
    model.fit(digits[0][:-500].astype("float32"), digits[1][:-500], batch_size=64, epochs=8, verbose=0)
    assert has_no_doubts(model, pixels)
    (doubt,) = doubts(model, pixels / 255)
    assert "gives the same probabilities for all of its images" in doubt.reason


def test_learned_ranges_of_quantization_aware_training(trained, pixels):
    """The learned range of the input is checked as well."""
    model = quantize_aware(trained)
    assert has_no_doubts(model, pixels)
    learned = model.get_layer("images_range")
    learned.low.assign([0.0])
    learned.high.assign([255.0])
    assert has_no_doubts(model, pixels)
    # The preprocessed images have a separate range.
    (prepared,) = (layer for layer in model.layers if re.fullmatch(r"normalization\w*_range", layer.name))
    prepared.low.assign([-1.0])
    prepared.high.assign([2.0])
    assert has_no_doubts(model, pixels)
    reasons = [doubt.reason for doubt in doubts(model, pixels / 255)]
    assert "which normalizes to mean 0" in reasons[0]
    assert reasons[-1] == "has values from 0 to 1, but quantization-aware training saw values from 0 to 255."


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.parent.name for path in SAVED.glob("*/last.keras")))
def test_no_false_warnings_on_cifar10(name):
    """Few images, a single class, gray images, and swapped colors are accepted by trained networks of every family."""
    tfds = pytest.importorskip("tensorflow_datasets")
    try:
        data = tfds.load("cifar10", split="test[:1000]", download=False, batch_size=1000)
    except Exception:  # TFDS raises various errors if the data is missing.
        pytest.skip("no CIFAR-10")
    (batch,) = tfds.as_numpy(data)
    images, labels = batch["image"].astype("float32"), batch["label"]
    model = files.load_model(SAVED / name / "last.keras")
    gray = np.repeat((images @ np.array([0.299, 0.587, 0.114], "float32"))[..., None], 3, axis=-1)
    right = [images, images[..., ::-1], gray, images[labels == 0], *(images[start : start + 4] for start in range(20))]
    for each in right:
        assert has_no_doubts(model, each)
    for of in WRONG.values():
        assert doubts(model, of(images))[0].certain
