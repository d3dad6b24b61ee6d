"""`python -m tuning search` and `report`, from the command line to their files."""

import json
import re
import shutil

import keras
import keras_tuner
import PIL.Image
import pytest

import keras_sharenets as ksn
from keras_sharenets import cli as sharenets
from keras_sharenets import files
from keras_sharenets.cli.command import make_parser
from keras_sharenets.folder_lock import hold_folder
from keras_sharenets.search import conclusion, search, settings, training, trials
from keras_sharenets.search.measuring import PEERS
from keras_sharenets.search.training import train
from keras_sharenets.training.data.sources import load
from keras_sharenets.training.recipes.named import find_recipe
from keras_sharenets.training.recipes.recipe import Recipe
from keras_sharenets.training.reports.evaluate import evaluate
from keras_sharenets.training.run.fit import summarize
from keras_sharenets.training.run.network import build
from keras_sharenets.training.run.record import Epoch, Run, write_metrics
from trainers.cli import LINE as TRAINERS
from trainers.cli import main as trainers
from tuning.cli import main

TINY = [
    "--space",
    "shardnet",
    "--data",
    "digits",
    "--trials",
    "2",
    "--epochs",
    "1",
    "--learning-rate",
    "0.01",
    # Few steps: the networks need not learn anything.
    "--batch-size",
    "512",
    "--max-parameters",
    "5000",
    # Three small networks, which compile quickly.
    "--max-multiply-adds",
    "150000",
]
VARIABLES = ("KERASTUNER_TUNER_ID", "KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT")


WHOLE = [*TINY, "--max-tflite-bytes", "30000"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, eager):
    """The folder of a finished search with real training."""
    folder = tmp_path_factory.mktemp("search") / "run"
    assert main(["search", *WHOLE, "--output", str(folder)]) == 0
    return folder


def winner(folder):
    return trials.ranked(trials.read_all(folder))[0]


def test_files_respect_budgets_and_match_recorded_counts(folder):
    results = trials.read_all(folder)
    assert [result.state for result in results] == ["finished"] * 2
    for result in results:
        model = files.load_model(folder / result.id / "network.keras")
        profile = ksn.profile(model)
        assert (result.parameters, result.multiply_adds) == (profile.stored_parameters, profile.multiply_adds)
        assert result.parameters <= 5000
        assert result.multiply_adds <= 150_000
        assert (folder / result.id / "int8.tflite").stat().st_size == result.int8_bytes <= 30_000
        assert (folder / result.id / "float32.tflite").stat().st_size == result.float32_bytes
        assert result.within_budget


def test_winner_is_retrained_on_the_whole_training_split(folder, capsys):
    best = winner(folder)
    found = json.loads((folder / "conclusion.json").read_text())
    assert (found["winner"], found["validation_accuracy"]) == (best.id, best.accuracy)
    digits, recipe = load("digits"), Recipe(**json.loads((folder / "search.json").read_text())["recipe"])
    keras.utils.set_random_seed(0)
    network = build(best.name, digits, best.choices, recipe)
    assert found["test_accuracy"] == train(network, digits, recipe=recipe, seed=0, last_epoch=1)
    assert evaluate(folder / "winner" / "network.keras", digits).accuracy == pytest.approx(found["test_accuracy"])
    assert evaluate(folder / "winner" / "int8.tflite", digits).accuracy == found["int8_test_accuracy"]
    assert (folder / "winner" / "int8.tflite").stat().st_size == found["int8_bytes"] <= 30_000
    assert found["within_budget"]
    assert trainers(["evaluate", str(folder / "winner" / "int8.tflite")]) == 0
    assert capsys.readouterr().out.startswith(f"accuracy {found['int8_test_accuracy']:.4f} ")


