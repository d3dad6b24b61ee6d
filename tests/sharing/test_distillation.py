import types

import keras
import numpy as np
import pytest
from harness import assert_close, outputs_of, pseudo_random
from sharing_networks import images, residual_network

import keras_sharenets as ksn
from keras_sharenets.sharing import ShareDepth

TEMPERATURE = 2.0
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def student_and_teacher(**arguments):
    teacher = residual_network(blocks=2, stages=1, **arguments)
    return ksn.share(teacher, ShareDepth("stage"), where="stage*").model, teacher


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def layer_output(model, name, given, training):
    inner = keras.Model(model.inputs[0], model.get_layer(name).output)
    return keras.ops.convert_to_numpy(inner(given, training=training))


@pytest.mark.parametrize(
    "features",
    [
        pytest.param(["stage0_block0_add", "stage0_block1_add"], id="features"),
        pytest.param(None, marks=pytest.mark.slow),  # `test_inputs_and_outputs_in_dicts` has no features, too.
    ],
)
def test_distillation_loss(features):
    student, teacher = student_and_teacher()
    given, labels = images(teacher), np.arange(16) % 3
    before = teacher.get_weights()
    model = ksn.distill(student, teacher, weight=0.25, temperature=TEMPERATURE, features=features, feature_weight=0.5)
    model.compile(keras.optimizers.SGD(0.0), LOSS, run_eagerly=True)
    said = keras.ops.convert_to_numpy(student(given, training=True))
    answered, asked = softmax(said / TEMPERATURE), softmax(outputs_of(teacher, given) / TEMPERATURE)
    distance = (asked * np.log(asked / answered)).sum(-1).mean() * TEMPERATURE**2
    errors = []
    for name in features or ():
        theirs, own = layer_output(teacher, name, given, False), layer_output(student, name, given, True)
        errors.append(np.square(theirs - own).mean() / np.square(theirs).mean())
    distance += 0.5 * np.mean(errors) if errors else 0.0
    own_loss = -np.log(softmax(said)[np.arange(16), labels]).mean()
    moving = student.get_layer("stem_norm").moving_mean
    start = keras.ops.convert_to_numpy(moving).copy()
    found = float(model.train_on_batch(given, labels))
    assert found == pytest.approx(0.75 * own_loss + 0.25 * distance, rel=1e-4)
    # The student runs once per step: the moving mean is updated once.
    batch_mean = layer_output(student, "stem", given, True).mean(axis=(0, 1, 2))
    assert_close(keras.ops.convert_to_numpy(moving), 0.99 * start + 0.01 * batch_mean, 1e-5)
    # Evaluation does not use the teacher.
    own_loss = -np.log(softmax(outputs_of(student, given))[np.arange(16), labels]).mean()
    assert float(model.evaluate(given, labels, verbose=0)) == pytest.approx(own_loss, rel=1e-4)
    assert all(np.array_equal(old, new) for old, new in zip(before, teacher.get_weights(), strict=True))


def test_student_approaches_its_teacher_and_is_saved_without_it(tmp_path):
    student, teacher = student_and_teacher()
    given = images(teacher)
    model = ksn.distill(student, teacher, weight=1.0, features="blocks")
    model.compile(keras.optimizers.Adam(0.02), LOSS, run_eagerly=True)
    # With a weight of 1, the loss is the distance to the teacher.
    history = model.fit(given, np.zeros(16), epochs=8, verbose=0).history["loss"]
    assert history[-1] < 0.7 * history[0]
    model.save(tmp_path / "student.keras")
    loaded = keras.saving.load_model(tmp_path / "student.keras", compile=False)
    assert_close(outputs_of(loaded, given), outputs_of(student, given), 1e-6)
    assert loaded.count_params() == student.count_params()


def test_large_features_in_half_precision():
    inputs, networks, half = keras.Input((4,)), [], keras.DTypePolicy("mixed_float16")
    for start in (300.0, 600.0):
        hidden = keras.layers.Dense(
            2, kernel_initializer=keras.initializers.Constant(start), dtype=half, name="hidden"
        )(inputs)
        outputs = keras.layers.Dense(3, kernel_initializer="zeros", dtype="float32")(hidden)
        networks.append(keras.Model(inputs, outputs))
    model = ksn.distill(*networks, weight=1.0, features=["hidden"])
    model.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=True)
    # (600 - 300)^2 / 600^2; the outputs agree.
    assert model.train_on_batch(np.eye(4), np.zeros((4, 3))) == pytest.approx(0.25, rel=1e-3)


