"""The loop of a training run: epochs, evaluation, checkpoints, and messages when it stops."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pathlib
import signal
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_sharenets.dtype_policies import POLICIES
from keras_sharenets.interruption import Interrupted, deferred_signals
from keras_sharenets.training.data.batches import (
    Batches,
    EvenBatches,
    held_out_batches,
    held_out_size,
    training_batches,
)
from keras_sharenets.training.data.dataset import Arrays, Dataset, Files
from keras_sharenets.training.devices.devices import Devices, check_alike, check_fits, copy_of
from keras_sharenets.training.devices.resident import hold_test_split, keep_images
from keras_sharenets.training.recipes.optimization import is_over
from keras_sharenets.training.run.command import resume_command
from keras_sharenets.training.run.network import compile_model, deliver, evaluate_as, highest_dropout, make_callbacks
from keras_sharenets.training.run.record import Run
from keras_sharenets.training.run.recorder import Checkpoint, Follower, Recorder, restore
from keras_sharenets.training.run.start import freeze
from keras_sharenets.training.run.teacher import open_teacher


def train_network(
    devices: Devices,
    network: keras.Model,
    make: Callable[[], keras.Model],
    run: Run,
    dataset: Dataset,
    output: pathlib.Path,
    checkpoint: Checkpoint | None,
    verbose: str | int,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> Run:
    """Trains a network from `checkpoint`, a path and its contents, or from the beginning if it is `None`.

    Args:
        devices: devices to train on, with their scope already entered.
        network: built, with its initial weights; receives the trained weights.
        make: creates another such network, for cases where the trained network is not the saved one.
        run: settings and previous progress.
        dataset: data for training and testing.
        output: folder of the run, which is locked.
        checkpoint: as returned by `recorder.last_checkpoint`.
        verbose: as in `model.fit`.
        callbacks: additional callbacks, for worker 0 only.

    Returns:
        The finished `Run`. Errors: as `fit`.
    """
    run = dataclasses.replace(run, dropout_rate=highest_dropout(network))
    devices = dataclasses.replace(devices, policy=POLICIES.get(run.precision or ""))
    resident = run.epochs_on_device == "yes"
    part = {"worker": devices.worker, "workers": devices.workers}
    batches = training_batches(dataset, run.recipe, run.seed, **part)
    check_fits(devices, batches, run.jit_compile)
    check_alike(devices, run, 0 if checkpoint is None else checkpoint[-1]["step"])
    steps = batches.steps

    def measured_on(source: Arrays | Files) -> Batches:
        held = dataclasses.replace(dataset, test=source)
        whole = held_out_batches(held, run.recipe.batch_size, held_out_size(dataset, run.recipe))
        return EvenBatches(whole, **part) if resident or devices.strategy != "default" else whole

    held_out = measured_on(dataset.test if dataset.validation is None else dataset.validation)
    if resident:
        devices = keep_images(devices, batches, held_out, run.checkpoint_steps)
    frozen = run.start if run.start is not None and run.start["freeze"] else None
    # The frozen network is a copy: saved files must not be frozen.
    copy = copy_of(network, devices, make, apart=bool(run.recipe.ema or frozen))
    if frozen is not None:
        freeze(copy, frozen)
    teacher = None if run.teacher is None else open_teacher(run.teacher, dataset, run.recipe)[0]
    trained = tested = compile_model(copy, run, steps, devices, teacher=teacher)
    if copy is not network and devices.strategy == "default":
        tested = compile_model(network, run, steps, devices)
        evaluate_as(trained, tested)
    with deferred_signals() as request:
        recorder = (Recorder if devices.chief else Follower)(
            network,
            output,
            run,
            steps=steps,
            deliver=functools.partial(deliver, trained, network),
            request=request,
            gather=devices.gather,
        )
        first = 0
        if checkpoint is not None:
            path, arrays, state = checkpoint
            restore(trained, arrays, ["weights", "optimizer"])
            recorder.resume(path, arrays, state)
            first = state["step"]
        try:
            while not is_over(run.recipe, recorder.run.epochs):
                epoch = len(recorder.run.epochs)
                # The rest of an epoch needs a separate call: `model.fit` expects epochs of equal length.
                batches = training_batches(dataset, run.recipe, run.seed, first=first, **part)
                called = make_callbacks(trained, batches, recorder) + [*callbacks] * devices.chief
                if first == steps:
                    _finish_epoch(trained, devices.feed(held_out), epoch, called)
                else:
                    trained.fit(
                        devices.feed(batches),
                        validation_data=devices.feed(held_out),
                        initial_epoch=epoch,
                        epochs=epoch + 1 if first else run.recipe.epochs,
                        shuffle=False,  # The batches are shuffled already, reproducibly.
                        verbose=verbose if devices.chief else 0,
                        callbacks=called,
                    )
                first = 0
            if dataset.validation is not None:
                held_out = measured_on(dataset.test)
                if resident:
                    hold_test_split(tested, held_out)
                called = keras.callbacks.CallbackList([recorder], model=trained)
                found = trained.evaluate(devices.feed(held_out), verbose=0, callbacks=called, return_dict=True)
                recorder.note_test(found)
            recorder.close("finished")
        except BaseException as error:
            _stop(error, batches.failure or held_out.failure or error, recorder, devices)
            raise
    return recorder.run


def _finish_epoch(trained: keras.Model, held_out: Any, epoch: int, callbacks: list[keras.callbacks.Callback]) -> None:
    """Evaluates the network after an epoch whose steps were all completed before the run was stopped."""
    called = keras.callbacks.CallbackList(callbacks, model=trained)
    called.on_train_begin()
    called.on_epoch_begin(epoch)
    logs = {name: float(value) for name, value in trained.get_metrics_result().items()}
    found = trained.evaluate(held_out, verbose=0, callbacks=called, return_dict=True)
    called.on_epoch_end(epoch, logs | {f"val_{name}": value for name, value in found.items()})
    called.on_train_end()


def _stop(error: BaseException, reason: BaseException, recorder: Recorder, devices: Devices) -> None:
    """Records that a run was stopped, and raises an error that says how to resume, or else returns to reraise `error`.

    Args:
        error: the error raised by `model.fit`.
        reason: the same, or its cause: TensorFlow wraps errors raised by a batch.
    """
    by_signal = isinstance(reason, Interrupted)
    note = signal.Signals(reason.number).name if by_signal else f"{type(reason).__name__}: {reason}".rstrip(": ")
    # Writing fails on a full disk.
    with contextlib.suppress(OSError):
        recorder.close("stopped", note)
    if isinstance(reason, Interrupted):
        raise Interrupted(reason.number, recorder.resume_hint()) from None
    if isinstance(reason, OSError):
        raise OSError(f"A file of the run cannot be written: {reason}. {recorder.resume_hint()}") from error
    if isinstance(reason, ValueError):
        raise ValueError(f"{str(reason).rstrip('.')}. {recorder.resume_hint()}") from error
    if _out_of_memory(reason):
        need = f"A new run with a smaller `batch_size` (={recorder.run.recipe.batch_size}) needs less"
        if recorder.run.epochs_on_device == "yes":
            need += "; so does `--epochs-on-device no`, which also works with `--resume`"
        raise ValueError(f"The device is out of memory. {need}. {recorder.resume_hint()}") from error
    if isinstance(reason, devices.errors):
        raise RuntimeError(
            f"Another worker has exited, so worker {devices.worker} of {devices.workers} stops, too. Restart all "
            f"workers with `{resume_command(recorder.folder, strategy=devices.strategy)}`. "
            f"({type(reason).__name__}: {' '.join(str(reason).split())[:200]})"
        ) from error


def _out_of_memory(error: BaseException) -> bool:
    """Whether the error is an out-of-memory error of Python, TensorFlow, or XLA."""
    names = (type(error).__name__, str(error).partition(":")[0])
    return not {"MemoryError", "ResourceExhaustedError", "RESOURCE_EXHAUSTED"}.isdisjoint(names)
