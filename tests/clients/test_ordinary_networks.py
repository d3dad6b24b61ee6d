"""Networks of ordinary Keras layers in the programs that run any TFLite file, compared with LiteRT's interpreter."""

import contextlib

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from keras import layers, ops

from keras_sharenets import mobile

pytest.importorskip("openvino")
pytest.importorskip("tflite_micro")
pytest.importorskip("playwright")
from tools.clients.browser import litert_js
from tools.clients.interpreters import integers

pytestmark = pytest.mark.clients
COUNT = 3


def tokens():
    """A vision transformer with causal attention; microcontrollers have no GELU."""
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(16, 4, strides=4)(layers.Rescaling(1 / 127.5, -1)(inputs))
    x = layers.Reshape((16, 16))(x)
    y = layers.LayerNormalization()(x)
    x = layers.Add()([x, layers.MultiHeadAttention(2, 8)(y, y, use_causal_mask=True)])
    y = layers.Dense(32, activation="relu")(layers.LayerNormalization()(x))
    x = layers.GlobalAveragePooling1D()(layers.Add()([x, layers.Dense(16)(y)]))
    return keras.Model(inputs, layers.Dense(5, "softmax")(x))


def selections():
    """Parts, permutations, and choices of entries."""
    inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(6, 3, padding="same", activation="relu")(layers.Rescaling(1 / 127.5, -1)(inputs))
    a = ops.take(x, np.array([0, 3, 1, 7, 7, 2]), axis=1)[:, :, ::2]
    b = ops.roll(ops.flip(x, axis=2), 3, axis=1)[:, ::2, 1::2, ::-1]
    mask = np.random.default_rng(0).random((1, 6, 6, 6)) > 0.5
    x = layers.Concatenate()([a, b, ops.where(ops.convert_to_tensor(mask), b, b * -0.5)])
    x = layers.Flatten()(layers.Conv2D(4, 3, activation="relu")(ops.tile(x, (1, 1, 2, 1))))
    return keras.Model(inputs, layers.Dense(5, "softmax")(x))


def sequences():
    """Products along other axes, and a softmax over the steps."""
    inputs = keras.Input((20, 6))
    x = layers.Conv1D(8, 3, padding="causal", activation="relu")(inputs)
    x = layers.EinsumDense("abc,cde->abde", output_shape=(20, 4, 4), bias_axes="de")(x)
    x = layers.PReLU(alpha_initializer="random_uniform", shared_axes=[1])(x)
    x = layers.LayerNormalization()(layers.EinsumDense("abde,dec->abc", output_shape=(20, 8))(x))
    x = ops.sum(x * layers.Softmax(axis=1)(layers.Dense(1)(x)), axis=1)
    return keras.Model(inputs, layers.Dense(4, "softmax")(x))


def decoder():
    """An image from an image: transposed convolutions and upsampling."""
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, strides=2, padding="same")(layers.Rescaling(1 / 127.5, -1)(inputs))
    x = layers.PReLU(alpha_initializer="random_uniform", shared_axes=[1, 2])(x)
    y = layers.LeakyReLU(0.2)(layers.Conv2D(8, 3, strides=2, padding="same")(x))
    a = layers.Conv2DTranspose(8, 3, strides=2, padding="same", activation="relu")(y)
    b = layers.UpSampling2D(2, interpolation="bilinear")(y)
    x = layers.Concatenate()([a, b, layers.UpSampling2D(2)(y), x])
    return keras.Model(inputs, layers.Conv2D(2, 1, activation="sigmoid")(layers.Conv2DTranspose(4, 2, strides=2)(x)))


def two_ends():
    """An image and a vector; a class and an image."""
    photo, sensors = keras.Input((12, 12, 3), name="photo"), keras.Input((7,), name="sensors")
    x = layers.Conv2D(8, 3, padding="same", activation="relu6")(layers.Rescaling(1 / 127.5, -1)(photo))
    x = layers.DepthwiseConv2D(3, dilation_rate=2, padding="same")(x)
    x = x * layers.Reshape((1, 1, 8))(layers.Dense(8, activation="sigmoid")(sensors))
    x = layers.Conv2D(8, 3, dilation_rate=2, activation="silu")(x)
    y = layers.Concatenate()([layers.GlobalAveragePooling2D()(x), sensors])
    outputs = [layers.Dense(5, "softmax", name="kind")(y), layers.Conv2D(1, 1, activation="sigmoid", name="map")(x)]
    return keras.Model([photo, sensors], outputs)


NETWORKS = {build.__name__: build for build in (tokens, selections, sequences, decoder, two_ends)}


