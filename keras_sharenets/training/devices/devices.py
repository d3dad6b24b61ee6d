"""Where a network is trained: on one device, on all of this machine, or on several machines.

TensorFlow and JAX notice by themselves that another worker is gone. Measured with two processes on one machine, of
which one was killed, between two steps or at a random moment, or stopped: on TensorFlow 2.21, the step of the other one
raised an error after 6 to 11 seconds, in 5 cases of 5. On JAX 0.10, the step raised an error in 6 cases of 10, and
JAX aborted the process later, within 22 seconds; in the other 4 (worker 0 was killed, or a worker was stopped), it
aborted the process without an error of the step, within 27 seconds, and said why. None hung.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import zlib
from collections.abc import Callable
from typing import Any

import keras

from keras_sharenets import _checks
from keras_sharenets.dtype_policies import in_policy
from keras_sharenets.training.data.batches import Batches, as_tf_data
from keras_sharenets.training.devices.cluster import TIMEOUT, gathered, read_cluster
from keras_sharenets.training.recipes.batch_changes import compiles
from keras_sharenets.training.recipes.recipe import BATCH_CHANGES, Recipe
from keras_sharenets.training.run.record import STRATEGIES, Run

SECONDS = 30  # Without a sign of life of another worker, before it counts as gone.
NO_TPU = "`strategy` (='tpu') needs a TPU, and {} finds none{}: {}. docs/gpu_tpu.md says how to start one."


_connected: dict[str, Devices] = {}


@dataclasses.dataclass(frozen=True)
class Devices:
    """Devices that train one network together, each on its part of every batch.

    Attributes:
        strategy: one of `STRATEGIES`.
        replicas: devices of all workers together, each with its copy of the network.
        worker: which of the `workers` this process is, counted from 0; number 0 writes the files.
        workers: processes.
        scope: gives a context: what is made in it lives on all devices.
        model: the class of a model that is trained on them, or a function like it.
        feed: function from `Batches` to what `model.fit` takes for them.
        gather: function from an integer to the list of those of all workers, in order; all of them must call it.
        errors: the exceptions that a step raises when another worker is gone.
        policy: Keras' dtype policy for the network, or `None` for the one that is set.
        steps_per_execution: the most steps that a device takes without coming back to Python.
    """

    strategy: str = "default"
    replicas: int = 1
    worker: int = 0
    workers: int = 1
    scope: Callable = contextlib.nullcontext
    model: Callable[..., keras.Model] = keras.Model
    feed: Callable = lambda batches: batches
    gather: Callable[[int], list[int]] = lambda number: [number]
    errors: tuple[type[Exception], ...] = ()
    policy: str | None = None
    steps_per_execution: int = 1

    @property
    def chief(self) -> bool:
        """Whether this process writes the files."""
        return self.worker == 0


def connect(strategy: str, *, cluster_timeout: float = TIMEOUT) -> Devices:
    """The `Devices` of a strategy, in this process; for several workers it waits until all of them have called it.

    With several workers it must be called before anything is computed. `TF_CONFIG` lists them, on both backends. Called
    again, it returns the same: who wants another timeout than that of `fit` calls it before.

    Args:
        strategy: `"default"`: one device. `"mirrored"`: all GPUs of this machine, or what else it has.
            `"multi_worker"`: several processes; on TensorFlow, one device each. `"tpu"`: the TPU of this machine or
            the one that `TPU_NAME` names.
        cluster_timeout: seconds that workers wait for each other.

    Raises:
        ValueError: there is no such strategy or no TPU, or `TF_CONFIG` is missing or wrong, or a worker did not come.

    >>> connect("default").replicas
    1
    """
    _checks.one_of("strategy", strategy, STRATEGIES)
    _checks.above_zero("cluster_timeout", cluster_timeout)
    if strategy not in _connected:
        _connected[strategy] = _connect(strategy, cluster_timeout)
    return _connected[strategy]


def _connect(strategy: str, cluster_timeout: float) -> Devices:
    if strategy == "default":
        return Devices()
    makers: dict[str, dict[str, Callable[[], Devices]]] = {
        "jax": {
            "mirrored": _jax_mirrored,
            "multi_worker": lambda: _jax_multi_worker(cluster_timeout),
            "tpu": _jax_tpu,
        },
        "tensorflow": {
            "mirrored": _tf_mirrored,
            "multi_worker": lambda: _tf_multi_worker(cluster_timeout),
            "tpu": _tf_tpu,
        },
    }
    return makers[keras.backend.backend()][strategy]()


# JAX: `keras.distribution.DataParallel`


def _jax_mirrored() -> Devices:
    """All devices of this machine."""
    devices = keras.distribution.list_devices()
    return Devices("mirrored", len(devices), scope=_data_parallel(devices=devices).scope)


def _jax_multi_worker(timeout: float) -> Devices:
    """All devices of the workers of `TF_CONFIG`."""
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    addresses, index = read_cluster()
    with gathered(addresses, index, timeout=timeout):
        jax.distributed.initialize(
            addresses[0], len(addresses), index, heartbeat_timeout_seconds=SECONDS, shutdown_timeout_seconds=SECONDS
        )
    distribution = _data_parallel()
    return Devices(
        "multi_worker",
        distribution.num_model_replicas,
        index,
        len(addresses),
        distribution.scope,
        gather=lambda number: multihost_utils.process_allgather(np.int32(number)).tolist(),
        errors=(RuntimeError,),
    )


def _jax_tpu() -> Devices:
    """The TPU of this machine."""
    import jax

    try:
        count = len(jax.devices("tpu"))
    except RuntimeError as error:
        raise ValueError(NO_TPU.format("JAX", "", error)) from error
    scope = _data_parallel(devices=[f"tpu:{number}" for number in range(count)]).scope
    return Devices("tpu", count, scope=scope, policy="mixed_bfloat16", steps_per_execution=32)


def _data_parallel(**devices) -> keras.distribution.DataParallel:
    return keras.distribution.DataParallel(auto_shard_dataset=False, **devices)


# TensorFlow: `tf.distribute`


def _tf_mirrored() -> Devices:
    """All GPUs of this machine; without one, all of its logical CPU devices."""
    import tensorflow as tf

    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    strategy = tf.distribute.MirroredStrategy([device.name for device in devices])
    return Devices("mirrored", strategy.num_replicas_in_sync, scope=strategy.scope, feed=as_tf_data)


def _tf_multi_worker(timeout: float) -> Devices:
    """The workers of `TF_CONFIG`, one device each."""
    import tensorflow as tf

    addresses, index = read_cluster()
    gpus = tf.config.list_physical_devices("GPU")
    if len(gpus) > 1:
        raise ValueError(
            f"A worker has one device, but this one sees {len(gpus)} GPUs: start a worker for each of them, with "
            "CUDA_VISIBLE_DEVICES=0 and so on."
        )
    options = tf.distribute.experimental.CommunicationOptions(timeout_seconds=SECONDS)
    with gathered(addresses, index, timeout=timeout):
        strategy = tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)

    def feed(batches: Batches):
        # A data set of batches would be cut into parts: these are the parts.
        return strategy.distribute_datasets_from_function(lambda context: as_tf_data(batches))

    def gather(number: int) -> list[int]:
        return strategy.gather(tf.constant([number]), axis=0).numpy().tolist()

    return Devices(
        "multi_worker",
        len(addresses),
        index,
        len(addresses),
        strategy.scope,
        MultiWorkerModel,
        feed,
        gather,
        (tf.errors.OpError, RuntimeError),
    )


def _tf_tpu() -> Devices:
    """The TPU of this machine (`TPU_NAME=local`, the default) or that of the name in `TPU_NAME`."""
    import tensorflow as tf

    name = os.environ.get("TPU_NAME", "local")
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(name)
    except (ValueError, RuntimeError, OSError, tf.errors.OpError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ValueError(NO_TPU.format("TensorFlow", f" (TPU_NAME={name})", reason)) from error
    strategy = tf.distribute.TPUStrategy(resolver)
    return Devices(
        "tpu",
        strategy.num_replicas_in_sync,
        scope=strategy.scope,
        feed=as_tf_data,
        policy="mixed_bfloat16",
        steps_per_execution=32,
    )


class MultiWorkerModel(keras.Model):
    """A functional model that can be trained under `tf.distribute.MultiWorkerMirroredStrategy`.

    It works around two faults of Keras 3.15; a test tells when they are mended, and this class can go. The model must
    be compiled, and its optimizer be built.
    """

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # Keras makes a tensor of a batch that lies on several devices, and fails. Here all is built already.
        pass

    def train_step(self, data: Any) -> Any:
        return self._as_vectors(super().train_step(data))

    def test_step(self, data: Any) -> Any:
        return self._as_vectors(super().test_step(data))

    @staticmethod
    def _as_vectors(logs):
        # Keras averages what the workers return along its first axis, and numbers have none.
        return {name: keras.ops.reshape(value, (1,)) for name, value in logs.items()}


# What holds for all strategies


def check_fits(devices: Devices, batches: Batches, jit_compile: bool | str) -> None:
    """Raises a `ValueError` unless every device gets an equal part of every batch, and compiles its steps as asked."""
    if devices.strategy != "default" and jit_compile is True and keras.backend.backend() == "tensorflow":
        raise ValueError(f"`jit_compile` (=True) must be 'auto' or False for the strategy {devices.strategy!r}.")
    if devices.replicas == 1:
        return
    _checks.divides("devices", devices.replicas, "`batch_size`", batches.batch_size)
    if len(batches.source) < batches.batch_size:
        raise ValueError(
            f"`batch_size` (={batches.batch_size}) must be at most the number of training images "
            f"(={len(batches.source)}) on several devices."
        )


def check_parts(devices: Devices, run: Run) -> None:
    """Raises a `ValueError` where the devices, or XLA on them, cannot train with a part of the recipe."""
    parts = {name: getattr(run.recipe, name) for name in (*BATCH_CHANGES, "ema", "clip_norm", "accumulate")}
    used = {name: value for name, value in parts.items() if value != getattr(Recipe, name)}
    used |= {"teacher": run.teacher} if run.teacher is not None else {}
    for name, value in used.items():
        if devices.strategy != "default":
            raise ValueError(f"`{name}` (={value!r}) is for one device, and `strategy` is {devices.strategy!r}.")
        if name in BATCH_CHANGES and run.jit_compile is True and not compiles(run.recipe):
            raise ValueError(
                f"`{name}` (={value!r}) cannot be compiled by XLA on TensorFlow: `jit_compile` (=True) must be 'auto' "
                "or False."
            )


def check_alike(devices: Devices, run: Run, step: int) -> None:
    """Raises a `ValueError` unless all workers begin with the same run, after the same steps; all must call it."""
    names = ("model", "options", "recipe", "seed", "jit_compile", "deterministic", "checkpoint_steps", "epochs")
    names += ("precision",)
    facts = [getattr(run, name) for name in names] + [run.data["name"], run.data["train"], run.data["test"], step]
    # JSON for tuples that have been lists in a file; an int32 for those who have no other.
    mark = zlib.crc32(json.dumps(facts, default=dataclasses.asdict, sort_keys=True).encode()) >> 1
    if len(set(devices.gather(mark))) > 1:
        raise ValueError(
            "The workers were not started alike: model, data, recipe, seed or checkpoint differ. Start all of them "
            "with the same arguments and the same folder, one that all of them can read."
        )


def copy_of(
    network: keras.Model, devices: Devices, build: Callable[[], keras.Model], *, apart: bool = False
) -> keras.Model:
    """The network that these devices train: in their scope, with the weights of `network`; or itself, where it is one.

    Every batch normalization sees the whole batch, not the part of its device. That, the dtype policy of the devices
    and where its variables live are the copy's alone: `network` can be saved for any machine.

    Args:
        network: what is saved.
        devices: in whose scope this is called.
        build: makes a network like this one.
        apart: whether it must be another one, since other weights are saved than are trained.
    """
    if not apart and devices.strategy == "default" and devices.policy in (None, keras.config.dtype_policy().name):
        return network
    copy = in_policy(devices.policy, build)
    copy.set_weights(network.get_weights())
    # On JAX they see it anyway.
    if devices.strategy != "default" and keras.backend.backend() == "tensorflow":
        for layer in copy._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = True
    return copy
