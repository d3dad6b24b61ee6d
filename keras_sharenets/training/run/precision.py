"""Chooses the precision of training. Weights and files are always float32."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable
from typing import Any

import keras

from keras_sharenets.dtype_policies import POLICIES, in_policy
from keras_sharenets.timing import take_turns
from keras_sharenets.training.data.batches import Batches
from keras_sharenets.training.devices.devices import Devices
from keras_sharenets.training.run.network import compile_model
from keras_sharenets.training.run.record import Run

MEASURED = ("float32", "bfloat16")  # Not float16: small gradients underflow, and large ones overflow.
GAIN = 1.05  # Required speedup of a step.
ROUNDS = 3


def choose_precision(run: Run, devices: Devices, batches: Batches, build: Callable[[], keras.Model]) -> Run:
    """The run with its precision: the requested one, the fastest for `"auto"`, the default of the devices for `None`.

    Args:
        run: the run to start or resume.
        devices: devices to train on.
        batches: batches of its training split.
        build: builds its network.

    Raises:
        ValueError: the precision is `"auto"` with several devices.
    """
    if run.precision is None:
        policy = devices.policy or keras.config.dtype_policy().name
        return dataclasses.replace(run, precision={name: key for key, name in POLICIES.items()}.get(policy))
    if run.precision != "auto":
        return run
    if devices.strategy != "default":
        raise ValueError(
            f"`precision` (='auto') is measured on one device: name a precision for the strategy {devices.strategy!r}."
        )
    seconds = step_seconds(run, batches, build)
    fastest = min(seconds, key=lambda name: seconds[name])
    chosen = fastest if GAIN * seconds[fastest] < seconds["float32"] else "float32"
    return dataclasses.replace(run, precision=chosen, step_seconds=seconds)


def step_seconds(run: Run, batches: Batches, build: Callable[[], keras.Model]) -> dict[str, float]:
    """Median seconds of a training step in each of `MEASURED`, interleaved, after compilation."""
    batch = batches.batch(0, 0)

    def step(name: str) -> Callable[[], Any]:
        tried = dataclasses.replace(run, precision=name)
        model = compile_model(in_policy(POLICIES[name], build), tried, batches.steps, Devices())
        return lambda: model.train_on_batch(*batch)

    seconds = take_turns({name: step(name) for name in MEASURED}, ROUNDS, warmup=1)
    return {name: statistics.median(values) for name, values in seconds.items()}
