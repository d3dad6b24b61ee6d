"""The trainers on the other backend: tests of other files, run there; in `make test`, see `cli/cold_start.py`."""

import os
import pathlib
import subprocess
import sys

import keras
import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() == "jax", reason="this is the JAX run")
def test_all_of_this_on_jax():
    tests = {
        "test_resume.py": ["test_a_checkpoint_holds_all_that_the_next_steps_depend_on"],
        "test_batches.py": ["test_fit_takes_the_batches_in_order_epoch_by_epoch"],
        "test_recipes.py": ["test_weight_decay_counts_a_shared_tensor_once", "test_weight_decay_in_the_loss"],
        "test_fit.py": [
            "test_files_of_a_run",
            "test_metrics_say_what_came_out",
            "test_saved_models_have_the_accuracy_that_is_reported",
        ],
        "test_recipe_parts.py": ["test_the_loss_with_a_teacher", "test_a_run_with_a_teacher"],
        "test_resident.py": [
            "test_what_is_trained_is_that_of_the_ordinary_loop",
            "test_two_devices_train_what_one_does",
            "test_a_whole_epoch_lowers_for_tpu",
        ],
    }
    names = [f"tests/training/{file}::{name}" for file, names in tests.items() for name in names]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "", *names]
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    assert "22 passed" in result.stdout
