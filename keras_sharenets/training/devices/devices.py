"""Training on one device, on all devices of this machine, or on several machines.

TensorFlow and JAX detect a lost worker themselves. Measured with two processes on one machine, one of them killed
(between two steps or at a random moment) or stopped: On TensorFlow 2.21, the step of the other worker raised an error
after 6 to 11 seconds, in 5 of 5 cases. On JAX 0.10, the step raised an error in 6 of 10 cases, and JAX aborted the
process later, within 22 seconds. In the other 4 cases (worker 0 was killed, or a worker was stopped), JAX aborted the
process without an error of the step, within 27 seconds, with a message that gave the reason. No process hung.
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

SECONDS = 30  # Heartbeat timeout after which a worker counts as lost.
NO_TPU = "`strategy` (='tpu') needs a TPU, but {} finds none{}: {}. See docs/gpu_tpu.md for how to start one."


_connected: dict[str, Devices] = {}


@dataclasses.dataclass(frozen=True)
class Devices:
    """Devices that train one network together by data parallelism.

    Attributes:
        strategy: one of `STRATEGIES`.
        replicas: number of devices of all workers, each with a copy of the network.
        worker: index of this process, counted from 0; worker 0 writes the files.
        workers: number of processes.
        scope: function that returns a context manager; variables created in it are placed on all devices.
        model: class of the models to train, or a function with the same arguments.
        feed: function from `Batches` to the input of `model.fit`.
        gather: function from an integer to the list of the integers of all workers, in order; all must call it.
        errors: exceptions that a step raises when another worker is lost.
        policy: Keras dtype policy for the network, or `None` for the global policy.
        steps_per_execution: maximum number of steps that a device runs without returning to Python.
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
    """The `Devices` of a strategy; with several workers, waits until all of them have called it.

    With several workers, call it before any computation. `TF_CONFIG` lists the workers, on both backends. Later calls
    return the same object: to use another timeout than `fit`, call it before `fit`.

    Args:
        strategy: `"default"`: one device. `"mirrored"`: all GPUs of this machine, or other devices if it has none.
            `"multi_worker"`: several processes; on TensorFlow, one device each. `"tpu"`: the TPU of this machine, or
            the one in `TPU_NAME`.
        cluster_timeout: seconds that workers wait for each other.

    Raises:
        ValueError: the strategy is unknown, there is no TPU, `TF_CONFIG` is missing or invalid, or a worker is missing.

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
    """All devices of the workers in `TF_CONFIG`."""
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
    """All GPUs of this machine, or all logical CPU devices if there is no GPU."""
    import tensorflow as tf

    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    strategy = tf.distribute.MirroredStrategy([device.name for device in devices])
    return Devices("mirrored", strategy.num_replicas_in_sync, scope=strategy.scope, feed=as_tf_data)


def _tf_multi_worker(timeout: float) -> Devices:
    """The workers in `TF_CONFIG`, one device each."""
    import tensorflow as tf

    addresses, index = read_cluster()
    gpus = tf.config.list_physical_devices("GPU")
    if len(gpus) > 1:
        raise ValueError(
            f"A worker uses one device, but this one sees {len(gpus)} GPUs: start one worker per GPU, with "
            "CUDA_VISIBLE_DEVICES=0 and so on."
        )
    options = tf.distribute.experimental.CommunicationOptions(timeout_seconds=SECONDS)
    with gathered(addresses, index, timeout=timeout):
        strategy = tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)

    def feed(batches: Batches):
        # The batches are already those of this worker and must not be sharded again.
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
    """The TPU of this machine (`TPU_NAME=local`, the default), or the one in `TPU_NAME`."""
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

    It works around two bugs of Keras 3.15; a test fails once they are fixed, and this class can be removed. The model
    must be compiled, and its optimizer must be built.
    """

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # Keras fails to convert a batch on several devices to a tensor. The model is already built here.
        pass

    def train_step(self, data: Any) -> Any:
        return self._as_vectors(super().train_step(data))

    def test_step(self, data: Any) -> Any:
        return self._as_vectors(super().test_step(data))

    @staticmethod
    def _as_vectors(logs):
        # Keras averages the results of the workers along the first axis, which scalars lack.
        return {name: keras.ops.reshape(value, (1,)) for name, value in logs.items()}


# All strategies


def check_fits(devices: Devices, batches: Batches, jit_compile: bool | str) -> None:
    """Raises a `ValueError` unless all devices get equal parts of every batch and support `jit_compile`."""
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
    """Raises a `ValueError` if the devices, or XLA on them, do not support a part of the recipe."""
    parts = {name: getattr(run.recipe, name) for name in (*BATCH_CHANGES, "ema", "clip_norm", "accumulate")}
    used = {name: value for name, value in parts.items() if value != getattr(Recipe, name)}
    used |= {"teacher": run.teacher} if run.teacher is not None else {}
    for name, value in used.items():
        if devices.strategy != "default":
            raise ValueError(f"`{name}` (={value!r}) needs one device, but `strategy` is {devices.strategy!r}.")
        if name in BATCH_CHANGES and run.jit_compile is True and not compiles(run.recipe):
            raise ValueError(
                f"`{name}` (={value!r}) cannot be compiled by XLA on TensorFlow: `jit_compile` (=True) must be 'auto' "
                "or False."
            )


def check_alike(devices: Devices, run: Run, step: int) -> None:
    """Raises a `ValueError` unless all workers start the same run at the same step; all must call it."""
    names = ("model", "options", "recipe", "seed", "jit_compile", "deterministic", "checkpoint_steps", "epochs")
    names += ("precision",)
    facts = [getattr(run, name) for name in names] + [run.data["name"], run.data["train"], run.data["test"], step]
    # JSON, since tuples become lists in a file; shifted to fit an int32, which some backends are limited to.
    mark = zlib.crc32(json.dumps(facts, default=dataclasses.asdict, sort_keys=True).encode()) >> 1
    if len(set(devices.gather(mark))) > 1:
        raise ValueError(
            "The workers differ in model, data, recipe, seed or checkpoint. Start all of them with the same arguments "
            "and the same folder, which all of them must be able to read."
        )


def copy_of(
    network: keras.Model, devices: Devices, build: Callable[[], keras.Model], *, apart: bool = False
) -> keras.Model:
    """A copy of `network` for training on these devices; `network` itself if no copy is needed.

    In the copy, batch normalization uses the global batch, not the part of one device. Only the copy has this setting,
    the dtype policy of the devices and variables on them: `network` can be saved for any machine.

    Args:
        network: network to save.
        devices: devices for training; call this function in their scope.
        build: function that builds a network with the same architecture.
        apart: whether a copy is required, because the saved weights differ from the trained ones.
    """
    if not apart and devices.strategy == "default" and devices.policy in (None, keras.config.dtype_policy().name):
        return network
    copy = in_policy(devices.policy, build)
    copy.set_weights(network.get_weights())
    # On JAX, batch normalization always uses the global batch.
    if devices.strategy != "default" and keras.backend.backend() == "tensorflow":
        for layer in copy._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = True
    return copy