class OneMore(keras.Model):
    """A model whose loss is one more than the compiled loss."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return 1 + super().compute_loss(x, y, y_pred, sample_weight, training)


def test_student_with_a_loss_of_its_own():
    """Such as one that already has a teacher: with two of them, the loss has three parts."""
    plain, *teachers = (dense(3, None) for _ in range(3))
    student = OneMore(plain.inputs[0], plain.outputs[0])
    for teacher in teachers:
        model = ksn.distill(student, teacher, weight=0.25, temperature=TEMPERATURE)
        assert model is student
    model.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=True)
    given = np.eye(4)
    said, *answers = (outputs_of(network, given) for network in (plain, *teachers))
    expected = 1 + np.square(said).mean()
    assert model.evaluate(given, np.zeros((4, 3)), verbose=0) == pytest.approx(expected, rel=1e-4)
    for answer in answers:
        expected = 0.75 * expected + 0.25 * divergence_of(said, answer)
    assert model.train_on_batch(given, np.zeros((4, 3))) == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ValueError, match="require a student without a training step or loss of its own"):
        ksn.distill(student, teachers[0], features={student.layers[-1].name: teachers[0].layers[-1].name})


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="elsewhere Keras adds no gradients of devices")
def test_loss_on_several_devices(monkeypatch):
    import tensorflow as tf

    student, teacher = student_and_teacher()
    model = ksn.distill(student, teacher, weight=0.5, features="blocks")
    model.compile(keras.optimizers.SGD(0.0), LOSS, run_eagerly=True)
    given, losses = images(teacher), []
    scores = model(given)
    for devices in (1, 2):
        strategy = types.SimpleNamespace(num_replicas_in_sync=devices)
        monkeypatch.setattr(tf.distribute, "get_strategy", lambda strategy=strategy: strategy)
        losses.append(float(model.compute_loss(given, np.zeros(16), scores)))
    assert losses[0] == pytest.approx(2 * losses[1], rel=1e-5)


def test_features_with_losses_in_float64():
    student, teacher = student_and_teacher()
    keras.config.set_floatx("float64")  # Of losses; the networks compute in float32.
    try:
        model = ksn.distill(student, teacher, weight=1.0, features="blocks")
        model.compile(keras.optimizers.SGD(0.0), LOSS, run_eagerly=True)
        found = model.train_on_batch(images(teacher), np.zeros(16))
    finally:
        keras.config.set_floatx("float32")
    model = ksn.distill(student, teacher, weight=1.0, features="blocks")
    model.compile(keras.optimizers.SGD(0.0), LOSS, run_eagerly=True)
    assert found == pytest.approx(model.train_on_batch(images(teacher), np.zeros(16)), rel=1e-4)


def test_blocks_of_a_nested_teacher():
    """`share` returns a network without nested models; its loss is that with the nested network as teacher."""
    teacher = residual_network(blocks=1, stages=1)
    inputs = keras.Input(teacher.input_shape[1:])
    nested = keras.Model(inputs, teacher(inputs))
    student = ksn.share(nested, ShareDepth("none")).model
    student.set_weights([weight + 0.1 * pseudo_random(weight.shape) ** 2 for weight in student.get_weights()])
    given, losses = images(teacher), []
    for whole, features in ((nested, "blocks"), (teacher, ["stage0_block0_add"]), (teacher, None)):
        model = ksn.distill(student, whole, weight=1.0, features=features)
        model.compile(keras.optimizers.SGD(0.0), LOSS, run_eagerly=True)
        losses.append(float(model.train_on_batch(given, np.zeros(16))))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0] > losses[2] + 0.01


def divergence_of(student, teacher):
    """The Kullback-Leibler divergence between scores, at the temperature."""
    asked, answered = softmax(teacher / TEMPERATURE), softmax(student / TEMPERATURE)
    return (asked * np.log(asked / answered)).sum(-1).mean() * TEMPERATURE**2


@pytest.mark.parametrize("features", [None, pytest.param(["sum"], id="features")])
def test_inputs_and_outputs_in_dicts(features):
    """The inputs have other names than their keys."""
    networks = []
    for _ in range(2):
        given = {key: keras.Input((3,)) for key in "ba"}
        x = keras.layers.Add(name="sum")([given["a"], keras.layers.Dense(3)(given["b"])])
        networks.append(keras.Model(given, {"scores": keras.layers.Rescaling(2.0)(x)}))
    data = {key: pseudo_random((5, 3), seed) for seed, key in enumerate("ab")}
    sums = [data["a"] + data["b"] @ network.get_weights()[0] for network in networks]
    distance = divergence_of(2 * sums[0], 2 * sums[1])
    distance += np.square(sums[1] - sums[0]).mean() / np.square(sums[1]).mean() if features else 0
    model = ksn.distill(*networks, weight=1.0, temperature=TEMPERATURE, features=features)
    model.compile(keras.optimizers.SGD(0.0), {"scores": LOSS}, run_eagerly=True)
    assert model.train_on_batch(data, {"scores": np.zeros(5)}) == pytest.approx(distance, rel=1e-4)
    assert model.predict(data, verbose=0).keys() == {"scores"}


def test_teacher_with_layers_of_the_same_name():
    inner = [keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, name="dense")]) for _ in range(2)]
    inputs = keras.Input((4,))
    teacher, student = keras.Model(inputs, inner[1](inner[0](inputs))), dense(4, None)
    given = pseudo_random((6, 4))
    model = ksn.distill(student, teacher, weight=1.0, temperature=TEMPERATURE)
    model.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=True)
    distance = divergence_of(outputs_of(student, given), outputs_of(teacher, given))
    assert model.train_on_batch(given, np.zeros((6, 4))) == pytest.approx(distance, rel=1e-4)


def test_bad_arguments():
    student, teacher = student_and_teacher()
    for arguments, message in (
        ({"weight": 1.5}, r"`weight` \(=1.5\)"),
        ({"temperature": 0}, r"`temperature` \(=0\)"),
        ({"feature_weight": -1}, r"`feature_weight` \(=-1\)"),
        ({"features": ["nowhere"]}, "the student has no 'nowhere'"),
        ({"features": {"stem_norm": "nowhere"}}, "the teacher has no 'nowhere'"),
        ({"features": {"stem_norm": "stage0_block0_expand"}}, "outputs of one shape"),
        ({"features": "stem"}, "must be names of layers, or 'blocks'"),
    ):
        with pytest.raises(ValueError, match=message):
            ksn.distill(student, teacher, **arguments)
    with pytest.raises(ValueError, match="must not share layers; both have: stem"):
        ksn.distill(student, keras.Model(student.inputs, student.outputs))
    with pytest.raises(ValueError, match="one output each, of the same shape"):
        ksn.distill(student, residual_network(blocks=1, stages=1, classes=4))
    with pytest.raises(ValueError, match="both in sigmoids: they end in softmax and sigmoid"):
        ksn.distill(dense(3, "softmax"), dense(3, "sigmoid"))
    with pytest.raises(ValueError, match="have a single output"):
        ksn.distill(dense(1, None), dense(1, None))
    student = dense(3, None)
    student.compute_loss = lambda x, y, y_pred, sample_weight: 0.0
    with pytest.raises(ValueError, match="must have a `compute_loss` with an argument `training`"):
        ksn.distill(student, dense(3, None))


@pytest.mark.parametrize(("activation", "warned"), [("softmax", True), (None, False)])
def test_outputs_in_half_precision(activation, warned, recwarn):
    """The divergence is computed in float32: in float16, its terms would differ by a few percent."""
    student, teacher = dense(3, activation, "mixed_float16"), dense(3, None)
    kernel = pseudo_random((4, 3), 5) / 64
    student.layers[-1].set_weights([1.5 * kernel, np.zeros(3)])
    teacher.layers[-1].set_weights([kernel, np.zeros(3)])
    model = ksn.distill(student, teacher, weight=1.0, temperature=TEMPERATURE)
    assert any("give its last layer `dtype='float32'`" in str(each.message) for each in recwarn) == warned
    model.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=True)
    given = 8 * np.eye(4)
    said = keras.ops.convert_to_numpy(student(given)).astype("float64")
    said = np.log(said) if activation else said
    answered, asked = softmax(said / TEMPERATURE), softmax(given @ kernel / TEMPERATURE)
    distance = (asked * np.log(asked / answered)).sum(-1).mean() * TEMPERATURE**2
    assert model.train_on_batch(given, np.zeros((4, 3))) == pytest.approx(distance, rel=1e-2)


def dense(units, activation, dtype="float32"):
    inputs = keras.Input((4,))
    return keras.Model(inputs, keras.layers.Dense(units, activation, bias_initializer="normal", dtype=dtype)(inputs))


@pytest.mark.parametrize("activation", ["sigmoid", None])
@pytest.mark.parametrize("units", [1, 3])
def test_loss_of_independent_sigmoids(units, activation):
    student, teacher = dense(units, activation), dense(units, "sigmoid")
    model = ksn.distill(student, teacher, weight=1.0, temperature=TEMPERATURE)
    model.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=True)
    given = pseudo_random((16, 4))
    logits = [given @ kernel + bias for kernel, bias in (teacher.get_weights(), student.get_weights())]
    asked, answered = (1 / (1 + np.exp(-each / TEMPERATURE)) for each in logits)
    divergence = asked * np.log(asked / answered) + (1 - asked) * np.log((1 - asked) / (1 - answered))
    found = model.train_on_batch(given, np.zeros((16, units)))
    assert found == pytest.approx(divergence.mean() * TEMPERATURE**2, rel=1e-4)


def test_several_dtype_policies_are_rejected():
    x = inputs = keras.Input((8, 8, 4))
    for number, policy in enumerate(("float32", "mixed_bfloat16")):
        x = keras.layers.Conv2D(4, 3, padding="same", dtype=policy, name=f"conv{number}")(x)
    with pytest.raises(ValueError, match="one dtype policy: 'conv0' has 'float32', 'conv1' has 'mixed_bfloat16'"):
        ksn.share(keras.Model(inputs, x), ShareDepth("all"))
