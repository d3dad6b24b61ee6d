"""In which precision a network is trained. Its weights and files are float32 in any case."""

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

MEASURED = ("float32", "bfloat16")  # Of float16, small gradients are 0 and large ones infinite: who wants it names it.
GAIN = 1.05  # How much faster a step has to be.
ROUNDS = 3


def choose_precision(run: Run, devices: Devices, batches: Batches, build: Callable[[], keras.Model]) -> Run:
    """The run with its precision: what was asked for, the fastest for `"auto"`, that of the devices for `None`.

    Args:
        run: as it starts or continues.
        devices: where it is trained.
        batches: of its training split.
        build: makes its network.

    Raises:
        ValueError: `"auto"` for several devices.
    """
    if run.precision is None:
        policy = devices.policy or keras.config.dtype_policy().name
        return dataclasses.replace(run, precision={name: key for key, name in POLICIES.items()}.get(policy))
    if run.precision != "auto":
        return run
    if devices.strategy != "default":
        raise ValueError(
            f"`precision` (='auto') is measured on one device: name one for the strategy {devices.strategy!r}."
        )
    seconds = step_seconds(run, batches, build)
    fastest = min(seconds, key=lambda name: seconds[name])
    chosen = fastest if GAIN * seconds[fastest] < seconds["float32"] else "float32"
    return dataclasses.replace(run, precision=chosen, step_seconds=seconds)


def step_seconds(run: Run, batches: Batches, build: Callable[[], keras.Model]) -> dict[str, float]:
    """Seconds of a training step in each of `MEASURED`: medians of steps in turn, after each was compiled."""
    batch = batches.batch(0, 0)

    def step(name: str) -> Callable[[], Any]:
        tried = dataclasses.replace(run, precision=name)
        model = compile_model(in_policy(POLICIES[name], build), tried, batches.steps, Devices())
        return lambda: model.train_on_batch(*batch)

    seconds = take_turns({name: step(name) for name in MEASURED}, ROUNDS, warmup=1)
    return {name: statistics.median(values) for name, values in seconds.items()}
