import io

import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from mobile_networks import NAMES
from tensorflow.core.protobuf import saved_model_pb2

from keras_sharenets.images import read_image
from keras_sharenets.mobile import export_saved_model
from keras_sharenets.mobile.export import saved_model


def encode(image, kind):
    file = io.BytesIO()
    PIL.Image.fromarray(image.squeeze()).save(file, kind)
    return file.getvalue()


@pytest.fixture(scope="module")
def exported(trained, digits, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "digits"
    return path, export_saved_model(trained, path, class_names=NAMES, representative_data=digits[0][:200])


@pytest.fixture(scope="module")
def served(exported):
    return tf.saved_model.load(str(exported[0]))


def functions_of(folder):
    content = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    return content.meta_graphs[0].graph_def.library.function


def test_both_signatures(served, trained, digits):
    images = digits[0][-30:]
    expected = np.asarray(trained(images.astype("float32")))
    runs = [
        served.signatures["serving_default"](images=tf.constant(images, tf.float32)),
        served.signatures["serve_encoded"](encoded=tf.constant([encode(image, "PNG") for image in images])),
    ]
    for results in runs:
        assert set(results) == {"class_name", "class_names", "probabilities"}
        np.testing.assert_allclose(results["probabilities"], expected, atol=1e-5)
        first = [NAMES[index].encode() for index in expected.argmax(-1)]
        assert results["class_name"].numpy().tolist() == first
        assert results["class_names"].numpy().tolist() == [[name.encode() for name in NAMES]] * len(images)


def test_empty_batch(served):
    results = served.signatures["serve_encoded"](encoded=tf.constant([], tf.string))
    assert {name: tuple(result.shape) for name, result in results.items()} == {
        "class_name": (0,),
        "class_names": (0, 10),
        "probabilities": (0, 10),
    }


@pytest.mark.parametrize("kind", ["PNG", "GIF", None])
def test_invalid_image_file_is_identified(served, digits, kind):
    *files, last = [encode(image, kind or "PNG") for image in digits[0][-3:]]
    damaged, what = (
        (last[:-20], f"a {kind} file that is truncated") if kind else (b"no image", "a file of an unknown kind")
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match=rf"with index\] \[2\] \[is\] \[{what}"):
        served.signatures["serve_encoded"](encoded=tf.constant([*files, damaged, *files]))


def test_clients_without_signature_names(exported, trained, digits):
    """TensorFlow's converter and `keras.layers.TFSMLayer`."""
    images = digits[0][-3:].astype("float32")
    expected = np.asarray(trained(images))
    converter = tf.lite.TFLiteConverter.from_saved_model(str(exported[0]))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
    assert len(converter.convert()) > 4 * trained.count_params()
    answer = keras.layers.TFSMLayer(str(exported[0]), call_endpoint="serve")(images)
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-5)


def test_no_function_requires_xla(exported):
    """A server may lack XLA."""
    functions = functions_of(exported[0])
    assert len(functions) > 1
    assert not [function for function in functions if function.attr["_XlaMustCompile"].b]


def test_every_weight_is_stored_once(exported, trained):
    reader = tf.train.load_checkpoint(str(exported[0] / "variables" / "variables"))
    numbers = [name for name, dtype in reader.get_variable_to_dtype_map().items() if dtype.is_floating]
    assert len(numbers) == len(trained.weights)
    stored = sorted(reader.get_tensor(name).tobytes() for name in numbers)
    assert stored == sorted(np.asarray(weight).tobytes() for weight in trained.weights)


def test_signatures_share_one_network(exported, trained):
    """Both signatures call the same function."""
    function = tf.function(lambda images: trained(images, training=False))
    traced = function.get_concrete_function(tf.TensorSpec((None, 8, 8, 1))).graph.get_operations()
    convolutions = [operation for operation in traced if operation.type == "Conv2D"]
    nodes = [node for function in functions_of(exported[0]) for node in function.node_def]
    assert len([node for node in nodes if node.op == "Conv2D"]) == len(convolutions) >= 4


def test_report(exported):
    path, report = exported
    assert report.path == str(path)
    assert report.total_bytes == sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    assert report.verified_on == "64 given images"
    assert report.class_names == NAMES
    assert report.largest_difference < 1e-5


@pytest.mark.slow
def test_rgb_network_without_class_names(plain, tmp_path):
    report = export_saved_model(plain, tmp_path / "plain")
    assert report.verified_on == "16 synthetic images"
    assert report.class_names == ("0", "1", "2")
    image = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype="uint8")
    results = tf.saved_model.load(str(tmp_path / "plain")).signatures["serve_encoded"](
        encoded=tf.constant([encode(image, "PNG")])
    )
    np.testing.assert_allclose(results["probabilities"], plain(image[None].astype("float32")), atol=1e-5)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("stored", [(40, 30, 3), (40, 30, 1), (6, 5, 3)])
@pytest.mark.parametrize("shape", [(6, 5, 3), (6, 5, 1), (70, 90, 3)])
def test_decode_matches_read_image(tmp_path, kind, stored, shape):
    random = np.random.default_rng(0)
    blocks = random.integers(0, 256, (-(-stored[0] // 4), -(-stored[1] // 4), stored[2]), dtype="uint8")
    data = encode(blocks.repeat(4, 0).repeat(4, 1)[: stored[0], : stored[1]], kind)
    (tmp_path / "image").write_bytes(data)
    expected = read_image(tmp_path / "image", shape).astype(int)
    # Pillow rounds after resizing each axis, TensorFlow only once.
    np.testing.assert_allclose(saved_model.decode(tf.constant(data), shape), expected, atol=0 if stored == shape else 1)


def test_existing_folder(plain, tmp_path, monkeypatch):
    monkeypatch.setattr(saved_model, "_write", lambda *_: pytest.fail("work was done before the check"))
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"exists\. Choose a new folder"):
        export_saved_model(plain, tmp_path / "m")
    assert (tmp_path / "m" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("shape", "arguments", "message"),
    [
        ((4, 4, 2), {}, "must take images of 1 or 3 channels"),
        ((None, 4, 3), {}, "Export needs a fixed image size"),
        ((4, 4, 3), {"class_names": ["a"]}, "`class_names` has 1 entry, but the network has 2 classes"),
        (
            (4, 4, 3),
            {"representative_data": np.zeros((2, 4, 4, 1))},
            "`representative_data` must contain images of shape",
        ),
    ],
)
def test_bad_argument(tmp_path, monkeypatch, shape, arguments, message):
    monkeypatch.setattr(saved_model, "_write", lambda *_: pytest.fail("work was done before the check"))
    layers = [keras.Input(shape), keras.layers.GlobalMaxPooling2D(), keras.layers.Dense(2)]
    with pytest.raises(ValueError, match=message):
        export_saved_model(keras.Sequential(layers), tmp_path / "m", **arguments)
    assert not list(tmp_path.iterdir())


def test_other_backend(plain, tmp_path, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(RuntimeError, match="Export needs the TensorFlow backend, and Keras runs on 'jax'"):
        export_saved_model(plain, tmp_path / "m")
