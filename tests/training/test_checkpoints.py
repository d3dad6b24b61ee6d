"""What a checkpoint contains, and which weights it refuses."""

import keras
import numpy as np
import pytest

from keras_sharenets.training.run.recorder import load_checkpoint, read_variables, restore, save_checkpoint


def small_model():
    """A model with every kind of state: normalization, random numbers, momentum, and metrics."""
    layers = [keras.layers.Dense(4), keras.layers.BatchNormalization(), keras.layers.Dropout(0.5, seed=1)]
    model = keras.Sequential([keras.Input((6,)), *layers, keras.layers.Dense(2)])
    rate = keras.optimizers.schedules.CosineDecay(0.1, 8)
    model.compile(keras.optimizers.SGD(rate, momentum=0.9), "mse", metrics=["mae"], jit_compile=False)
    return model


def test_checkpoint_contains_the_complete_state(tmp_path, eager):
    inputs = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
    model, other = small_model(), small_model()
    for _ in range(3):
        model.train_on_batch(inputs, inputs[:, :2])
    path = tmp_path / "3.npz"
    save_checkpoint(path, read_variables(model), {"epoch": 1}, keep=1)
    expected = [model.train_on_batch(inputs, inputs[:, :2]) for _ in range(3)]
    # Different weights, step of the schedule, and random numbers; metrics start at 0.
    other.train_on_batch(inputs, inputs[:, :2])
    arrays, state = load_checkpoint(path)
    restore(other, arrays, ["weights", "optimizer", "metrics"])
    assert state == {"epoch": 1}
    assert [other.train_on_batch(inputs, inputs[:, :2]) for _ in range(3)] == expected
    for weight, expected in zip(model.get_weights(), other.get_weights(), strict=True):
        assert weight.tobytes() == expected.tobytes()


def test_checkpoint_of_another_model(tmp_path):
    model = small_model()
    arrays = read_variables(model)
    wide = keras.Sequential([keras.Input((6,)), keras.layers.Dense(5)])
    wide.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"The checkpoint has \d+ weights, but the model has 2"):
        restore(wide, arrays, ["weights"])
    arrays["weights/0"] = arrays["weights/0"][:2]
    with pytest.raises(ValueError, match=r"kernel has the shape \(6, 4\), but \(2, 4\) in the checkpoint"):
        restore(model, arrays, ["weights"])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_weights_are_not_saved(value, tmp_path):
    model = small_model()
    model.layers[0].bias.assign([0, value, 0, 0])
    with pytest.raises(ValueError, match=r"The weights are no longer finite after 9 steps"):
        save_checkpoint(tmp_path / "9.npz", read_variables(model), {}, keep=1)
    assert not list(tmp_path.iterdir())
