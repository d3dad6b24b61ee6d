"""Runs training tests of other files on JAX; by default, `cli/cold_start.py` covers this backend."""

import os
import pathlib
import subprocess
import sys

import keras
import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() == "jax", reason="this is the JAX run")
def test_training_on_jax():
    tests = {
        "test_checkpoints.py": ["test_checkpoint_contains_the_complete_state"],
        "test_batches.py": ["test_fit_uses_batches_in_order"],
        "test_recipes.py": ["test_weight_decay_counts_a_shared_tensor_once", "test_weight_decay_in_the_loss"],
        "test_fit.py": [
            "test_files_of_a_run",
            "test_metrics_contain_results",
            "test_saved_models_have_the_reported_accuracy",
        ],
        "test_recipe_parts.py": ["test_distillation_loss", "test_run_with_a_teacher"],
        "test_resident.py": [
            "test_training_on_device_matches_ordinary_loop",
            "test_two_devices_match_one_device",
            "test_epoch_compiles_for_tpu",
        ],
    }
    names = [f"tests/training/{file}::{name}" for file, names in tests.items() for name in names]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "", *names]
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    assert "22 passed" in result.stdout
