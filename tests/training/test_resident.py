"""Images kept on the device: the same batches and results, and steps that compile for a TPU."""

import os
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from tiny_network import MODEL, TINY

from keras_sharenets.dtype_policies import POLICIES, in_policy
from keras_sharenets.training.data.augmentation import Augmentation, augment, augment_on_device, draw_changes
from keras_sharenets.training.data.batches import EvenBatches, held_out_batches, training_batches
from keras_sharenets.training.devices import resident
from keras_sharenets.training.devices.devices import Devices
from keras_sharenets.training.devices.resident import Draws, keep_images, keeps_images, many_steps
from keras_sharenets.training.recipes.named import find_recipe, override, recipe_for
from keras_sharenets.training.run.fit import fit
from keras_sharenets.training.run.network import build, compile_model
from keras_sharenets.training.run.record import Run, RunOptions, read_metrics
from keras_sharenets.training.run.recorder import list_checkpoints, load_checkpoint

TRACED = True  # Steps on the device are compiled.
ROOT = pathlib.Path(__file__).parents[2]
on_jax = pytest.mark.skipif(keras.backend.backend() != "jax", reason="for JAX")


@pytest.fixture(scope="module")
def recipe():
    return override(recipe_for(MODEL, "digits"), epochs=2, batch_size=64, learning_rate=0.03)


@pytest.mark.parametrize(
    ("border", "more", "difference"),
    [("mean", {}, 0), ("edge", {}, 0), ("reflect", {}, 0), ("mean", {"jitter": 0.4, "lighting": 0.1}, 2e-3)],
)
def test_augmentation_on_device_matches_host(border, more, difference):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (20, 9, 7, 3), "uint8")
    augmentation = Augmentation(pad=2, flip=True, fill=(1.1, 2.2, 3.3), border=border, **more)
    changes = draw_changes(augmentation, len(images), generator)
    changed = augment_on_device(images, augmentation, _to_32_bits(changes))
    assert changed.dtype == "float32"
    np.testing.assert_allclose(changed, augment(images, augmentation, changes), rtol=0, atol=difference)


def _to_32_bits(arrays):
    return [np.asarray(array, "float32" if array.dtype.kind == "f" else "int32") for array in arrays]


def test_draws_match_batches(digits, recipe):
    """An epoch of 22 steps from step 3 on, with 8 steps per call."""
    batches = training_batches(digits, recipe, 5, first=3)
    batches.epoch = 1
    draws = Draws(batches, 8, images=True)
    assert len(draws) == 19
    calls, sent = zip(*(draws[index][0] for index in range(4)), strict=True)
    assert Draws(batches, 8)[3][0][1] == ()
    assert {call[0].shape for call in calls} == {(64, 8)}
    counts = [int((call[0][0] >= 0).sum()) for call in calls]
    assert counts == [8, 8, 3, 0]
    for step in range(3, 22):
        call, number = divmod(step - 3, 8)
        indices, *changes = (array[:, number] for array in calls[call])
        images = augment(digits.train.pixels(indices), batches.augmentation, changes)
        expected, classes = batches.batch(1, step)
        np.testing.assert_array_equal(images, expected)
        np.testing.assert_array_equal(digits.train.labels[indices], classes.argmax(-1))
        images, labels = (array[:, number] for array in sent[call])
        np.testing.assert_array_equal(images, digits.train.pixels(indices))
        np.testing.assert_array_equal(labels, classes.argmax(-1))
    batches.epoch = 2
    np.testing.assert_array_equal(draws[0][0][0][0][:, 0], batches.draw(2, 3)[0])


def test_when_images_are_kept_on_the_device(digits, recipe, monkeypatch):
    asked = (Devices(), digits, recipe, "auto")
    assert not keeps_images("no", *asked)
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    monkeypatch.setattr(resident, "_on_cpu", lambda: True)
    assert not keeps_images("auto", *asked)
    assert keeps_images("yes", *asked)
    monkeypatch.setattr(resident, "_on_cpu", lambda: False)
    assert keeps_images("auto", *asked)
    for devices, changed, jit_compile, told in (
        (Devices("multi_worker", workers=2), recipe, "auto", "needs one process"),
        (Devices(), override(recipe, crop="area"), "auto", "needs the crop 'shift', but .* 'area'"),
        (Devices(), recipe, False, "`jit_compile` is False"),
    ):
        assert not keeps_images("auto", devices, digits, changed, jit_compile)
        with pytest.raises(ValueError, match=rf"`epochs_on_device` \(='yes'\) .*{told}"):
            keeps_images("yes", devices, digits, changed, jit_compile)
    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    with pytest.raises(ValueError, match="needs KERAS_BACKEND=jax"):
        keeps_images("yes", *asked)