def litert(path, kernels=OpResolverType.AUTO):
    interpreter = Interpreter(path, experimental_op_resolver_type=kernels)
    interpreter.allocate_tensors()
    numbers = [[end["index"] for end in ends] for ends in (interpreter.get_input_details(), output_details(path))]

    def run(arrays):
        for number, array in zip(numbers[0], arrays, strict=True):
            interpreter.set_tensor(number, array)
        interpreter.invoke()
        return [interpreter.get_tensor(number) for number in numbers[1]]

    return run


def compiled_model(path):
    from ai_edge_litert.compiled_model import CompiledModel

    model = CompiledModel.from_file(path)
    inputs, outputs = model.create_input_buffers(0), model.create_output_buffers(0)

    def run(arrays):
        for buffer, array in zip(inputs, arrays, strict=True):
            buffer.write(array.ravel())
        model.run_by_index(0, inputs, outputs)
        pairs = zip(outputs, output_details(path), strict=True)
        return [buffer.read(int(np.prod(end["shape"])), end["dtype"]).reshape(end["shape"]) for buffer, end in pairs]

    return run


def tflite_micro(path):
    from tflite_micro import runtime

    interpreter = runtime.Interpreter.from_file(path, arena_size=2**24)

    def run(arrays):
        for number, array in enumerate(arrays):
            interpreter.set_input(array, number)
        interpreter.invoke()
        return [interpreter.get_output(number).copy() for number in range(len(output_details(path)))]

    return run


def openvino(path):
    """Without its integer arithmetic, which saturates on some processors."""
    import openvino

    core = openvino.Core()
    options = {"INFERENCE_PRECISION_HINT": "f32", "LP_TRANSFORMS_MODE": "NO"}
    compiled = core.compile_model(core.read_model(path), "CPU", options)
    return lambda arrays: [array.copy() for array in compiled(list(arrays)).values()]


def onnxruntime(path):
    """Without its integer arithmetic, too."""
    import onnxruntime
    import tf2onnx

    with contextlib.redirect_stdout(None):
        program, _ = tf2onnx.convert.from_tflite(path, opset=17)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(program.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda arrays: session.run(None, {e.name: x for e, x in zip(session.get_inputs(), arrays, strict=True)})


PROGRAMS = (compiled_model, tflite_micro, openvino, onnxruntime)


def output_details(path):
    return Interpreter(path).get_output_details()


@pytest.fixture(scope="module", params=[(name, form) for name in NETWORKS for form in (None, "int8")], ids=str)
def exported(request, tmp_path_factory):
    """`(path, data, examples, tolerance for each output)` of a network in a format."""
    name, quantization = request.param
    keras.utils.set_random_seed(1)
    model, random = NETWORKS[name](), np.random.default_rng(0)
    data = [
        random.integers(0, 256, (16, *end.shape[1:])).astype("float32")
        if len(end.shape) == 4
        else random.normal(size=(16, *end.shape[1:])).astype("float32")
        for end in model.inputs
    ]
    path = str(tmp_path_factory.mktemp("net") / f"{name}.tflite")
    mobile.export_tflite(model, path, quantization, representative_data=tuple(data) if len(data) > 1 else data[0])
    pairs = list(zip(data, Interpreter(path).get_input_details(), strict=True))
    examples = [[integers(x[i : i + 1], end["dtype"], *end["quantization"]) for x, end in pairs] for i in range(COUNT)]
    # Programs round sums and products differently.
    bounds = [2.1 * end["quantization"][0] if quantization else 1e-5 for end in output_details(path)]
    return path, data, examples, bounds


def real(path, outputs):
    """Dequantized outputs."""
    ends = [end["quantization"] for end in output_details(path)]
    pairs = zip(outputs, ends, strict=True)
    return [(output.astype("float32") - zero) * scale if scale else output for output, (scale, zero) in pairs]


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_compute_the_same(exported, program):
    path, _, examples, bounds = exported
    # Microcontrollers round like the reference kernels.
    expected = litert(path, OpResolverType.BUILTIN_REF if program is tflite_micro else OpResolverType.AUTO)
    run = program(path)
    for arrays in examples:
        for found, right, bound in zip(real(path, run(arrays)), real(path, expected(arrays)), bounds, strict=True):
            np.testing.assert_allclose(found, right, atol=bound)


def test_browser_computes_the_same(exported):
    path, data, examples, (bound, *_) = exported
    if "tokens" not in path and "selections" not in path:
        pytest.skip("The page takes images and gives classes.")
    (scores,) = real(path, [litert_js(path, data[0][:COUNT])])
    expected = np.concatenate([real(path, litert(path)(arrays))[0] for arrays in examples])
    np.testing.assert_allclose(scores, expected, atol=bound)
