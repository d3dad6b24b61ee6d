"""Pretrained networks and weights from files: assignment of weights, preprocessing of pixels, errors."""

import dataclasses
import hashlib
import json
import pathlib
import re
import warnings

import keras
import numpy as np
import pytest
from harness import assert_close, outputs_of, pseudo_random

import keras_sharenets as ksn
from keras_sharenets import files
from keras_sharenets.models import weights as trained

MEAN, VARIANCE = [120.0, 110.0, 100.0], [4000.0, 3900.0, 4400.0]
SMALL = {"width": (4, 6, 8)}
PIXELS = 127.5 + 127.5 * np.clip(pseudo_random((3, 32, 32, 3)), -1, 1)


def as_after_fit(**arguments):
    """A network after a normalization, with weights that differ from initial ones."""
    inputs = keras.Input((32, 32, 3), name="images")
    normalized = keras.layers.Normalization(mean=MEAN, variance=VARIANCE, name="normalize")(inputs)
    options = {"num_classes": 10, **SMALL, **arguments}
    model = ksn.create_model("resnet_8", input_tensor=normalized, include_preprocessing=False, **options)
    random = np.random.default_rng(1)
    values = [random.uniform(0.2, 0.9, weight.shape) for weight in model.get_weights()]
    # Kernels have both signs, variances are positive.
    model.set_weights([value - 0.5 if value.ndim > 1 else value for value in values])
    return model


@pytest.fixture(scope="module")
def source():
    return as_after_fit()


