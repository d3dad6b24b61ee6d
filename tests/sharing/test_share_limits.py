"""`share` with a limit on parameters or bytes, and which changes it chooses."""

import dataclasses
import itertools
import re

import keras
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sharing_networks import residual_network

import keras_sharenets as ksn
from keras_sharenets.sharing import budget
from keras_sharenets.sharing.budget import Choice


@pytest.mark.parametrize("larger_too", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_max_parameters(larger_too):
    model = residual_network(blocks=1, stages=1)
    with pytest.raises(ValueError, match=r"`max_parameters` .*must be at least") as error:
        ksn.share(model, max_parameters=100)
    least = int(re.search("at least ([0-9,]+)", str(error.value))[1].replace(",", ""))
    before = ksn.profile(model).stored_parameters
    half_way = (least + before) // 2
    smaller = ksn.share(model, max_parameters=least)
    assert smaller.parameters == least == ksn.profile(smaller.model).stored_parameters
    if not larger_too:
        return
    larger = ksn.share(model, max_parameters=half_way)
    assert least < larger.parameters <= half_way
    # A smaller budget causes larger errors.
    assert sum(layer.kernel_error for layer in smaller.layers) > sum(layer.kernel_error for layer in larger.layers)


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the export needs TensorFlow")
def test_max_tflite_bytes(tmp_path):
    model = residual_network(blocks=1)
    before = ksn.mobile.export_tflite(model, tmp_path / "before.tflite").file_bytes
    shared = ksn.share(model, max_tflite_bytes=int(0.8 * before))
    after = ksn.mobile.export_tflite(shared.model, tmp_path / "after.tflite").file_bytes
    assert after <= 0.8 * before
    assert after == shared.tflite_bytes
    with pytest.raises(ValueError, match=r"`max_tflite_bytes` .*must be at least"):
        ksn.share(model, max_tflite_bytes=1000)


@pytest.mark.parametrize("limit", [{"max_parameters": 10_000}, {"max_tflite_bytes": 10_000}])
def test_sufficient_budget_leaves_every_convolution(limit, monkeypatch):
    monkeypatch.setattr(budget, "_file_bytes", lambda model: 9_000)
    inputs = keras.Input((4, 4, 2))
    x = keras.layers.Conv2D(2, 1, kernel_constraint="non_neg", name="bounded")(inputs)
    shared = ksn.share(keras.Model(inputs, keras.layers.Conv2D(4, 3, name="conv")(x)), **limit)
    assert shared.parameters == shared.parameters_before == 2 * 2 + 2 + 9 * 2 * 4 + 4
    assert shared.left["conv"] == "not needed for the budget"
    assert "constraint" in shared.left["bounded"]


def test_images_of_any_size():
    inputs = keras.Input((None, None, 8))
    shared = ksn.share(keras.Model(inputs, keras.layers.Conv2D(8, 3)(inputs)), max_parameters=300)
    assert shared.parameters_before == 9 * 8 * 8 + 8
    # Half or a quarter of the kernel, depending on its random weights.
    assert shared.parameters in (9 * 8 * 8 // 2 + 8, 9 * 8 * 8 // 4 + 8)
    assert shared.model.input_shape == (None, None, None, 8)


@dataclasses.dataclass(frozen=True, eq=False)
class FakeChange:
    """The attributes of a change that `Choice` uses."""

    places: tuple
    saved: int
    loss: float


def maximum_saving(changes):
    """The maximum saving of changes without common places, by trying every subset."""
    subsets = itertools.chain.from_iterable(itertools.combinations(changes, size) for size in range(len(changes) + 1))
    places = ((subset, [id(place) for change in subset for place in change.places]) for subset in subsets)
    return max(sum(change.saved for change in subset) for subset, taken in places if len(taken) == len(set(taken)))


def test_choice_keeps_the_loss_small():
    """The loss per saved weight counts, for a group in addition to what it replaces; the largest is removed first."""
    first, second, third = places = [object() for _ in range(3)]
    alone, group = FakeChange((first,), 4, 0.4), FakeChange((first, second), 6, 1.0)
    choice = Choice([alone, FakeChange((third,), 2, 0.8), group])
    assert choice.save(6)
    assert choice.taken == [group]
    low, middle, high = (
        FakeChange((place,), *each) for place, each in zip(places, ((5, 0.5), (5, 1), (10, 5)), strict=True)
    )
    choice = Choice([low, middle, high])
    assert choice.save(12)
    assert choice.taken == [low, high]


@given(st.data())
def test_choice_reaches_the_maximum_saving(data):
    """Changes of single places, and of a group that may save more or less than its places separately."""
    places = [object() for _ in range(3)]
    loss = st.floats(0, 1)
    changes = [
        FakeChange((place,), data.draw(st.integers(1, 9)), data.draw(loss)) for place in places for _ in range(2)
    ]
    changes += [FakeChange(tuple(places[:2]), data.draw(st.integers(1, 20)), data.draw(loss))]
    choice = Choice(changes)
    assert not choice.save(10**6)
    assert choice.saved == maximum_saving(changes)
    taken = [id(place) for change in choice.taken for place in change.places]
    assert len(taken) == len(set(taken))
