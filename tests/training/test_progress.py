"""Progress messages during training, with a fake clock."""

import keras
import pytest

from keras_sharenets.training.run import progress
from keras_sharenets.training.run.progress import Progress

LOGS = {"loss": 1.5, "accuracy": 0.25, "val_loss": 2.0, "val_accuracy": 0.125}


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    return now


def _take_epoch(callback, clock, number, seconds):
    """Simulates an epoch of four steps and an evaluation that take the given times."""
    callback.on_epoch_begin(number)
    for batch in range(4):
        clock[0] += seconds[batch]
        callback.on_train_batch_end(batch, LOGS)
    callback.on_test_begin()
    clock[0] += seconds[4]
    callback.on_epoch_end(number, LOGS)


def test_line_per_epoch_estimates_the_remaining_time(clock):
    told, shown = [], []
    callback = Progress(4, "validation", told.append, shown.append)
    callback.set_params({"epochs": 4, "steps": 4})
    _take_epoch(callback, clock, 0, [60, 10, 10, 10, 10])
    _take_epoch(callback, clock, 1, [10, 10, 10, 10, 100])
    for number in (2, 3):
        _take_epoch(callback, clock, number, [10, 10, 10, 10, 10 + number])
    figures = "loss 1.5000, accuracy 0.2500, validation accuracy 0.1250"
    assert told == [
        f"epoch 1 of 4: {figures}; 2 min, about 2 min left",  # 50 s without compilation.
        f"epoch 2 of 4: {figures}; 2 min, about 2 min left",  # Twice the lower of 50 s and 140 s.
        f"epoch 3 of 4: {figures}; 52 s, about 52 s left",
        f"epoch 4 of 4: {figures}; 53 s",
    ]
    # Within the first epoch, the estimate uses its steps without the first.
    assert shown[:6] == [
        "epoch 1 of 4: first step",
        "epoch 1 of 4: step 1 of 4",
        "epoch 1 of 4: step 2 of 4, about 2 min left",
        "epoch 1 of 4: step 3 of 4, about 2 min left",
        "epoch 1 of 4: step 4 of 4, about 2 min left",
        "epoch 1 of 4: evaluating on the validation split",
    ]
    assert shown[6] == ""
    assert "epoch 2 of 4: step 2 of 4, about 2 min left" in shown
    # Half of an epoch of 52 s.
    assert "epoch 4 of 4: step 2 of 4, about 26 s left" in shown


def test_partial_epoch_gives_no_estimate(clock):
    """A resumed run calls `model.fit` for the rest of an epoch."""
    told, shown = [], []
    callback = Progress(4, "test", told.append, shown.append)
    callback.set_params({"epochs": 2, "steps": 4})
    _take_epoch(callback, clock, 1, [0.1] * 5)
    assert told == ["epoch 2 of 4: loss 1.5000, accuracy 0.2500, test accuracy 0.1250; 0.5 s"]
    # Less than half a second passes between the steps.
    assert [line for line in shown if "step" in line] == ["epoch 2 of 4: first step"]
    # Nor do slower steps: four of them are not a complete epoch.
    _take_epoch(callback, clock, 1, [2] * 5)
    assert not [line for line in (*told, *shown) if "left" in line]
    assert "epoch 2 of 4: step 3 of 4" in shown
    callback.set_params({"epochs": 4, "steps": 4})
    _take_epoch(callback, clock, 2, [2] * 5)
    assert told[2].endswith("; 10 s, about 10 s left")


def test_progress_without_a_model():
    """`fit` also calls it directly if a run was stopped after the last step of an epoch."""
    told = []
    callback = Progress(1, "test", told.append, lambda text: None, opening="what is about to begin")
    called = keras.callbacks.CallbackList([callback])
    called.on_train_begin()
    called.on_epoch_begin(0)
    called.on_epoch_end(0, LOGS)
    called.on_train_end()
    assert told[0] == "what is about to begin"
    assert told[1].startswith("epoch 1 of 1: loss 1.5000")
    called.on_train_begin()
    assert len(told) == 2
