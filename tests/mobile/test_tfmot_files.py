"""Results of pruning and clustering: zeros and clusters in files, and a plain model after stripping."""

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from families import representative
from harness import outputs_of, pseudo_random
from tfmot_networks import IMAGES, count_distinct, fit, kernels, network, one_layer, small_network

import keras_sharenets as ksn
from keras_sharenets import mobile
from keras_sharenets.analysis.blending import blending_layers
from keras_sharenets.mobile.inspect import file

TYPES = {"float32": schema.TensorType.FLOAT32, "int8": schema.TensorType.INT8}


def constants(path, kind):
    """The distinct constants of a type in a file."""
    contents = file.parse(path.read_bytes())
    graph = contents.Subgraphs(0)
    tensors = {graph.Tensors(index).Buffer(): graph.Tensors(index) for index in range(graph.TensorsLength())}
    return [
        contents.Buffers(buffer).DataAsNumpy().view(kind).reshape(tensor.ShapeAsNumpy())
        for buffer, tensor in tensors.items()
        if contents.Buffers(buffer).DataLength() and tensor.Type() == TYPES[kind]
    ]


def exported_kernels(model, quantization, folder):
    """The kernels in the file of a model, with the axes of Keras."""
    path, images = folder / "net.tflite", pseudo_random((8, *model.input_shape[1:]))
    report = mobile.export_tflite(model, path, quantization=quantization, representative_data=images, prefer="size")
    assert report.stored_parameters == ksn.profile(model).stored_parameters
    found = constants(path, "float32" if quantization is None else "int8")
    return [array.transpose(1, 2, 3, 0) for array in found if array.ndim == 4]


@pytest.fixture(scope="module")
def shardnet():
    """A function that builds a small network with one 3x3 convolution in seven places and two blending layers."""

    def build():
        keras.utils.set_random_seed(0)
        overrides = {"width": 20, "blocks_per_stage": 1, "input_shape": (16, 16, 3)}
        return representative("shardnet", **overrides)

    return build


def test_pruned_blending_weights_are_zero_in_files(shardnet, tmp_path):
    model = shardnet()
    before = ksn.profile(model)
    pruned = mobile.prune(model, 0.6, layers="blending", end_step=2, frequency=1)
    fit(pruned, pseudo_random((16, 16, 16, 3)), np.arange(16) % 10, run_eagerly=True)
    small = mobile.strip(pruned)
    assert ksn.profile(small).stored_parameters == before.stored_parameters
    blends = [layer.kernel.numpy() for layer in blending_layers(small).values()]
    assert [(kernel == 0).sum() for kernel in blends] == [240, 240]
    for quantization in (None, "int8"):
        found = exported_kernels(small, quantization, tmp_path)
        assert sum(array.shape == (3, 3, 20, 20) for array in found) == 1
        for kernel in blends:
            alike = [array for array in found if array.shape == kernel.shape and not array[kernel == 0].any()]
            assert len(alike) == 1
            assert (alike[0] == 0).mean() == pytest.approx(0.6, abs=0.02)


def test_clustered_shared_kernel_has_few_values_in_files(shardnet, tmp_path):
    model = shardnet()
    clustered = mobile.cluster(model)
    fit(clustered, pseudo_random((8, 16, 16, 3)), np.arange(8) % 10, run_eagerly=True)
    small = mobile.strip(clustered)
    assert all(count_distinct(kernel) <= 16 for kernel in kernels(small).values())
    (shared,) = (array for array in exported_kernels(small, None, tmp_path) if array.shape == (3, 3, 20, 20))
    assert count_distinct(shared) == count_distinct(model.get_layer("shared_spatial").kernel.numpy()) > 8


def test_saved_and_stripped_models_are_plain(tmp_path):
    model = small_network()
    clustered = mobile.cluster(model, 5)
    fit(clustered, run_eagerly=True)
    clustered.save(tmp_path / "own.keras")
    keras.saving.save_model(clustered, tmp_path / "keras.keras")
    copies = [keras.saving.load_model(tmp_path / f"{name}.keras", compile=False) for name in ("own", "keras")]
    stripped = mobile.strip(clustered)
    assert stripped.layers == model.layers
    for copy in (*copies, stripped):
        assert type(copy) is type(model)
        np.testing.assert_array_equal(outputs_of(copy, IMAGES), outputs_of(model, IMAGES))
    assert clustered.count_params() == model.count_params()
    assert ksn.profile(clustered) == ksn.profile(model)


def test_strip_of_other_models():
    model = network()
    stripped = mobile.strip(model)
    assert stripped is not model
    assert stripped.layers == model.layers
    sequential = one_layer(np.ones((2, 3)))
    assert mobile.strip(sequential).layers[-1] is sequential.layers[0]
    with pytest.raises(ValueError, match="must be a functional Keras model"):
        mobile.strip(keras.layers.Dense(1))
