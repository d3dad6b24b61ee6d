"""The strategies of `keras_sharenets.training.devices.devices` on TensorFlow, through `tf.distribute`."""

import os

import tensorflow as tf

from keras_sharenets.training.data.tf_data import as_tf_data
from keras_sharenets.training.devices.devices import Devices, read_cluster
from keras_sharenets.training.devices.multi_worker_model import MultiWorkerModel


def mirrored():
    """All GPUs of this machine; without one, all of its logical CPU devices."""
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    strategy = tf.distribute.MirroredStrategy([device.name for device in devices])
    return Devices("mirrored", strategy.num_replicas_in_sync, scope=strategy.scope, feed=as_tf_data)


def multi_worker():
    """The workers of `TF_CONFIG`, one device each."""
    addresses, index = read_cluster()
    gpus = tf.config.list_physical_devices("GPU")
    if len(gpus) > 1:
        raise ValueError(
            f"A worker has one device, but this one sees {len(gpus)} GPUs: start a worker for each of them, with "
            "CUDA_VISIBLE_DEVICES=0 and so on."
        )
    strategy = tf.distribute.MultiWorkerMirroredStrategy()

    def feed(batches):
        # A data set of batches would be cut into parts: these are the parts.
        return strategy.distribute_datasets_from_function(lambda context: as_tf_data(batches))

    def gather(number):
        return strategy.gather(tf.constant([number]), axis=0).numpy().tolist()

    return Devices(
        "multi_worker",
        len(addresses),
        index,
        len(addresses),
        addresses[0].rsplit(":", 1)[0],
        strategy.scope,
        MultiWorkerModel,
        feed,
        gather,
        (tf.errors.OpError, RuntimeError),
    )


def tpu():
    """The TPU of this machine (`TPU_NAME=local`, the default) or that of the name in `TPU_NAME`."""
    name = os.environ.get("TPU_NAME", "local")
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(name)
    except (ValueError, RuntimeError, OSError, tf.errors.OpError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"`strategy` (='tpu') needs a TPU, and TensorFlow finds none (TPU_NAME={name}): {type(error).__name__}: "
            f"{reason}. docs/clusters.md says how to start one."
        ) from error
    strategy = tf.distribute.TPUStrategy(resolver)
    return Devices(
        "tpu",
        strategy.num_replicas_in_sync,
        scope=strategy.scope,
        feed=as_tf_data,
        policy="mixed_bfloat16",
        steps_per_execution=32,
    )