@on_jax
@pytest.mark.slow
@pytest.mark.parametrize("how", ["steps", "loop", "sent"])
def test_training_on_device_matches_ordinary_loop(how, digits, recipe, quick_network, tmp_path, monkeypatch):
    """Single steps as on a CPU; a loop on the device with 3 of 5 steps at once; and with transferred images.

    The number of steps is small, since the loop rounds convolutions differently, and differences grow in training.
    """
    settings = {"recipe": override(recipe, batch_size=256), "options": TINY, "verbose": 0}
    plain = fit(MODEL, digits, tmp_path / "plain", run_options=RunOptions(epochs_on_device="no"), **settings)
    if how != "steps":
        monkeypatch.setattr(resident, "_on_cpu", lambda: False)
    if how == "sent":  # A quarter of the memory holds two calls of 3 steps, but not the 1,797 images.
        monkeypatch.setattr(resident, "_memory", lambda: 4 * 2 * 3 * 256 * 64)
    asked = "yes" if how == "steps" else "auto"
    run_options = RunOptions(epochs_on_device=asked, checkpoint_steps=3, keep_checkpoints=9)
    run = fit(MODEL, digits, tmp_path / "run", run_options=run_options, **settings)
    assert (plain.epochs_on_device, run.epochs_on_device) == ("no", "yes")
    for name in ("loss", "accuracy", "test_loss", "test_accuracy", "learning_rate"):
        figures = [[getattr(epoch, name) for epoch in record.epochs] for record in (run, plain)]
        assert figures[0] == pytest.approx(figures[1], abs=1e-5)
    names = [path.name for path in list_checkpoints(tmp_path / "run" / "checkpoints")]
    assert names == [f"{step:09d}.npz" for step in (3, 5, 8, 10)]
    ends = [load_checkpoint(list_checkpoints(tmp_path / name / "checkpoints")[-1])[0] for name in ("plain", "run")]
    for name in (name for name in ends[0] if not name.startswith("metrics")):
        np.testing.assert_allclose(ends[1][name], ends[0][name], atol=1e-5, err_msg=name)


@on_jax
@pytest.mark.slow
def test_two_devices_match_one_device(tmp_path):
    """Runs in separate processes, since the number of CPU devices is fixed at startup."""
    common = f"fit --model {MODEL} --model-option width=(16,) --data digits --epochs 2 --batch-size 64".split()
    common += ["--model-option", "shuffle_groups=1", "--model-option", "arrangements=1", "--learning-rate", "0.03"]
    for name, devices, more in (("one", 1, []), ("two", 2, ["--strategy", "mirrored", "--epochs-on-device", "yes"])):
        environment = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
        command = [sys.executable, "-m", "trainers", *common, *more, "--output", str(tmp_path / name)]
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
    one, two = (read_metrics(tmp_path / name / "metrics.json") for name in ("one", "two"))
    assert (one.epochs_on_device, two.epochs_on_device) == ("no", "yes")
    assert [epoch.loss for epoch in two.epochs] == pytest.approx([epoch.loss for epoch in one.epochs], abs=1e-3)
    assert two.test_accuracy == pytest.approx(one.test_accuracy, abs=0.01)


@on_jax
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_epoch_compiles_for_tpu(precision, digits, monkeypatch):
    import jax

    monkeypatch.setattr(resident, "_on_cpu", lambda: False)
    recipe = override(find_recipe("digits"), batch_size=64)
    record = {"model": MODEL, "options": TINY, "data": {}, "backend": "jax", "versions": {}}
    run = Run(recipe=recipe, precision=precision, **record)
    batches = training_batches(digits, recipe, 0)
    held_out = EvenBatches(held_out_batches(digits, 64), 0, 1)
    devices = keep_images(Devices(), batches, held_out, None)
    assert devices.steps_per_execution == batches.steps == 22
    network = in_policy(POLICIES[precision], lambda: build(MODEL, digits, TINY, recipe))
    model = compile_model(network, run, batches.steps, devices)
    split = model.train_split
    groups = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    state = tuple([jax.ShapeDtypeStruct(variable.shape, variable.dtype) for variable in group] for group in groups)
    epoch = jax.jit(many_steps(model, model.train_step, split), donate_argnums=0)
    exported = jax.export.export(epoch, platforms=["tpu"])(state, devices.feed(batches)[0][0], split.held)
    text = exported.mlir_module()
    assert exported.platforms == ("tpu",)
    assert "stablehlo.while" in text
    assert "tensor<?" not in text, "a dynamic shape"
    assert not re.search(r"callback|infeed|outfeed|stablehlo\.(send|recv)", text), "communication with the host"
    convolutions = re.findall(r"stablehlo\.convolution\(.*", text)
    assert convolutions
    if precision == "bfloat16":
        assert all("bf16>" in call for call in convolutions), "a convolution in full precision"
    # The outputs of an epoch have the shapes of the inputs of the next one.
    shapes = [(value.shape, value.dtype) for value in exported.in_avals]
    outputs = [(value.shape, value.dtype) for value in exported.out_avals]
    assert outputs[-sum(map(len, groups)) :] == shapes[: sum(map(len, groups))]
