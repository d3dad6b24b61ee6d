"""The command line: lazy imports, `--json`, suppressed messages of TensorFlow, interruption, and hints."""

import importlib
import io
import json
import logging
import os
import pathlib
import re
import signal
import subprocess
import sys
import warnings

import keras
import pytest

import keras_sharenets as ksn
from keras_sharenets import cli, notices
from keras_sharenets.cli import command
from keras_sharenets.cli.command import make_parser
from keras_sharenets.extras import EXTRAS
from trainers.cli import LINE as TRAINERS
from tuning.cli import LINE as TUNING

ROOT = pathlib.Path(__file__).parents[2]

SAVED = ROOT / "saved_models" / "hscnet_m32_g4_r2_b1_a2_cifar10" / "last.keras"


@pytest.mark.parametrize(
    "further",
    [
        pytest.param(["net.keras"], id="plain"),
        pytest.param([SAVED], marks=pytest.mark.slow, id="hscnet"),
        pytest.param([], marks=pytest.mark.slow, id="search"),
    ],
)
def test_fresh_process_without_tensorflow(further, tmp_path):
    """By default, with a small file and a plain network for training."""
    plain = further == ["net.keras"]
    if plain:
        keras.Sequential([keras.Input((8, 8, 3)), ksn.layers.HighlySharedConv2D(8, 3)]).save(tmp_path / "net.keras")
    words = [sys.executable, pathlib.Path(__file__).with_name("cold_start.py"), tmp_path, *further]
    environment = {**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": str(ROOT), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    environment |= {"PLAIN": "1"} if plain else {}
    result = subprocess.run(words, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (0, "done\n"), result.stderr


def test_public_names_of_the_package():
    assert ksn.profile is ksn.analysis.profile
    assert ksn.create_model is ksn.models.create_model
    assert ksn.mobile.__name__ == "keras_sharenets.mobile"
    with pytest.raises(AttributeError, match="'keras_sharenets' has no attribute 'nonsense'"):
        ksn.nonsense  # noqa: B018


@pytest.mark.parametrize("line", [cli.LINE, TRAINERS, TUNING], ids=lambda line: line.prog)
def test_help_of_every_command_has_a_valid_example(line, capsys):
    for name in line.commands:
        with pytest.raises(SystemExit, match="0"):
            command.run_command_line(line, [name, "--help"])
        text = capsys.readouterr().out
        example = text.partition(f"example:\n  {line.prog} ")[2]
        assert make_parser(line, [name]).parse_args(example.replace("'", "").split()).command == name


def test_usage_is_one_line_with_required_arguments(capsys):
    for words in (["search", "--help"], ["search", "--space", "hscnet"]):
        with pytest.raises(SystemExit):
            cli.main(words)
        told = "".join(capsys.readouterr())
        usage = "usage: sharenets search --data DATA --trials N --output DIR [options]"
        assert told.splitlines()[0] == usage


def test_json_to_file_and_standard_output(sharenets, tmp_path):
    target = tmp_path / "found.json"
    status, text, _ = sharenets("list", "hscnet_m32*", "--json", target)
    assert (status, text.splitlines()[1].split()[0]) == (0, "hscnet_m32_g4_r2_b1_a2")
    data = json.loads(target.read_text())
    assert [entry["name"] for entry in data] == ["hscnet_m32_g4_r2_b1_a2"]
    for words in (("--json", "-"), ("--json",)):
        status, text, _ = sharenets("list", "hscnet_m32*", *words)
        assert (status, json.loads(text)) == (0, data)


def test_json_does_not_overwrite_an_image(capsys, tmp_path):
    (tmp_path / "cat.png").write_text("a cat")
    with pytest.raises(SystemExit, match="2"):
        cli.main(["predict", "net.keras", "--json", str(tmp_path / "cat.png")])
    assert "must be - or a file that ends in .json" in capsys.readouterr().err
    # Told before the work, not after it.
    assert cli.main(["predict", "net.keras", "cat.png", "--json", str(tmp_path / "cat.png" / "found.json")]) == 2
    assert "`--json` (=" in capsys.readouterr().err
    assert (tmp_path / "cat.png").read_text() == "a cat"


def test_completion_contains_commands_and_options(capsys):
    for shell in ("bash", "zsh", "fish", "tcsh"):
        with pytest.raises(SystemExit, match="0"):
            cli.main(["--print-completion", shell])
        text = capsys.readouterr().out
        assert "benchmark" in text
        # For tcsh, shtab completes commands only.
        assert ("--representative-data" in text) == (shell != "tcsh")


NOTICES = [
    "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
    "I0000 00:00:1795711341.771587    9302 port.cc:153] oneDNN custom operations are on.",
    "2026-11-26 16:38:55.123456: I tensorflow/core/platform/cpu_feature_guard.cc:210] This binary is optimized",
    "To enable the following instructions: AVX2 FMA, in other operations, rebuild TensorFlow",
    "INFO: Created TensorFlow Lite XNNPACK delegate for CPU.",
]
ERROR = "E0000 00:00:1795711341.893421    9302 cuda_executor.cc:1] failed call to cuInit"


@pytest.mark.parametrize("fails", [False, True])
def test_notices_are_suppressed_and_errors_are_not(fails, capfd, monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        with notices.without_notices():
            os.write(2, "\n".join([*NOTICES, ERROR, ""]).encode())
            if fails:
                raise ImportError("no")
    except ImportError:
        assert fails
    lines = capfd.readouterr().err.splitlines()
    assert lines == ([*NOTICES, ERROR] if fails else [ERROR])
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_commands_suppress_notices_of_litert(capfd, monkeypatch):
    """Other messages are printed, and programs that use the library see all messages."""
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "2")
    text = f"{NOTICES[-1]}\n{ERROR}\n".encode()
    with notices.quiet_interpreters():
        with notices.opening():
            os.write(2, text)
        assert capfd.readouterr().err.splitlines() == [ERROR]
        with notices.opening():
            os.write(2, text)
    with notices.opening():
        os.write(2, text)
    assert capfd.readouterr().err.encode() == 2 * text


def test_late_imports_are_quiet_in_commands_only(capfd, monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "2")
    text = f"{NOTICES[1]}\n{ERROR}\n".encode()
    with notices.quiet_interpreters():
        for _ in range(2):
            with notices.importing():
                os.write(2, text)
    assert capfd.readouterr().err.splitlines() == [ERROR, ERROR]
    with notices.importing():
        os.write(2, text)
    assert capfd.readouterr().err.encode() == text


def test_retracing_warnings_are_suppressed(caplog):
    notices.without_retracing()
    logger = logging.getLogger("tensorflow")
    try:
        logger.warning("5 out of the last 5 calls to %s triggered tf.function retracing. Tracing is expensive", "f")
        logger.warning("another warning")
    finally:
        logger.removeFilter(notices._is_not_retracing)
    assert [record.getMessage() for record in caplog.records if record.name == "tensorflow"] == ["another warning"]


def test_notices_on_request(capfd, monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    with notices.without_notices():
        os.write(2, NOTICES[1].encode())
    assert capfd.readouterr().err == NOTICES[1]


@pytest.mark.parametrize("given", [None, "0"])
def test_commands_enable_onednn_unless_the_variable_is_set(given, sharenets, monkeypatch, tmp_path):
    """TensorFlow reads the variable when Keras is imported."""
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    if given:
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", given)
    met, import_module = {}, importlib.import_module

    def record(name, *package):
        met.setdefault(name, os.environ.get("TF_ENABLE_ONEDNN_OPTS"))
        return import_module(name, *package)

    monkeypatch.setattr(importlib, "import_module", record)
    (tmp_path / "net.tflite").write_bytes(b"")
    assert sharenets("size", tmp_path / "net.tflite")[0] == 2
    assert met["keras"] == (given or "1")


def test_missing_package_is_one_line(sharenets, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "keras_sharenets.mobile.inspect.tables", None)
    (tmp_path / "net.tflite").write_bytes(b"")
    status, _, err = sharenets("size", tmp_path / "net.tflite")
    assert (status, err.count("\n")) == (2, 1)
    assert err.startswith("error: ")
    assert "tables" in err


@pytest.mark.skipif(os.name == "nt", reason="Unix pipes")
def test_closed_pipe():
    """As in `sharenets list | head`."""
    reader, writer = os.pipe()
    os.close(reader)
    arguments = [sys.executable, "-c", "from keras_sharenets.cli import main; raise SystemExit(main())", "list"]
    result = subprocess.run(arguments, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (result.returncode, result.stderr) == (141, "")


def test_interruption(sharenets, monkeypatch):
    def interrupt(pattern):
        raise KeyboardInterrupt("3 of 4 are done")

    monkeypatch.setattr("keras_sharenets.cli.list.matching_names", interrupt)
    assert sharenets("list") == (130, "", "interrupted: 3 of 4 are done\n")


def test_sigterm_interrupts_and_warnings_are_one_line(sharenets, monkeypatch):
    told = []

    def interrupt(pattern):
        told.extend(warnings.formatwarning("it is late", UserWarning, "late.py", 1) for _ in range(2))
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("keras_sharenets.cli.list.matching_names", interrupt)
    assert sharenets("list") == (143, "", "interrupted\n")
    assert told == ["warning: it is late\n", ""]


@pytest.mark.parametrize("as_module", [False, True], ids=["script", "module"])
def test_installed_command(as_module):
    program = pathlib.Path(sys.executable).parent / "sharenets"
    if not as_module and not program.exists():
        pytest.skip("the package is not installed beside this Python")
    words = [sys.executable, "-m", "keras_sharenets"] if as_module else [program]
    result = subprocess.run([*words, "--version"], capture_output=True, text=True, check=True, cwd=ROOT)
    assert (result.stdout.strip(), result.stderr) == (ksn.__version__, "")


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["lst"], "Did you mean list?"),
        (["fit", "--modle", "resnet_8"], "Did you mean --model?"),
        (["export", "net.keras", "--quantizaton=int8"], "Did you mean --quantization?"),
        (["export", "net.keras", "--to", "saved_modl"], "Did you mean saved_model?"),
    ],
)
def test_misspelled_words_get_suggestions(words, hint, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(words)
    assert capsys.readouterr().err.rstrip().endswith(hint)


def test_unknown_words_get_no_suggestion(capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["list", "--zzz"])
    assert "Did you mean" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "hint"),
    [
        ("keras_tuner", "pip install 'keras_sharenets[tuning]'"),
        ("tensorflow_datasets.core", "pip install 'keras_sharenets[data]'"),
        ("tensorboard", "pip install 'keras_sharenets[plots]'"),
        ("matplotlib", "pip install matplotlib"),
        ("sklearn.datasets", "pip install scikit-learn"),
    ],
)
def test_missing_package_error_has_an_install_hint(module, hint, sharenets, monkeypatch):
    def run(pattern):
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr("keras_sharenets.cli.list.matching_names", run)
    assert sharenets("list") == (2, "", f"error: No module named {module!r}: {hint}\n")


def test_extras_of_hints_exist():
    text = (ROOT / "setup.cfg").read_text().replace("-", "_")
    extras = dict(re.findall(r"^(\w+) =\n((?:    .+\n)+)", text[text.index("[options.extras_require]") :], re.M))
    for module, extra in EXTRAS.items():
        # `tf_keras` is a dependency of the pruning package.
        assert module in extras[extra] or module == "tf_keras", module


def test_progress_is_shown_on_terminals_only(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("COLUMNS", "20")
    for stream, expected in (
        (Terminal(), f"epoch 1 of 40: step\r{' ' * 19}\rerror: no\n"),
        (io.StringIO(), "error: no\n"),
    ):
        monkeypatch.setattr(sys, "stderr", stream)
        command.say_over("epoch 1 of 40: step 3 of 20")
        command.say_over("")
        command.say("error: no")
        assert stream.getvalue() == expected
