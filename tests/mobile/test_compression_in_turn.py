"""Pruning, clustering, quantization-aware training, and export in sequence: each step preserves earlier ones."""

import gzip

import keras
import numpy as np
import pytest

import keras_sharenets as ksn
from keras_sharenets import mobile
from keras_sharenets.mobile.inspect import file

KERNEL = 3 * 3 * 16 * 16


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(0)
    return random.uniform(0, 1, (64, 32, 32, 3)).astype("float32"), np.arange(64) % 10


def fit(model, data, epochs):
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "sparse_categorical_crossentropy", jit_compile=False)
    model.fit(*data, epochs=epochs, batch_size=16, verbose=0)
    return model


@pytest.fixture(scope="module")
def clustered(data):
    keras.utils.set_random_seed(0)
    model = fit(
        ksn.create_model(
            "sl3_resnet_64", input_shape=(32, 32, 3), num_classes=10, width=16, include_preprocessing=False
        ),
        data,
        1,
    )
    pruned = mobile.strip(fit(mobile.prune(model, 0.6, layers="blending", end_step=8, frequency=2), data, 3))
    return mobile.strip(fit(mobile.cluster(pruned, 16), data, 1))


def kernels(model):
    return {variable.path: variable.numpy() for variable in model.trainable_variables if variable.name == "kernel"}


def integer_kernels(path):
    """The distinct integer kernels of a file."""
    runtime = file.open_tflite(path)
    contents = file.parse(path.read_bytes())
    assert file.repeated_bytes(contents) == 0
    details = [detail for detail in runtime.get_tensor_details() if len(detail["shape"]) == 4]
    constants = {}
    for detail in details:
        if detail["dtype"] == np.int8 and len(detail["quantization_parameters"]["scales"]) > 1:
            array = runtime.get_tensor(detail["index"])
            constants[array.tobytes()] = array
    return list(constants.values())


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["keras", "tfmot"])
def test_zeros_and_clusters_are_preserved(engine, clustered, data, tmp_path):
    before = kernels(clustered)
    q = fit(mobile.quantize_aware(clustered, engine=engine, preserve="clusters"), data, 2)
    report = mobile.export_tflite(q, tmp_path / "q.tflite", quantization="int8", representative_data=data[0])
    assert report.repetition < 1.6
    stripped = mobile.strip(q)
    after = kernels(stripped)
    assert after.keys() == before.keys()
    for path, kernel in after.items():
        assert len(np.unique(kernel)) <= 16, path
        np.testing.assert_array_equal(kernel == 0, before[path] == 0)
        if "blend" in path:
            assert (kernel == 0).mean() == pytest.approx(0.6, abs=0.01)
    assert any(np.abs(after[path] - before[path]).max() > 0 for path in after)
    shared = [array for array in integer_kernels(tmp_path / "q.tflite") if array.size == KERNEL]
    assert len(shared) == 1
    assert len(np.unique(shared[0])) <= 16
    random = ksn.create_model(
        "sl3_resnet_64", input_shape=(32, 32, 3), num_classes=10, width=16, include_preprocessing=False
    )
    plain = mobile.export_tflite(random, tmp_path / "plain.tflite", quantization="int8", representative_data=data[0])
    sizes = [len(gzip.compress((tmp_path / name).read_bytes())) for name in ("q.tflite", "plain.tflite")]
    # A pruned and clustered file compresses better.
    assert report.file_bytes - sizes[0] > plain.file_bytes - sizes[1] + 1000
