"""Where a network is trained: on one device, on all of this machine, or on several machines."""

import contextlib
import dataclasses
import functools
import json
import os
import zlib
from collections.abc import Callable

import keras

from keras_sharenets import _checks

STRATEGIES = ("default", "mirrored", "multi_worker", "tpu")
EXAMPLE = '{"cluster": {"worker": ["10.0.0.1:7001", "10.0.0.2:7001"]}, "task": {"type": "worker", "index": 0}}'


@dataclasses.dataclass(frozen=True)
class Devices:
    """Devices that train one network together, each on its part of every batch.

    Attributes:
        strategy: str, one of `STRATEGIES`.
        replicas: int, devices of all workers together, each with its copy of the network.
        worker: int, which of the `workers` this process is, counted from 0; number 0 writes the files.
        workers: int, processes.
        chief_host: str, where worker 0 is; `None` where there is no other worker.
        scope: function without arguments that gives a context: what is made in it lives on all devices.
        model: the class of a model that is trained on them.
        feed: function from `Batches` to what `model.fit` takes for them.
        gather: function from an int to the list of those of all workers, in order; all of them must call it.
        errors: tuple of the exceptions that a step raises when another worker is gone.
        policy: str, Keras' dtype policy for the network, or `None` for the one that is set.
        steps_per_execution: int, the most steps that a device takes without coming back to Python.
    """

    strategy: str = "default"
    replicas: int = 1
    worker: int = 0
    workers: int = 1
    chief_host: str | None = None
    scope: Callable = contextlib.nullcontext
    model: type = keras.Model
    feed: Callable = lambda batches: batches
    gather: Callable = lambda number: [number]
    errors: tuple = ()
    policy: str | None = None
    steps_per_execution: int = 1

    @property
    def chief(self):
        """Whether this process writes the files."""
        return self.worker == 0


@functools.cache
def connect(strategy):
    """The `Devices` of a strategy, in this process; for several workers it waits until all of them have called it.

    With several workers it must be called before anything is computed. `TF_CONFIG` lists them, on both backends.

    Args:
        strategy: str. `"default"`: one device. `"mirrored"`: all GPUs of this machine, or what else it has.
            `"multi_worker"`: several processes; on TensorFlow, one device each. `"tpu"`: the TPU of this machine or
            the one that `TPU_NAME` names.

    Raises:
        ValueError: there is no such strategy or no TPU, or `TF_CONFIG` is missing or wrong.

    >>> connect("default").replicas
    1
    """
    _checks.one_of("strategy", strategy, STRATEGIES)
    if strategy == "default":
        return Devices()
    if keras.backend.backend() == "jax":
        from keras_sharenets.training.devices import jax as backend
    else:
        from keras_sharenets.training.devices import tensorflow as backend
    return getattr(backend, strategy)()


def read_cluster():
    """`(addresses, index)` of the workers and of this one among them, from the environment variable `TF_CONFIG`.

    Raises:
        ValueError: it is not set, or not what is expected.
    """
    text = os.environ.get("TF_CONFIG")
    if not text:
        raise ValueError(f"`strategy` (='multi_worker') needs the environment variable TF_CONFIG, like {EXAMPLE}.")
    try:
        config = json.loads(text)
        addresses, kind, index = config["cluster"]["worker"], config["task"]["type"], config["task"]["index"]
        [(host, int(port)) for host, port in (address.rsplit(":", 1) for address in addresses)]
        if kind != "worker" or set(config["cluster"]) != {"worker"} or index not in range(len(addresses)):
            raise ValueError("all must be of the type worker, and the index counts them from 0")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"TF_CONFIG (={text}) must be like {EXAMPLE}. {reason}.") from error
    return addresses, index


def check_fits(devices, batches, jit_compile):
    """Raises a `ValueError` unless every device gets an equal part of every batch, and compiles its steps as asked."""
    if devices.strategy != "default" and jit_compile is True and keras.backend.backend() == "tensorflow":
        raise ValueError(f"`jit_compile` (=True) must be 'auto' or False for the strategy {devices.strategy!r}.")
    if devices.replicas == 1:
        return
    _checks.divides("devices", devices.replicas, "`batch_size`", batches.batch_size)
    if len(batches.source) < batches.batch_size:
        raise ValueError(
            f"`batch_size` (={batches.batch_size}) must be at most the number of training pictures "
            f"(={len(batches.source)}) on several devices."
        )


def check_alike(devices, run, step):
    """Raises a `ValueError` unless all workers begin with the same run, after the same steps; all must call it."""
    names = ("model", "options", "recipe", "seed", "jit_compile", "deterministic", "checkpoint_steps", "epochs")
    facts = [getattr(run, name) for name in names] + [run.data["name"], run.data["train"], run.data["test"], step]
    # JSON for tuples that have been lists in a file; an int32 for those who have no other.
    mark = zlib.crc32(json.dumps(facts, default=dataclasses.asdict, sort_keys=True).encode()) >> 1
    if len(set(devices.gather(mark))) > 1:
        raise ValueError(
            "The workers were not started alike: model, data, recipe, seed or checkpoint differ. Start all of them "
            "with the same arguments and the same folder, one that all of them can read."
        )


def copy_of(network, devices, build):
    """The network that these devices train: in their scope, with the weights of `network`; on one device, itself.

    Every batch normalisation sees the whole batch, not the part of its device. That, the dtype policy of the devices
    and where its variables live are the copy's alone: `network` can be saved for any machine.

    Args:
        network: `keras.Model`.
        devices: `Devices`, whose scope this is called in.
        build: function without arguments that makes a network like this one.
    """
    if devices.strategy == "default":
        return network
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(devices.policy or policy)
    try:
        copy = build()
    finally:
        keras.config.set_dtype_policy(policy)
    copy.set_weights(network.get_weights())
    # On JAX they see it anyway.
    if keras.backend.backend() == "tensorflow":
        for layer in copy._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = True
    return copy
