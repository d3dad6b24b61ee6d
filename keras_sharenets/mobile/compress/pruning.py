"""Networks that are pruned and clustered while they are trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import numpy as np

from keras_sharenets import _checks
from keras_sharenets.analysis.blending import blending_layers
from keras_sharenets.analysis.graph import calls
from keras_sharenets.layers.quantized_kernels import stored_kernels
from keras_sharenets.mobile.compress.training import TrainedWithTFMOT, check_backend

# How the centroids of clusters are found, with TFMOT's names.
CENTROIDS = {"kmeans++": "KMEANS_PLUS_PLUS", "linear": "LINEAR", "density": "DENSITY_BASED", "random": "RANDOM"}
# Which layers to take: all with kernels, those of some names (or `"blending"`), or those that a function picks.
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
    """A network to train further, in which more and more weights of the kernels become 0.

    It has the very layers of `model`: training moves the weights of both. In each kernel TFMOT sets the weights
    of smallest magnitude to 0. They are chosen anew every `frequency` steps and at `end_step`, and their share rises
    from `initial_sparsity` to `final_sparsity`, fast at first. Weights that are 0 when this is called stay 0. A
    kernel that is used in several places is one kernel.

    Compile and fit it as any network, for at least `end_step` steps; then `strip` gives a plain one. All files have
    the zeros, float and int8.

    Args:
        model: functional or sequential `keras.Model`.
        final_sparsity: number from 0 up to, not including, 1: share of zeros from `end_step` on.
        layers: `None` for all layers with kernels (weights named `kernel`, and both of separable convolutions; never
            biases or normalizations) but frozen ones, which stay as they are; a sequence of names, for a layer in a
            model inside with that model's name before it (`"outer/inner"`); a function that says of a layer whether to
            take it; or `"blending"` for what `analysis.blending` finds.
        initial_sparsity: number from 0 up to `final_sparsity`: share of zeros from `begin_step` on.
        begin_step: int from 0, the training step at which pruning begins.
        end_step: int above `begin_step`, the training step at which the last weights are chosen.
        frequency: int, after how many steps weights are chosen anew.

    Returns:
        A functional `keras.Model` that is not compiled.

    Raises:
        ValueError: an argument breaks a rule above, or no layer is chosen.
        RuntimeError: Keras does not run on TensorFlow.

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
            f"`begin_step` (={begin_step!r}) must be an integer from 0 and below `end_step` (={end_step})."
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
    """A network to train further, in which each kernel has few distinct weights.

    It has the very layers of `model`: training moves the weights of both. TFMOT replaces each weight of a kernel by the
    nearest of `number_of_clusters` numbers: at once, so that the network can be evaluated as it is. Training moves
    these numbers, and weights from one to another. Weights that are 0 when this is called stay 0: a pruned network
    stays pruned. A kernel that is used in several places is one kernel.

    Compile and fit it as any network; then `strip` gives a plain one.

    Args:
        model: functional or sequential `keras.Model`, trained.
        number_of_clusters: int from 2; from 3 for kernels with weights that are 0, which count as one.
        layers: as for [`prune`].
        centroids: how the numbers are found at first: `"kmeans++"`, `"linear"` (at equal distances), `"density"`
            (closer where weights are dense) or `"random"`.

    Returns:
        A functional `keras.Model` that is not compiled.

    Raises:
        ValueError: an argument breaks a rule above, or no layer is chosen.
        RuntimeError: Keras does not run on TensorFlow.

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
            f"`number_of_clusters` (={number_of_clusters}) must be at least 2, and 3 where weights that are 0 stay 0."
        )

    from keras_sharenets.mobile.compress.tfmot import ClusteredKernel

    return TrainedWithTFMOT(
        model, [ClusteredKernel(variable, number_of_clusters, CENTROIDS[centroids]) for variable in variables]
    )


def _kernels(model, layers):
    """The kernels of the chosen layers, each once."""
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
        why = f"; these are frozen: {', '.join(frozen)}" if frozen else ", and chose none"
        raise ValueError(f"`layers` (={layers!r}) must choose a layer of '{model.name}' with a kernel to train{why}.")
    return trained
