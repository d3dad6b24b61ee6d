"""The strategies of `keras_sharenets.training.devices.devices` on JAX, through `keras.distribution.DataParallel`."""

import jax
import keras
import numpy as np
from jax.experimental import multihost_utils

from keras_sharenets.training.devices.devices import Devices, read_cluster


def mirrored():
    """All devices of this machine."""
    devices = keras.distribution.list_devices()
    scope = keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False).scope
    return Devices("mirrored", len(devices), scope=scope)


def multi_worker():
    """All devices of the workers of `TF_CONFIG`."""
    addresses, index = read_cluster()
    # That another worker is gone, `Watch` notices first; this worker then does not wait long for it.
    jax.distributed.initialize(addresses[0], len(addresses), index, shutdown_timeout_seconds=20)
    distribution = keras.distribution.DataParallel(auto_shard_dataset=False)
    return Devices(
        "multi_worker",
        distribution.num_model_replicas,
        index,
        len(addresses),
        addresses[0].rsplit(":", 1)[0],
        distribution.scope,
        gather=lambda number: multihost_utils.process_allgather(np.int32(number)).tolist(),
        errors=(RuntimeError,),
    )


def tpu():
    """The TPU of this machine."""
    try:
        count = len(jax.devices("tpu"))
    except RuntimeError as error:
        raise ValueError(
            f"`strategy` (='tpu') needs a TPU, and JAX finds none: {error}. docs/clusters.md says how to start one."
        ) from error
    devices = [f"tpu:{number}" for number in range(count)]
    scope = keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False).scope
    return Devices("tpu", count, scope=scope, policy="mixed_bfloat16", steps_per_execution=32)
