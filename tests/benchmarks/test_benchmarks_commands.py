import io
import json
import types

import PIL.Image
import pytest
from few_layers import VECTORS, tiny_network
from harness import counts_only

import keras_sharenets as ksn
from benchmarks import delivery, inference, layer_shapes, peers, workloads
from benchmarks.cli import COMMANDS, LINE, main
from keras_sharenets import mobile
from keras_sharenets.cli.command import make_parser

QUICK = "hscnet_m32_g4_r2_b1_a2"


@pytest.fixture(scope="module")
def delivered(tmp_path_factory):
    """The output of `delivery --quick` for a tiny network; TensorFlow's int8 file counts as rejected by LiteRT."""
    folder = tmp_path_factory.mktemp("delivery")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workloads, "file_runs", lambda path: path.parent.name != "int8")
        patch.setattr(delivery.peers, "build", tiny_network)
        assert main(["delivery", "--quick", "--output", str(folder)]) == 0
    return folder


@pytest.mark.slow
def test_delivery_measures_every_form(delivered):
    rows = json.loads((delivered / "delivery.json").read_text())["rows"]
    parameters = ksn.profile(tiny_network()).stored_parameters
    for precision, size in (("float32", 4), ("int8", 1)):
        small, *between, fast, plain = [row for row in rows if row["precision"] == precision]
        assert (small["form"], fast["form"], plain["form"]) == ("size", "speed", "plain converter")
        assert (small["peer"], fast["peer"], plain["peer"]) == (False, False, True)
        assert fast["ratio"] == 1
        assert small["file_bytes"] < plain["file_bytes"]
        # Vectors keep 4 bytes per value.
        assert plain["stored_weight_bytes"] == size * (parameters - VECTORS) + 4 * VECTORS
        budgets = delivery.budgets(small["file_bytes"], fast["file_bytes"])
        assert [row["max_bytes"] for row in between] == budgets
        assert [row["form"] for row in between] == [f"budget {number}" for number, _ in enumerate(budgets, 1)]
        assert all(row["file_bytes"] <= row["max_bytes"] for row in between)
    assert {row["network"] for row in rows} == {QUICK}


@pytest.mark.slow
def test_quick_delivery_of_a_named_network(tmp_path):
    assert main(["delivery", "--quick", "--output", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "delivery.json").read_text())["rows"]
    parameters = ksn.profile(ksn.create_model(QUICK)).stored_parameters
    for precision, size in (("float32", 4), ("int8", 1)):
        small, *_, fast, plain = [row for row in rows if row["precision"] == precision]
        assert small["file_bytes"] < fast["file_bytes"]
        assert small["file_bytes"] < plain["file_bytes"]
        assert size * parameters <= plain["stored_weight_bytes"] <= 1.2 * size * parameters


def test_files_of_the_converter_are_kept(tmp_path, monkeypatch):
    def exported(model, path, **options):
        path.write_bytes(b"ours")
        return types.SimpleNamespace(file_bytes=4, stored_weight_bytes=4)

    converted = []
    monkeypatch.setattr(mobile, "export_tflite", exported)
    monkeypatch.setattr(workloads, "convert_plainly", lambda *given: converted.append(given) or b"theirs")
    for folder in map(tmp_path.joinpath, ("first", "second")):
        folder.mkdir()
        delivery._export(QUICK, tiny_network(), folder, "int8", tmp_path / "kept")
        assert (folder / "plain converter.tflite").read_bytes() == b"theirs"
    assert len(converted) == 1
    forms, _ = delivery._export("keras.applications.MobileNet", tiny_network(), folder, None, folder)
    assert list(forms) == ["speed", "plain converter"]  # Nothing is shared, so that all of ours are one.


def test_budgets():
    assert delivery.budgets(1000, 1060) == [1010, 1020, 1030, 1040, 1050]
    assert delivery.budgets(1000, 1000) == delivery.budgets(1000, 900) == []


@pytest.mark.slow
def test_rejected_file_is_listed_without_times(delivered):
    contents = json.loads((delivered / "delivery.json").read_text())
    refused = contents["rows"][-1]
    assert refused["milliseconds"] is refused["ratio"] is refused["delegate_partitions"] is None
    assert refused["undelegated_text"] == "rejected by LiteRT"
    claimed = [claim["text"] for claim in contents["claims"] if claim["where"].endswith("int8")]
    assert "time: fast file / plain converter" not in claimed
    assert len(claimed) == 4
    assert "rejected by LiteRT" in (delivered / "delivery.md").read_text()
    assert PIL.Image.open(io.BytesIO((delivered / "delivery.png").read_bytes())).size[0] > 1000