@pytest.fixture(scope="module")
def file(source, tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "last.keras"
    files.save_model(source, path)
    return path


@pytest.fixture
def package(file, tmp_path, monkeypatch):
    """A package in which this network is pretrained."""
    (tmp_path / "small.keras").write_bytes(file.read_bytes())
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    values = {"weights": "cifar10", "model": "resnet_8", "options": SMALL, "class_names": list("abcdefghij")}
    values |= {"input_shape": [32, 32, 3], "test_accuracy": 0.5, "int8_test_accuracy": 0.4, "int8_bytes": 1000}
    values |= {"stored_parameters": 1, "run": "run", "file": "small.keras", "sha256": digest}
    (tmp_path / "index.json").write_text(json.dumps([values]))
    monkeypatch.setattr(trained, "FOLDER", tmp_path)
    monkeypatch.setattr(trained, "INDEX", tmp_path / "index.json")
    trained._index.cache_clear()
    yield tmp_path
    trained._index.cache_clear()


def test_pixels_are_preprocessed_as_in_training(source, package):
    model = ksn.create_model("resnet_8", weights="cifar10", **SMALL)
    assert_close(outputs_of(model, PIXELS), outputs_of(source, PIXELS), 1e-6)
    assert model.name == "resnet_8"
    # Options may have JSON types.
    listed = ksn.create_model("resnet_8", weights="cifar10", width=[4, 6, 8])
    assert_close(outputs_of(listed, PIXELS), outputs_of(source, PIXELS), 1e-6)


def test_external_preprocessing(source, file):
    model = ksn.create_model("resnet_8", weights=file, include_preprocessing=False, **SMALL)
    prepared = (PIXELS - np.array(MEAN)) / np.sqrt(VARIANCE)
    assert_close(outputs_of(model, prepared), outputs_of(source, PIXELS), 1e-5)


def test_another_number_of_classes_has_a_new_head(source, file):
    model = ksn.create_model("resnet_8", weights=file, num_classes=3, **SMALL)
    assert model.output_shape == (None, 3)
    pooled = [keras.Model(each.input, each.get_layer("pool").output) for each in (model, source)]
    assert_close(outputs_of(pooled[0], PIXELS), outputs_of(pooled[1], PIXELS), 1e-6)


def test_hidden_layers_of_a_classifier_may_be_new_too(tmp_path):
    """ShardNet's VGGNets have wider hidden layers for more classes."""
    small = {"width": 4, "input_shape": (32, 32, 3), "include_preprocessing": False}
    source = ksn.create_model("s_vggnet_32", num_classes=10, **small)
    files.save_model(source, tmp_path / "net.keras")
    model = ksn.create_model("s_vggnet_32", weights=tmp_path / "net.keras", num_classes=11, **small)
    assert [model.get_layer(name).units for name in ("dense1", "dense2", "predictions")] == [1024, 1024, 11]
    shared = [network.get_layer("shared_spatial").kernel for network in (model, source)]
    assert_close(*shared, 1e-9)
    text = "layer 'dense1', the file has weights of [(4, 512), (512,)], 's_vggnet_32' has weights of [(4, 6), (6,)]"
    with pytest.raises(ValueError, match=re.escape(text)):
        ksn.create_model("s_vggnet_32", weights=tmp_path / "net.keras", hidden_units=(6, 6), **small)


def test_without_the_top_and_of_another_size(source, file):
    model = ksn.create_model(
        "resnet_8", weights=file, include_top=False, pooling="avg", input_shape=(16, 24, 3), **SMALL
    )
    assert (model.input_shape, model.output_shape) == ((None, 16, 24, 3), (None, 8))
    assert_close(model.get_layer("stage3_conv2").kernel, source.get_layer("stage3_conv2").kernel, 1e-9)


def test_upon_a_tensor(source, file):
    images = keras.Input((32, 32, 3))
    model = ksn.create_model("resnet_8", weights=str(file), input_tensor=keras.layers.Identity()(images), **SMALL)
    assert_close(outputs_of(model, PIXELS), outputs_of(source, PIXELS), 1e-6)


def test_a_file_with_the_preprocessing_of_the_factory_and_another_activation(tmp_path):
    model = ksn.create_model("resnet_8", num_classes=4, classifier_activation="sigmoid", **SMALL)
    files.save_model(model, tmp_path / "net.keras")
    again = ksn.create_model("resnet_8", weights=tmp_path / "net.keras", **SMALL)
    assert type(again.get_layer("preprocessing")) is keras.layers.Rescaling
    assert_close(outputs_of(again, PIXELS), outputs_of(model, PIXELS), 1e-6)
    same = ksn.create_model("resnet_8", weights=tmp_path / "net.keras", num_classes=4, **SMALL)
    assert_close(outputs_of(same, PIXELS), outputs_of(model, PIXELS), 1e-6)
    new = ksn.create_model("resnet_8", weights=tmp_path / "net.keras", num_classes=3, **SMALL)
    assert new.get_layer("predictions").activation is keras.activations.softmax


def test_strides_that_depend_on_the_size_of_the_images(tmp_path):
    small = {"width": 4, "blocks_per_stage": 2, "stem_filters": 4}
    files.save_model(ksn.create_model("xception_c35_d8", input_shape=(32, 32, 3), **small), tmp_path / "net.keras")
    larger = {"weights": tmp_path / "net.keras", "input_shape": (64, 64, 3), **small}
    with pytest.warns(
        UserWarning, match=r"strides of \(1, 1\) in the layer 'stem', but 'xception_c35_d8' has \(2, 2\)"
    ):
        ksn.create_model("xception_c35_d8", **larger)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        ksn.create_model("xception_c35_d8", stem_strides=1, **larger)


def refusal(**arguments):
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        ksn.create_model("resnet_8", **arguments)
    return str(caught.value)


def test_missing_weights(package):
    there = "Available: weights='cifar10' for 'resnet_8 width=(4, 6, 8)'."
    assert refusal(weights="cifar10") == f"There are no `weights` (='cifar10') for 'resnet_8'. {there}"
    assert refusal(weights="cifar10", width=(4, 4, 4)).endswith(f"for 'resnet_8', width=(4, 4, 4). {there}")
    rule = "must be None, 'cifar10', or the path of a .keras file."
    assert refusal(weights="imagenet") == f"`weights` (='imagenet') {rule} {there}"
    with pytest.raises(ValueError, match=r"'igcv2_c64_d8' is not pretrained; `sharenets list --trained` lists"):
        ksn.create_model("igcv2_c64_d8", weights="cifar10")
    assert refusal(weights=True) == f"`weights` (=True) {rule} {there}"
    assert refusal(weights="nowhere/last.keras") == "There is no file nowhere/last.keras."


def test_images_with_other_channels_than_the_weights(source, file):
    text = f"must have 3 channels, as in the network of `weights` (={file})."
    assert refusal(weights=file, input_shape=[32, 32, 1], **SMALL) == f"`input_shape` (=(32, 32, 1)) {text}"
    gray = keras.Input((32, 32, 1))
    assert refusal(weights=file, input_tensor=gray, **SMALL) == f"`input_tensor.shape[1:]` (=(32, 32, 1)) {text}"


def test_damaged_files(package, file, tmp_path):
    whole = file.read_bytes()
    (package / "small.keras").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "small.keras is damaged: its SHA-256 is " in refusal(weights="cifar10", **SMALL)
    (package / "small.keras").unlink()
    assert "which belongs to the package: reinstall the package." in refusal(weights="cifar10", **SMALL)
    (tmp_path / "cut.keras").write_bytes(whole[: len(whole) // 2])
    assert refusal(weights=tmp_path / "cut.keras", **SMALL) == (
        f"{tmp_path / 'cut.keras'} is not a Keras file: a `.keras` file is a zip archive with `config.json` in it."
    )


@pytest.mark.parametrize(
    ("width", "message"),
    [
        ((4, 6, 9), "layer 'stage3_conv1', the file has weights of [(3, 3, 6, 8), (8,)], 'resnet_8' has weights of"),
        ((4, 6), "layer 'predictions', the file has weights of [(8, 10), (10,)], 'resnet_8' has weights of [(6, 10),"),
        ((4, 6, 8, 8), "layer 'stage4_conv1', the file has no such layer, 'resnet_8' has weights of [(3, 3, 8,"),
    ],
)
def test_weights_of_another_shape(width, message, file):
    text = refusal(weights=file, width=width)
    assert text.startswith(f"`weights` (={file}) belong to another network, or to one with other options: ")
    assert message in text


def test_networks_without_one_classifier(source, tmp_path):
    """The number of channels of its feature maps would become the number of classes of an untrained classifier."""
    path, maps = tmp_path / "other.keras", source.get_layer("stage3_relu").output
    files.save_model(keras.Model(source.input, maps), path)
    with pytest.raises(ValueError, match=r"without a classifier: pass `num_classes`, for a new one, or `include_top="):
        ksn.create_model("resnet_8", weights=path, **SMALL)
    for made in ({"num_classes": 4}, {"include_top": False}):
        model = ksn.create_model("resnet_8", weights=path, **SMALL, **made)
        kernels = [network.get_layer("stem").get_weights()[0] for network in (model, source)]
        np.testing.assert_array_equal(*kernels)
    for other in (keras.Model(source.input, [maps, source.output]), keras.Sequential()):
        files.save_model(other, path)
        with pytest.raises(ValueError, match="must be a functional network with one input and one output"):
            ksn.create_model("resnet_8", weights=path, **SMALL)


def test_options_that_change_no_shape(source, tmp_path):
    """With equal shapes, the weights would fit another network: in layers, settings, or connections."""
    file, own = tmp_path / "net.keras", {"width": 8, "branch_channels": ((2, 4),) * 3}
    files.save_model(ksn.create_model("igcv2_c64_d8", **own, stem_strides=2), file)
    with pytest.raises(
        ValueError, match=r"belong to a network with other options: layer 'stem_pad' is only in the file"
    ):
        ksn.create_model("igcv2_c64_d8", **own, weights=file)
    ksn.create_model("igcv2_c64_d8", **own, weights=file, stem_strides=2)

    def changed(layer):
        leaky = {"negative_slope": 0.1} if layer.name == "stage1_relu" else {}
        return type(layer).from_config(layer.get_config() | leaky)

    def doubled(layer, *inputs, **given):
        return layer([inputs[0][1]] * 2) if layer.name == "stage1_add" else layer(*inputs, **given)

    files.save_model(keras.models.clone_model(source, clone_function=changed), file)
    assert "`negative_slope` of layer 'stage1_relu' is 0.1 in the file, and 0.0" in refusal(weights=file, **SMALL)
    files.save_model(keras.models.clone_model(source, call_function=doubled, clone_function=lambda each: each), file)
    text = (
        "`inputs` of layer 'stage1_add' is ['stage1_conv2_norm', 'stage1_conv2_norm'] in the file, and ['stem_relu', "
    )
    assert text in refusal(weights=file, **SMALL)


def test_weights_in_another_order():
    """With more than two arrangements: the shapes match, but the network would differ."""

    def network(arrangements, plane_orders):
        inputs = keras.Input((4, 4, 8))
        pair = [
            ksn.layers.HighlySharedConv2D(8, size, arrangements=arrangements, plane_orders=plane_orders)
            for size in (3, 1)
        ]
        return keras.Model(inputs, ksn.layers.ParallelConv2D(*pair, name="both")(inputs), name="net")

    for arrangements, orders in ((2, ("distinct", "shuffled")), (4, ("shuffled", "shuffled"))):
        old, new = (network(arrangements, each) for each in orders)
        trained.transfer_weights(old, new, pathlib.Path("old.keras"))
        assert all(np.array_equal(*pair) for pair in zip(old.get_weights(), new.get_weights(), strict=True))
    text = r"`weights` \(=old\.keras\) belong to a network with `plane_orders` \(=shuffled\), but 'net' has distinct"
    with pytest.raises(ValueError, match=text):
        trained.transfer_weights(network(4, "shuffled"), network(4, "distinct"), pathlib.Path("old.keras"))


def test_custom_preprocessing(source, tmp_path):
    inputs = keras.Input((32, 32, 3))
    files.save_model(keras.Model(inputs, source(keras.layers.Rescaling(1 / 255)(inputs))), tmp_path / "net.keras")
    text = refusal(weights=tmp_path / "net.keras", **SMALL)
    assert "neither a normalization of channels nor a rescaling to -1 to 1: pass `include_preprocessing=False`" in text


@pytest.mark.parametrize("value", [(1, 2), ([1, 2, 3], [1, 2, 0]), ([1, 2, 3], [1, 2]), ([1], [float("nan")]), "ab"])
def test_statistics_of_pixels_are_checked(value):
    assert refusal(pixel_statistics=value).startswith("`pixel_statistics` (=")


# Weights in the package


def test_pretrained_networks_are_listed():
    listed = ksn.models.list_trained()
    assert {each.file for each in listed} == {path.name for path in trained.FOLDER.glob("*.keras")}
    for each in listed:
        assert hashlib.sha256((trained.FOLDER / each.file).read_bytes()).hexdigest() == each.sha256
    assert sum((trained.FOLDER / each.file).stat().st_size for each in listed) < 3_000_000


def test_a_pretrained_network():
    (each,) = (each for each in ksn.models.list_trained("sl3_resnet_64") if each.options == {"width": 40})
    model = ksn.create_model("sl3_resnet_64", width=40, weights="cifar10")
    saved = files.load_model(trained.FOLDER / each.file)
    assert_close(outputs_of(model, PIXELS), outputs_of(saved, PIXELS), 1e-6)
    assert ksn.profile(model).stored_parameters == each.stored_parameters == 19650


def test_options_of_a_trained_network_are_part_of_its_label():
    each = ksn.models.list_trained("sl3_resnet_64")[0]
    assert dataclasses.replace(each, options={"width": 40}).label == "sl3_resnet_64 width=40"
