import keras
import keras_tuner
import numpy as np
import pytest

import keras_sharenets as ksn
from keras_sharenets.search.budgets import Budget
from keras_sharenets.search.sharing import SharingHyperModel


def network():
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((6, 6, 8))
    for number in range(3):
        x = keras.layers.Conv2D(8, 3, padding="same", use_bias=False, name=f"conv{number}")(x)
        x = keras.layers.BatchNormalization()(x)
    return keras.Model(inputs, x)


def test_every_choice_is_a_network_within_the_budget():
    model = network()
    before = [weight.copy() for weight in model.get_weights()]
    stored = ksn.profile(model).stored_parameters
    hypermodel, free = SharingHyperModel(model, budget=Budget(max_parameters=stored // 2)), SharingHyperModel(model)
    # Without a limit, the default changes nothing.
    assert free.shared(keras_tuner.HyperParameters()).parameters == stored
    random, sizes = np.random.default_rng(0), set()
    hp = keras_tuner.HyperParameters()
    hypermodel.shared(hp)
    assert {each.name for each in hp.space} >= {"conv0", "conv1", "conv2"}
    for _ in range(6):
        for each in hp.space:
            hp.values[each.name] = str(random.choice(each.values))
        shared = hypermodel.shared(hp)
        assert ksn.profile(shared.model).stored_parameters == shared.parameters <= stored // 2
        sizes.add(shared.parameters)
    assert len(sizes) > 1
    hp.values["conv1"] = next(value for each in hp.space if each.name == "conv1" for value in each.values[1:])
    hp.values["conv0"] = hp.values["conv2"] = "none"
    (row,) = free.shared(hp).layers
    assert (row.path, row.becomes) == ("conv1", hp.values["conv1"])
    assert all(np.array_equal(old, new) for old, new in zip(before, model.get_weights(), strict=True))


def test_budgets_that_are_refused():
    with pytest.raises(ValueError, match=r"must allow [\d,]+ parameters"):
        SharingHyperModel(network(), budget=Budget(max_parameters=10))
    with pytest.raises(ValueError, match="must have no `max_multiply_adds`"):
        SharingHyperModel(network(), budget=Budget(max_multiply_adds=10))