def make_rows(network, precision, ratios, plain, partitions=1, undelegated=None):
    forms = ["size", *(f"budget {number}" for number in range(1, len(ratios) - 1)), "speed"][-len(ratios) :]
    row = {"network": network, "precision": precision, "delegate_partitions": partitions}
    row |= {"undelegated_operators": undelegated or {}, "file_bytes": 900}
    rows = [{**row, "form": form, "ratio": ratio} for form, ratio in zip(forms, ratios, strict=True)]
    return [*rows, {**row, "form": "plain converter", "ratio": plain, "delegate_partitions": 25, "file_bytes": 1000}]


def test_claims_of_delivery():
    """The smallest file of a family with kernel sharing may be slower than that of a family with layer sharing."""
    rows = make_rows("hgcnet_42_g4", "float32", [1.3, 1.2, 1.1, 1.0], 2.0)
    rows += make_rows("sharesnet_164", "float32", [1.3, 1.1, 1.1 * 1.05, 1.0], 0.8)
    rows += make_rows("hgcnet_42_g4", "int8", [1.9, 1.0], 1.0, undelegated={"SOFTMAX": 1})
    rows += make_rows("sl3_resnet_64", "float32", [1.1, 1.0], None, partitions=2, undelegated={"SOFTMAX": 1})
    rows += make_rows("keras.applications.MobileNet", "int8", [1.0], 0.5)
    made = [(claim.value, claim.holds) for claim in delivery.claims(rows)]
    expected = [
        *((1.3, True), (0.5, True), (0.9, True), (1.2 / 1.3, True), (1, True)),
        *((1.3, False), (1.25, False), (0.9, True), (1.05, False), (1, True)),
        *((1.9, True), (1.0, True), (0.9, True), (1 / 1.9, True), (1, True)),
        *((1.1, True), (0.9, True), (1 / 1.1, True), (3, False)),
        *((2.0, False), (0.9, True), (1, True)),
    ]
    assert [holds for _, holds in made] == [holds for _, holds in expected]
    assert [value for value, _ in made] == pytest.approx([value for value, _ in expected])


def build_tiny(name, **sizes):
    return tiny_network(name.partition(",")[0], **sizes)


