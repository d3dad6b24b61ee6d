"""Networks and inspection helpers shared by the export tests."""

import pathlib

import keras
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

import keras_sharenets as ksn
from keras_sharenets.analysis.graph import trace
from keras_sharenets.mobile.export import conversion
from keras_sharenets.mobile.graph.inference_graph import run_all
from keras_sharenets.mobile.graph.lowering import lower_calls, lower_model, with_known_shapes
from keras_sharenets.mobile.inspect import file

# Weights of `small_network` after `train`, which takes five seconds; most tests in this folder load them.
WEIGHTS = pathlib.Path(__file__).parents[1] / "data" / "digits_network.npz"
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def small_network(end="softmax"):
    """A digit classifier with one shared layer that is called three times."""
    inputs = keras.Input((8, 8, 1), name="images")
    x = keras.layers.Normalization(mean=[78.0], variance=[9200.0])(inputs)
    x = keras.layers.Conv2D(32, 3, padding="same", name="stem")(x)
    shared = ksn.layers.HighlySharedConv2D(32, 3, groups=4, channel_repeats=2, arrangements=2, name="shared")
    for _ in range(3):
        x = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(shared(x)))
    x = keras.layers.GlobalMaxPooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(10, activation=end, name="predictions")(x))


def train(digits):
    """The small network, trained on all digits except the last 500."""
    keras.utils.set_random_seed(0)
    model = small_network()
    model.compile(keras.optimizers.Adam(5e-3), "sparse_categorical_crossentropy", jit_compile=False)
    images, classes = digits
    model.fit(images[:-500].astype("float32"), classes[:-500], batch_size=32, epochs=6, verbose=0)
    return model


def with_noise(model):
    """A copy of the network with the values of one kernel shuffled."""
    copy = keras.models.clone_model(model)
    weights = model.get_weights()
    middle = [index for index, weight in enumerate(weights) if weight.ndim == 4][-1]
    random = np.random.default_rng(0)
    weights[middle] = random.permutation(weights[middle].reshape(-1)).reshape(weights[middle].shape)
    copy.set_weights(weights)
    return copy


def lower(model, **options):
    """The inference graph of a network, without any folding."""
    return lower_calls(with_known_shapes(trace(model)), **options)[0]


def run(graph, images, **options):
    """The output of an inference graph with one input and one output."""
    (output,) = run_all(graph, (images,), **options)
    return output


def convert(model, representative_data=None, **options):
    """The bytes of an unverified file for a network with one input."""
    return convert_with_graph(model, representative_data, **options)[0]


def convert_with_graph(model, representative_data=None, **options):
    """As `convert`, with the graph from which the file was written."""
    given = None if representative_data is None else (representative_data,)
    return conversion.convert(lower_model(model), representative_data=given, **options)


def check_batches(data, images):
    """Whether a file accepts a batch and gives the same outputs as for single images; otherwise, resizing must fail."""
    interpreter = file.open_bytes(data, "The file")
    (entry,), (end,) = interpreter.get_input_details(), interpreter.get_output_details()
    (alone,) = file.run_examples(interpreter, (images,), [end["index"]])
    assert entry["shape_signature"][0] == end["shape_signature"][0] == 1  # LiteRT.js refuses -1.
    try:
        interpreter.resize_tensor_input(entry["index"], images.shape)
        interpreter.allocate_tensors()
    except RuntimeError:
        return False
    interpreter.set_tensor(entry["index"], file._quantized(images, entry))
    interpreter.invoke()
    together = file._dequantized(interpreter.get_tensor(end["index"]), end)
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)
    return True


def relative_error(outputs, expected):
    """The norm of the error relative to the norm of the expected outputs."""
    return np.linalg.norm(outputs - expected) / np.linalg.norm(expected)


def operators_and_types(data):
    """`(names of the operators in the runtime, types of all tensors except inputs and outputs)` of a file."""
    runtime = Interpreter(model_content=data, num_threads=1)
    runtime.allocate_tensors()
    names = [operator["op_name"] for operator in runtime._get_ops_details()]
    graph = schema.Model.GetRootAs(data).Subgraphs(0)
    ends = {*graph.InputsAsNumpy().tolist(), *graph.OutputsAsNumpy().tolist()}
    types = {graph.Tensors(index).Type() for index in set(range(graph.TensorsLength())) - ends}
    return names, types