@pytest.fixture
def failed_at_the_end(folder, tmp_path, capsys, monkeypatch):
    """A copy of the search whose final training fails: folder, command, and error output."""

    def fail(*arguments, **options):
        raise keras_tuner.errors.FailedTrialError("the training diverged")

    shutil.copytree(folder, tmp_path / "run", ignore=shutil.ignore_patterns("conclusion.json", "winner"))
    command = ["search", *WHOLE, "--output", str(tmp_path / "run")]
    with monkeypatch.context() as patch:
        patch.setattr(conclusion, "train_and_measure", fail)
        assert main(command) == 2
    return tmp_path / "run", command, capsys.readouterr().err


def test_failed_final_training_is_reported(folder, failed_at_the_end):
    run, _, told = failed_at_the_end
    best = winner(folder).id
    assert f"Trial {best} wins, but its training on the whole training split failed: the training diverged." in told
    assert str(run / best) in told
    assert not (run / "conclusion.json").exists()


@pytest.mark.slow
def test_failed_final_training_can_be_repeated(folder, failed_at_the_end):
    run, command, _ = failed_at_the_end
    assert main(command) == 0
    again, before = (json.loads((each / "conclusion.json").read_text()) for each in (run, folder))
    assert again["test_accuracy"] == before["test_accuracy"]


def test_same_command_on_a_finished_search_prints_the_winner(folder, capsys):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert main(["search", *WHOLE, "--output", str(folder)]) == 0
    out = capsys.readouterr().out
    best = winner(folder)
    assert f"winner: trial {best.id}, validation accuracy {best.accuracy:.4f}" in out
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-tflite-bytes", "29999"], "`max_tflite_bytes` (=29999) must match the search in"),
        (["--seed", "1"], "`seed` (=1) must match the search in"),
        (["--batch-size", "32"], "`batch_size` (=32) must match the search in"),
        (["--trials", "3"], "`trials` (=3) must match the search in"),
        (["--finalists", "2"], "`finalists` (=2) must match the search in"),
    ],
)
def test_different_arguments_for_an_existing_search(folder, capsys, arguments, message):
    assert main(["search", *WHOLE, *arguments, "--output", str(folder)]) == 2
    assert message in capsys.readouterr().err