@pytest.mark.slow
@pytest.mark.parametrize("build", [build_tiny, inference.build], ids=["tiny", "named"])
def test_inference(build, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(inference, "build", build)
    assert main(["inference", "--quick", "--output", str(tmp_path), "--batch-size", "2"]) == 0
    contents = json.loads((tmp_path / "inference.json").read_text())
    runtimes = ["Keras, tf.function", "Keras, XLA", "LiteRT, float32, 1 thread", "LiteRT, int8, 1 thread"]
    names = [QUICK, "mobilenet_v2_1_0"]
    assert [(row["runtime"], row["network"]) for row in contents["rows"]] == [
        (runtime, name) for runtime in runtimes for name in names
    ]
    profiles = {name: ksn.profile(build(name, input_shape=(32, 32, 3), num_classes=10)) for name in names}
    peaks = set()
    for row in contents["rows"]:
        profile = profiles[row["network"]]
        assert row["multiply_adds"] == profile.multiply_adds
        assert row["stored_parameters"] == profile.stored_parameters
        assert row["multiply_adds_per_second"] == pytest.approx(profile.multiply_adds / (row["milliseconds"] / 1000))
        peaks.add(round(row["multiply_adds_per_second"] / row["share_of_peak"]))
        assert row["peer"] == (row["network"] != QUICK)
        assert (row["ratio"] == 1) == row["peer"]
        assert (row["file_bytes"] is None) == row["runtime"].startswith("Keras")
    assert len(peaks) == 1
    assert (tmp_path / "inference.md").read_text() == capsys.readouterr().out


def test_keras_call_returns_the_whole_batch():
    model = tiny_network(input_shape=(16, 16, 3), num_classes=7)
    outputs = inference.keras_call(model, 3, compiled=False)()
    assert outputs.shape == (3, 7)
    assert outputs.sum(-1) == pytest.approx([1, 1, 1])


@counts_only
def test_parameters_of_peer_from_keras(monkeypatch):
    monkeypatch.setattr(peers, "randomize_batchnorm", lambda model, **options: None)
    model = inference.build(inference.KERAS_PEER, input_shape=(32, 32, 3), num_classes=1000)
    assert ksn.profile(model).stored_parameters == 3_504_872
    assert ksn.profile(model).uncounted == ()


def test_baselines_and_peers_are_listed_once():
    names = inference.with_peers(["sharesnet_164", "mobilenet_v2_1_0", "resnet_164"], inference.PEERS)
    assert names[:3] == ("sharesnet_164", "resnet_164", "mobilenet_v2_1_0")
    assert sorted(names) == sorted({"sharesnet_164", "resnet_164", *inference.PEERS})


@counts_only
def test_peers_and_ratios_of_the_paper(monkeypatch):
    network, reference = inference.PAPER_NETWORK, inference.REFERENCE
    assert inference.with_peers([network], ["mobilenet_v2_1_0"]) == (network, reference, "mobilenet_v2_1_0")
    assert inference.paper_ratio(network) == pytest.approx(1 / 1.84)
    assert inference.paper_ratio("shufflenet_v2_2_0, 8x8") == pytest.approx(1.65 / 1.84)
    # 99 and 151 ms.
    assert inference.paper_ratio("hscnet_m128_g16_r8_a2") == pytest.approx(99 / 151, abs=0.002)
    sizes = {"input_shape": (32, 32, 3), "num_classes": 1000}
    monkeypatch.setattr(peers, "randomize_batchnorm", lambda model, **options: None)
    near, far = (inference.build(f"mobilenet_v2_1_0{make}", **sizes) for make in ("", ", 8x8"))
    # The weights are the same; layers after the third stride of 2 have four times as many positions.
    assert near.count_params() == far.count_params() == 3_538_984
    assert [ksn.profile(model).multiply_adds for model in (near, far)] == [89_243_648, 297_740_288]


@pytest.mark.parametrize(("theirs", "holds"), [(10.0, True), (7.0, False)])
def test_claim_about_the_reference(theirs, holds):
    runtimes = ("Keras, XLA", "LiteRT, float32, 1 thread", "LiteRT, int8, 2 threads")
    times = {"a": 6.5, "b": theirs}
    rows = [{"network": name, "runtime": where, "milliseconds": times[name]} for where in runtimes for name in times]
    made = inference.claims(rows, network="a", reference="b")
    assert [(claim.where, claim.limit, claim.holds) for claim in made] == [
        (runtimes[1], 0.9, holds),
        (runtimes[2], 0.72, holds),
    ]
    assert inference.claims(rows, network="a", reference="c") == ()


def test_help_has_an_example(capsys):
    for command in COMMANDS:
        with pytest.raises(SystemExit, match="0"):
            main([command, "--help"])
        text = capsys.readouterr().out
        assert f"example:\n  python -m benchmarks {command} " in text
        example = text.partition("example:\n")[2].split()[3:]
        assert make_parser(LINE).parse_args(example).command == command


UNKNOWN = "error: `name` (='hgcnet_42') is not a known model. Did you mean 'hgcnet_42_g"
# A module.
NO_CLASS = "keras.applications.mobilenet"
APPLICATION = f"error: `networks` (='{NO_CLASS}') must be a network of `keras.applications`."
ROWS = "error: `rows` (=['nothing']) must be part of "


def not_positive(name):
    return [f"--{name}", "0"], f"error: `{name.replace('-', '_')}` (=0) must be a positive integer."


BAD_ARGUMENTS = [
    *((command, not_positive("repetitions")) for command in COMMANDS),
    *((command, (["--output", "file"], "error: [Errno 17] File exists: 'file'")) for command in COMMANDS),
    *((command, not_positive("batch-size")) for command in ("inference", "input", "layers", "scaling", "training")),
    *(("sharing_accuracy", not_positive(name)) for name in ("batch-size", "epochs")),
    (
        "sharing_accuracy",
        (["--originals", "nothing"], "error: `from` (='nothing') must be the folder of a run, a .keras file"),
    ),
    *((command, not_positive("threads")) for command in ("delivery", "inference")),
    *((command, (["--networks", "hgcnet_42"], UNKNOWN)) for command in ("delivery", "inference", "input")),
    *((command, (["--networks", QUICK, NO_CLASS], APPLICATION)) for command in ("delivery", "inference", "input")),
    ("training", (["--networks", QUICK, "keras.applications.MobileNetV2"], "error: `name` (='keras.applications.M")),
    ("training", (["--models", "hgcnet_42"], UNKNOWN)),
    ("training", (["--networks", "hgcnet_42"], UNKNOWN)),
    ("layers", (["--rows", "nothing"], f"{ROWS}the name of a layer")),
    ("scaling", (["--rows", "nothing"], f"{ROWS}a name such as 'hscnet, G'.")),
]


@pytest.mark.parametrize(("command", "bad"), BAD_ARGUMENTS)
def test_bad_arguments(command, bad, capsys, tmp_path, monkeypatch):
    arguments, message = bad
    monkeypatch.setattr(layer_shapes, "QUICK", {QUICK: layer_shapes.QUICK[QUICK]})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("42")
    assert main([command, "--quick", *arguments]) == 2
    output, errors = capsys.readouterr()
    assert errors.startswith(message)
    assert errors.count("\n") == 1
    assert output == ""
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_each_network_is_measured_once(monkeypatch, tmp_path):
    measured = []
    monkeypatch.setattr(delivery, "measure", lambda name, *_, **__: measured.append(name) or [])
    monkeypatch.setattr(delivery, "write", lambda *_: None)
    assert main(["delivery", "--networks", QUICK, "vggnet", QUICK, "--output", str(tmp_path)]) == 0
    assert measured == [QUICK, "vggnet"]
