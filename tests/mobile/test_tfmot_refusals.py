"""Errors of pruning and clustering, and packages that are imported lazily."""

import importlib
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from tfmot_networks import network

from keras_sharenets import mobile


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"final_sparsity": 1}, r"`final_sparsity` \(=1\) must be at least 0 and below 1"),
        ({"initial_sparsity": -0.1}, r"`initial_sparsity` \(=-0.1\) must be at least 0 and below 1"),
        ({"initial_sparsity": 0.7}, r"`initial_sparsity` \(=0.7\) must not be above `final_sparsity` \(=0.6\)"),
        ({"begin_step": -1}, r"`begin_step` \(=-1\) must be an integer, at least 0 and below `end_step` \(=9\)"),
        ({"begin_step": 9}, r"`begin_step` \(=9\) must be an integer, at least 0 and below `end_step` \(=9\)"),
        ({"end_step": 0}, r"`end_step` \(=0\) must be a positive integer"),
        ({"frequency": 0}, r"`frequency` \(=0\) must be a positive integer"),
        ({"layers": "shared"}, r"`layers` \(='shared'\) must be None, 'blending', a function of a layer, or names"),
        ({"layers": 3}, r"`layers` \(=3\) must be None"),
        ({"layers": []}, r"`layers` \(=\[\]\) must be None"),
        (
            {"layers": ["norm0"]},
            r"names of layers with kernels of 'network', which are: shared, blend, depthwise, chain",
        ),
        (
            {"layers": lambda layer: False},
            r"must select a layer of 'network' with a trainable kernel, but selected none",
        ),
    ],
)
def test_bad_arguments_of_prune(arguments, message):
    with pytest.raises(ValueError, match=message):
        mobile.prune(network(), **{"end_step": 9, **arguments})


def test_bad_arguments_of_cluster():
    model = network()
    with pytest.raises(
        ValueError, match=r"`number_of_clusters` \(=1\) must be at least 2, or 3 for kernels that contain"
    ):
        mobile.cluster(model, 1)
    with pytest.raises(ValueError, match=r"`centroids` \(='best'\) must be one of 'kmeans\+\+', 'linear', 'density'"):
        mobile.cluster(model, centroids="best")
    with pytest.raises(ValueError, match=r"`optimizer` must not average weights \(`use_ema=True`\)"):
        mobile.cluster(model).compile(keras.optimizers.SGD(use_ema=True), "mse")
    kernel = model.get_layer("blend").kernel
    kernel.assign(np.where(kernel.numpy() < 0, 0, kernel.numpy()))
    with pytest.raises(
        ValueError, match=r"`number_of_clusters` \(=2\) must be at least 2, or 3 for kernels that contain"
    ):
        mobile.cluster(model, 2, layers=["blend"])
    mobile.cluster(model, 2, layers=["scores"])


def test_other_backend_and_missing_packages(monkeypatch):
    packages = "keras_sharenets.mobile.compress.tfmot"
    monkeypatch.delitem(sys.modules, packages, raising=False)
    monkeypatch.setitem(sys.modules, "tensorflow_model_optimization", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'keras_sharenets\[mobile\]'"):
        importlib.import_module(packages)
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(RuntimeError, match="TFMOT needs the TensorFlow backend, and Keras runs on 'jax'"):
        mobile.prune(network(), end_step=9)


@pytest.mark.slow  # Starts a process that imports TensorFlow and two other packages.
def test_packages_are_imported_lazily_without_side_effects():
    script = """
import os, sys
import keras
from keras_sharenets import mobile
assert not {"tf_keras", "tensorflow_model_optimization"} & set(sys.modules)
inputs = keras.Input((4,))
mobile.cluster(keras.Model(inputs, keras.layers.Dense(4)(inputs)), 2)
assert "tensorflow_model_optimization" in sys.modules
assert "TF_USE_LEGACY_KERAS" not in os.environ
import tensorflow
assert tensorflow.keras.Model is keras.Model
"""
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, "KERAS_BACKEND": "tensorflow"})