def test_report_with_other_data(folder, tmp_path, capsys):
    for name in ("a/0.png", "a/1.png", "b/0.png", "b/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        PIL.Image.new("RGB", (8, 8)).save(tmp_path / name)
    assert main(["report", str(folder), "--data", str(tmp_path)]) == 2
    assert "must match those of the search in" in capsys.readouterr().err
    assert main(["search", *TINY, "--data", str(tmp_path), "--output", str(tmp_path / "run")]) == 2
    assert "must not be among the images in" in capsys.readouterr().err


def test_report(folder, capsys, monkeypatch):
    for name in PEERS:
        # Replaces the reference files, which take long to create.
        files.write_bytes(folder / "references" / f"{name}.tflite", (folder / "0" / "int8.tflite").read_bytes())
    # Only the run on the same test images is compared; a file of another program is not a run.
    values = {"options": {}, "recipe": find_recipe("digits"), "backend": "tensorflow", "versions": {}}
    values |= {"state": "finished", "epochs": (Epoch(1, 1.0, 0.5, 1.0, 0.75, 0.1, 1.0),)}
    for name, changed in (("igcv3_d_1_0", {}), ("mobilenet_v2_1_0", {"checksums": {"test": "0"}})):
        run = Run(model=name, data=summarize(load("digits")) | changed, **values)
        write_metrics(run, folder / name / "metrics.json")
    files.write_json(folder / "notes" / "metrics.json", {"accuracy": 1})
    shown = []
    monkeypatch.setattr("keras_sharenets.cli.search_report.say_over", shown.append)
    assert main(["report", str(folder)]) == 0
    # Two trials, the winner, and three reference networks.
    assert shown == ["measuring 6 files, interleaved ...", ""]
    out = capsys.readouterr().out
    results = trials.read_all(folder)
    (line,) = [line for line in out.splitlines() if line.startswith("| 0 |")]
    assert f"| {results[0].accuracy:.4f} |" in line
    assert f"| {results[0].int8_bytes:,} |" in line
    report = json.loads((folder / "report.json").read_text())
    assert [trial["id"] for trial in report["trials"]] == ["0", "1"]
    assert report["winner"] == winner(folder).id == report["conclusion"]["winner"]
    assert {entry["name"]: entry["accuracy"] for entry in report["references"]} == {
        "mobilenet_v2_1_0": None,
        "shufflenet_v2_2_0": None,
        "igcv3_d_1_0": 0.75,
    }
    measured = [*report["trials"], *report["references"], report["conclusion"]]
    assert all(0 < entry["latency_ms"] < 100 for entry in measured)
    assert (folder / "report.md").read_text() in out
    for cost in ("int8_bytes", "latency_ms"):
        assert f"]({cost}.png)" in out
        assert (folder / f"{cost}.png").read_bytes().startswith(b"\x89PNG")
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    # The command is valid for `fit`.
    command = report["command"].removeprefix("sharenets ")
    assert command in out
    import shlex

    given = make_parser(TRAINERS).parse_args(shlex.split(command))
    assert (given.epochs, given.seed, given.data) == (None, 0, "digits") or given.epochs == 1


@pytest.mark.slow
def test_final_round(folder, tmp_path, capsys):
    """With real training; `test_finals` covers the details."""
    run = tmp_path / "run"
    assert main(["search", *WHOLE, "--finalists", "2", "--output", str(run)]) == 0
    said, found = capsys.readouterr().err, json.loads((run / "conclusion.json").read_text())
    ahead = trials.ranked(trials.read_all(run))
    # The final round does not change the trials.
    assert [result.accuracy for result in ahead] == [
        result.accuracy for result in trials.ranked(trials.read_all(folder))
    ]
    accuracies = {finalist["id"]: finalist["accuracies"] for finalist in found["finalists"]}
    assert {result.id: result.accuracy for result in ahead} == {name: seen[0] for name, seen in accuracies.items()}
    assert found["winner"] == max(ahead, key=lambda result: sum(accuracies[result.id])).id
    assert len(re.findall(r"^finalist \d, part [23] of 3: validation accuracy", said, re.M)) == 4
    # The estimate includes the remaining trials, four more trainings, and that of the winner.
    assert len(re.findall(r"^trial \d+: validation accuracy .* s, about \d.* left$", said, re.M)) >= 1
    winner = (run / "winner" / "network.keras").read_bytes()
    assert main(["search", *WHOLE, "--finalists", "2", "--output", str(run)]) == 0
    assert (run / "winner" / "network.keras").read_bytes() == winner


def test_network_of_a_trial(folder, tmp_path):
    (first, _) = trials.read_all(folder)
    target = tmp_path / "net.keras"
    assert sharenets.main(["create", "--from-trial", str(folder / first.id), "--output", str(target)]) == 0
    model = files.load_model(target)
    assert ksn.profile(model).stored_parameters == first.parameters
    assert (model.input_shape, model.output_shape) == ((None, 8, 8, 1), (None, 10))


def test_interrupted_search_prints_how_to_resume(tmp_path, capsys, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", interrupted)
    assert main(["search", *TINY, "--output", str(tmp_path / "run")]) == 130
    *_, last = capsys.readouterr().err.splitlines()
    assert last == "interrupted: 0 of 2 trials finished; run the same command to resume"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--space", "hsc"], "`space` (='hsc') must be one of 'hscnet'"),
        (["--trials", "0"], "`trials` (=0) must be a positive integer"),
        (["--finalists", "0"], "`finalists` (=0) must be a positive integer"),
        (["--validation", "1"], "`validation` (=1.0) must be at least 0 and below 1"),
        (["--validation", "0"], "`validation` (=0.0) must be a number above 0"),
        (["--halving-worth", "-1"], "`halving_worth` (=-1.0) must be"),
        (["--max-parameters", "0"], "`max_parameters` (=0) must be"),
        (
            ["--max-parameters", "10"],
            "must allow a network: it allows none of the 1,092 networks of the space 'shardnet'",
        ),
        (["--max-latency-ms", "0"], "`max_latency_ms` (=0.0) must be"),
        (["--seed", "-1"], "`seed` (=-1) must be"),
        (["--seed", "4294967294"], "`seed` (=4294967294) must be a non-negative integer below 2**32 - 2"),
        (["--data", "nowhere"], "`data` (='nowhere')"),
        (["--epochs", "0"], "`epochs` (=0) must be"),
        (["--recipe", "slow"], "`recipe` (='slow') is not a known recipe"),
    ],
)
def test_bad_arguments_create_no_output(arguments, message, tmp_path, capsys):
    assert main(["search", *TINY, "--output", str(tmp_path / "run"), *arguments]) == 2
    output = capsys.readouterr()
    assert output.err.startswith("error: ")
    assert message in output.err
    assert output.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_search_without_trials_can_be_replaced(tmp_path):
    """Measurements may show that limits on files allow no network."""
    folder, before = tmp_path / "run", {"seed": 0, "recipe": {}, "data": {"name": "pets"}}
    files.write_json(folder / "estimates" / "1.json", {})
    files.write_json(folder / "search.json", before)
    settings.forget_unbegun(folder, before)
    assert settings.read(folder) == before
    settings.forget_unbegun(folder, before | {"seed": 1})
    assert list(folder.iterdir()) == []
    settings.claim_folder(folder, before)
    # A record from before recipes had this field: its default is no difference.
    settings.claim_folder(folder, before | {"recipe": {"temperature": 4.0}})
    with pytest.raises(ValueError, match=r"`temperature` \(=5\.0\) must match the search in .* \(=4\.0\)"):
        settings.claim_folder(folder, before | {"recipe": {"temperature": 5.0}})
    # With checksums: an older record lacks them, and a search without trials may start again on other images.
    first, second = ({"checksums": {"train": "0a", "test": test}} for test in ("0b", "0c"))
    settings.claim_folder(folder, before | first)
    settings.forget_unbegun(folder, before | {"seed": 1})
    settings.claim_folder(folder, before | first)
    text = r"The images of the test split of pets are not those that the search in .*run was started with: "
    with pytest.raises(ValueError, match=text):
        settings.claim_folder(folder, before | second)
    settings.forget_unbegun(folder, before | second)
    assert not (folder / "search.json").exists()
    settings.claim_folder(folder, before)
    files.write_json(folder / "oracle.json", {})
    settings.forget_unbegun(folder, before | {"seed": 1})
    assert settings.read(folder) == before


def test_two_searches_in_one_folder(tmp_path, capsys):
    with hold_folder(tmp_path / "run"):
        assert main(["search", *TINY, "--output", str(tmp_path / "run")]) == 2
    assert re.fullmatch(r"error: The folder \S*run is in use by process .*\n", capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def test_folder_with_other_files(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("")
    assert main(["search", *TINY, "--output", str(tmp_path)]) == 2
    assert "must be an empty folder or the folder of a search" in capsys.readouterr().err
    assert main(["report", str(tmp_path)]) == 2
    assert "contains no search" in capsys.readouterr().err


def test_variables_of_distributed_search(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv(VARIABLES[0], "worker0")
    assert main(["search", *TINY, "--output", str(tmp_path / "run")]) == 2
    assert "`KERASTUNER_ORACLE_IP` must be set too" in capsys.readouterr().err
    for name in VARIABLES[1:]:
        monkeypatch.setenv(name, "1")
    assert search.process_role() == "worker"
    monkeypatch.setenv(VARIABLES[0], "chief")
    assert search.process_role() == "chief"
