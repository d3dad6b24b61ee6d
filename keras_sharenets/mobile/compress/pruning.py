"""Pruning and clustering during training."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import numpy as np

from keras_sharenets import _checks
from keras_sharenets.analysis.blending import blending_layers
from keras_sharenets.analysis.graph import calls
from keras_sharenets.layers.quantized_kernels import stored_kernels
from keras_sharenets.mobile.compress.training import TrainedWithTFMOT, check_backend

# Initialization of the cluster centroids, with TFMOT's names.
CENTROIDS = {"kmeans++": "KMEANS_PLUS_PLUS", "linear": "LINEAR", "density": "DENSITY_BASED", "random": "RANDOM"}
# Layers to change: all with kernels, those with given names (or `"blending"`), or those that a function selects.
Layers = str | Sequence[str] | Callable[[keras.layers.Layer], bool] | None


def prune(
    model: keras.Model,
    final_sparsity: float = 0.6,
    *,
    end_step: int,
    layers: Layers = None,
    initial_sparsity: float = 0.0,
    begin_step: int = 0,
    frequency: int = 100,
) -> keras.Model:
    """Prepares a network for magnitude pruning during further training.

    The result uses the same layers as `model`: training updates the weights of both. In each kernel TFMOT sets the
    weights of smallest magnitude to 0. It updates the mask every `frequency` steps and at `end_step`, while the
    sparsity rises from `initial_sparsity` to `final_sparsity`, fast at first. Weights that are already 0 stay 0. A
    kernel that is used several times is pruned as one kernel.

    Compile and fit the result like any network, for at least `end_step` steps; then `strip` returns a plain one. All
    exported files, float and int8, keep the zeros.

    Args:
        model: functional or sequential `keras.Model`.
        final_sparsity: number in [0, 1): fraction of zeros from `end_step` on.
        layers: `None` for all layers with kernels (weights named `kernel`, and both kernels of separable convolutions;
            never biases or normalizations), except frozen ones, which stay unchanged; a sequence of names, where a
            layer in a nested model is `"outer/inner"`; a function of a layer that returns a bool; or `"blending"` for
            the layers that `analysis.blending` finds.
        initial_sparsity: number from 0 to `final_sparsity`: fraction of zeros from `begin_step` on.
        begin_step: int, at least 0: training step at which pruning begins.
        end_step: int above `begin_step`: training step of the last mask update.
        frequency: int, number of steps between mask updates.

    Returns:
        A functional `keras.Model` that is not compiled.

    Raises:
        ValueError: an argument breaks a rule above, or no layer is selected.
        RuntimeError: the Keras backend is not TensorFlow.

    Reference: Zhu and Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model compression",
    2017, section 3.

    >>> import keras_sharenets as ksn, numpy as np
    >>> images = keras.Input((4,))
    >>> pruned = prune(keras.Model(images, keras.layers.Dense(5)(images)), 0.6, end_step=2)
    >>> pruned.compile("sgd", "mse")
    >>> _ = pruned.fit(np.ones((4, 4)), np.ones((4, 5)), batch_size=2, verbose=0)
    >>> int((pruned.layers[-1].kernel.numpy() == 0).sum()) == 0.6 * 4 * 5
    True
    """
    _checks.rate("final_sparsity", final_sparsity)
    _checks.rate("initial_sparsity", initial_sparsity)
    if initial_sparsity > final_sparsity:
        raise ValueError(
            f"`initial_sparsity` (={initial_sparsity}) must not be above `final_sparsity` (={final_sparsity})."
        )
    _checks.positive("end_step", end_step)
    if not isinstance(begin_step, int) or not 0 <= begin_step < end_step:
        raise ValueError(
            f"`begin_step` (={begin_step!r}) must be an integer, at least 0 and below `end_step` (={end_step})."
        )
    _checks.positive("frequency", frequency)
    variables = _kernels(model, layers)

    from keras_sharenets.mobile.compress.tfmot import PrunedKernel

    schedule = {
        "initial_sparsity": initial_sparsity,
        "final_sparsity": final_sparsity,
        "begin_step": begin_step,
        "end_step": end_step,
        "frequency": frequency,
    }
    return TrainedWithTFMOT(model, [PrunedKernel(variable, schedule) for variable in variables])


def cluster(
    model: keras.Model, number_of_clusters: int = 16, *, layers: Layers = None, centroids: str = "kmeans++"
) -> keras.Model:
    """Prepares a network for weight clustering during further training: each kernel gets few distinct weights.

    The result uses the same layers as `model`: training updates the weights of both. TFMOT replaces each weight of a
    kernel by the nearest of `number_of_clusters` centroids. This happens immediately, so the network can be evaluated
    before training. Training updates the centroids and reassigns weights. Weights that are already 0 stay 0: a pruned
    network stays pruned. A kernel that is used several times is clustered as one kernel.

    Compile and fit the result like any network; then `strip` returns a plain one.

    Args:
        model: trained functional or sequential `keras.Model`.
        number_of_clusters: int, at least 2, or 3 for kernels that contain zeros, which take one cluster.
        layers: as for [`prune`].
        centroids: initialization of the centroids: `"kmeans++"`, `"linear"` (equally spaced), `"density"` (closer where
            weights are dense) or `"random"`.

    Returns:
        A functional `keras.Model` that is not compiled.

    Raises:
        ValueError: an argument breaks a rule above, or no layer is selected.
        RuntimeError: the Keras backend is not TensorFlow.

    >>> images = keras.Input((4,))
    >>> clustered = cluster(keras.Model(images, keras.layers.Dense(5)(images)), 3)
    >>> len(set(clustered.layers[-1].kernel.numpy().flatten()))
    3
    """
    _checks.positive("number_of_clusters", number_of_clusters)
    _checks.one_of("centroids", centroids, tuple(CENTROIDS))
    variables = _kernels(model, layers)
    fewest = 3 if any(np.any(variable.numpy() == 0) for variable in variables) else 2
    if number_of_clusters < fewest:
        raise ValueError(
            f"`number_of_clusters` (={number_of_clusters}) must be at least 2, or 3 for kernels that contain zeros."
        )

    from keras_sharenets.mobile.compress.tfmot import ClusteredKernel

    return TrainedWithTFMOT(
        model, [ClusteredKernel(variable, number_of_clusters, CENTROIDS[centroids]) for variable in variables]
    )


def _kernels(model, layers):
    """The kernels of the selected layers, each once."""
    check_backend()
    operations = {call.path: call.operation for call in calls(model) if call.index == 0}
    known = {
        path: layer
        for path, layer in operations.items()
        if isinstance(layer, keras.layers.Layer) and stored_kernels(layer)
    }
    if layers is None:
        chosen = known
    elif layers == "blending":
        chosen = blending_layers(model)
    elif callable(layers):
        chosen = {path: layer for path, layer in known.items() if layers(layer)}
    else:
        names = () if isinstance(layers, str) or not hasattr(layers, "__iter__") else tuple(layers)
        if not names or not known.keys() >= set(names):
            raise ValueError(
                f"`layers` (={layers!r}) must be None, 'blending', a function of a layer, or names of layers with "
                f"kernels of '{model.name}', which are: {', '.join(known) or 'none'}."
            )
        chosen = {path: layer for path, layer in known.items() if path in names}
    variables = {id(kernel): kernel for layer in chosen.values() for kernel, _ in stored_kernels(layer)}
    trained = [kernel for kernel in variables.values() if kernel.trainable]
    if not trained or (isinstance(layers, (tuple, list)) and len(trained) < len(variables)):
        frozen = [kernel.path for kernel in variables.values() if not kernel.trainable]
        why = f"; these are frozen: {', '.join(frozen)}" if frozen else ", but selected none"
        raise ValueError(f"`layers` (={layers!r}) must select a layer of '{model.name}' with a trainable kernel{why}.")
    return trained
