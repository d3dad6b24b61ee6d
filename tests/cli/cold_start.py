"""Commands in a fresh process on JAX without TensorFlow: `python cold_start.py FOLDER [SAVED_MODEL]`.

With PLAIN=1, the trained network is a plain one, which JAX compiles three times as fast, and no large network is
described.
"""

import contextlib
import importlib
import io
import os
import pathlib
import sys
import time


class HideTensorFlow:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == "tensorflow":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


def run_command(*words):
    """Runs a command: `(exit status, standard output, standard error)`."""
    from keras_sharenets.cli import main

    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            status = main(list(words))
        except SystemExit as stop:
            status = stop.code
    return status, out.getvalue(), err.getvalue()


def check_quick_commands():
    import keras_sharenets as ksn
    from keras_sharenets.cli import COMMANDS
    from keras_sharenets.search.enumeration import column_notes
    from keras_sharenets.search.spaces import NAMES, find_space

    assert set(dir(ksn)) == {*ksn.__all__, "__version__"}
    assert "mobile" in dir(ksn)
    assert run_command("--version") == (0, f"{ksn.__version__}\n", "")
    assert run_command("--help")[0] == 0
    for command in COMMANDS:
        status, text, _ = run_command(command, "--help")
        assert status == 0
        assert f"example:\n  sharenets {command}" in text, command
        assert "--json" in text, command
    assert run_command("fit", "--nonsense")[0] == 2
    assert run_command("nonsense")[0] == 2
    status, _, text = run_command("export", "net.keras", "--quantization", "int8")
    assert (status, text.partition("FOLDER")[0]) == (2, "error: `--quantization int8` requires `--representative-data ")
    status, text, _ = run_command("--print-completion", "bash")
    assert status == 0
    assert "--representative-data" in text
    assert "--checkpoint-steps" in text
    misspelled = (
        ("describe", "hscnet_m23"),
        ("create", "hscnet_m23", "--output", "net.keras"),
        ("fit", "--model", "hscnet_m23", "--data", "digits", "--output", "run"),
    )
    for words in misspelled:
        status, _, text = run_command(*words)
        assert status == 2, words
        assert text.startswith("error: `name` (='hscnet_m23') is not a known model. Did you mean 'hscnet_m"), text
    missing = (
        "analyze no/run --output out",
        "benchmark no.tflite",
        "blending no.keras --data digits --output out",
        "compare no --output out",
        "compress no/run --share 50% --output out",
        "describe no.keras",
        "evaluate no.keras --data digits",
        "export no.keras",
        "fit --from no.keras --data digits --output out",
        "fit --resume no",
        "page no.tflite --output out",
        "predict no.keras cat.png",
        "report no",
        "results no",
        "size no.tflite",
    )
    for line in missing:
        status, _, text = run_command(*line.split())
        assert (status, text[:19]) == (2, "error: There is no "), (line, text)
    untrained = run_command("compress", "resnet_9", "--share", "50%", "--output", "out")[2]
    assert untrained.startswith(
        "error: `target` (='resnet_9') must be the folder of a run, a .keras file, or one pretrained network"
    ), untrained
    assert run_command("choose", "--classes", "1")[2].startswith("error: `num_classes` (=1) must")
    assert run_command("table", "hscnet_m23*")[2].startswith("error: `pattern` (='hscnet_m23*') matches no model")
    assert "\nhscnet_m32_g4_r2_b1_a2 " in run_command("list", "hscnet_m32*")[1]
    assert run_command("recipes", "fast")[1].startswith("fast: ")
    words = ["enumerate", "--space", "sharesnet", "--input-shape", "8", "8", "1"]
    assert "\nshare:\n  in preact_resnet: which " in run_command(*words)[1]
    heavy = {"keras", "tensorflow", "jax", "numpy", "PIL", "sklearn", "matplotlib"} & set(sys.modules)
    assert not heavy, heavy
    assert time.process_time() < 5, "these commands take a second on an idle machine"
    for space in map(find_space, NAMES):
        assert column_notes(space)
    # Their rules may import numpy.
    assert not {"keras", "tensorflow", "jax"} & set(sys.modules)


def check_commands_without_tensorflow(folder, saved):
    # Importing this package is sufficient to load its files.
    keras = importlib.import_module("keras")
    loaded = keras.saving.load_model(saved, compile=False)
    assert "HighlySharedConv2D" in {type(layer).__name__ for layer in loaded.layers}
    if "PLAIN" in os.environ:
        assert f"{loaded.count_params():,}" in run_command("describe", saved)[1]
        sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "training"))
        plain = importlib.import_module("tiny_network").create_plain
        importlib.import_module("keras_sharenets.training.run.network").create_model = plain
        # Plots of the curves take as long as the training.
        importlib.import_module("keras_sharenets.training.run.recorder").draw_curves = lambda run: b"not drawn"
    else:
        assert "50,922" in run_command("describe", "hscnet_m32_g4_r2_b1_a2")[1]
    network = "--model hscnet_m32_g4_r2_b1_a2 --model-option width=(8,) --model-option arrangements=1"
    status, _, text = run_command(*f"fit {network} --data digits --epochs 1 --output {folder}/run".split())
    assert status == 0, text
    assert run_command("evaluate", f"{folder}/run/last.keras", "--data", "digits")[1].startswith("accuracy")


def check_search(folder):
    """Without TensorFlow, files cannot be measured, so the accuracy determines the winner."""
    budget = "--max-parameters 5000 --epochs 1"
    status, text, errors = run_command(
        *f"search --space hscnet --data digits --trials 1 {budget} --output {folder}/search".split()
    )
    assert status == 0, errors
    assert text.startswith("winner: trial 0, validation accuracy"), text


if __name__ == "__main__":
    sys.meta_path.insert(0, HideTensorFlow)
    if len(sys.argv) == 3:
        check_quick_commands()
        check_commands_without_tensorflow(*sys.argv[1:])
    else:
        check_search(sys.argv[1])
    assert not [name for name in sys.modules if name.partition(".")[0] == "tensorflow"]
    print("done")
