import json

import keras
import numpy as np
import pytest
from keras import layers
from mobile_networks import convert

import keras_sharenets as ksn
from keras_sharenets import cli
from keras_sharenets.mobile.inspect import benchmark, file


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_every_distinct_operator_is_measured(tflite_files, quantization, monkeypatch):
    """With a fake timer, the n-th distinct operator takes n milliseconds."""
    measured = []

    def turns(calls, repetitions, *, warmup):
        measured.extend(calls)
        return {key: [place / 1000] * repetitions for place, key in enumerate(calls, start=1)}

    monkeypatch.setattr(benchmark.timing, "take_turns", turns)
    path = tflite_files[quantization][0]
    times = benchmark.operator_times(path, repetitions=2)
    counts = file.operator_counts(file.parse(path.read_bytes()))
    assert {entry.name: entry.count for entry in times} == counts
    assert [entry.milliseconds for entry in times] == sorted((entry.milliseconds for entry in times), reverse=True)
    # The operators of the layer that is called three times are measured once.
    assert len(measured) < sum(counts.values())
    assert sum(entry.milliseconds for entry in times) > sum(range(1, len(measured) + 1))


def test_single_operator_file_keeps_shapes_and_constants(tflite_files):
    path = tflite_files[None][0]
    listed = file.operators(file.parse(path.read_bytes()))
    whole = benchmark.schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    place = [name for name, _, _ in listed].index("CONV_2D")
    alone = benchmark._single_operator(whole, place, "one", 1)
    _, inputs, outputs = listed[place]
    tensors = whole.subgraphs[0].tensors
    (entry,), (end,) = alone.get_input_details(), alone.get_output_details()
    assert entry["shape"].tolist() == list(tensors[inputs[0]].shape)
    assert end["shape"].tolist() == list(tensors[outputs[0]].shape)
    kernel = whole.buffers[tensors[inputs[1]].buffer].data
    constants = [alone.get_tensor(detail["index"]).tobytes() for detail in alone.get_tensor_details()[1:3]]
    assert bytes(kernel) in constants


def test_command(tflite_files, tmp_path, capsys):
    path = str(tflite_files["int8"][0])
    arguments = ["benchmark", path, "--repetitions", "2", "--operators", "--json", str(tmp_path / "b.json")]
    assert cli.main(arguments) == 0
    assert "Each operator is measured separately" in capsys.readouterr().out
    (entry,) = json.loads((tmp_path / "b.json").read_text())["files"]
    counts = {operator["name"]: operator["count"] for operator in entry["operators"]}
    assert counts == ksn.mobile.describe_tflite(path)["operators"]
    assert all(operator["milliseconds"] > 0 for operator in entry["operators"])


def test_bad_arguments(tmp_path, tflite_files):
    (tmp_path / "no.tflite").write_bytes(b"none")
    with pytest.raises(ValueError, match="is not a TFLite file"):
        benchmark.operator_times(tmp_path / "no.tflite")
    with pytest.raises(ValueError, match=r"`repetitions` \(=0\)"):
        benchmark.operator_times(tflite_files[None][0], repetitions=0)


@pytest.mark.parametrize(
    ("shape", "layer"),
    [((3,), lambda: layers.Embedding(7, 4)), ((3, 4), lambda: layers.LSTM(4))],
    ids=["an index outside its table", "a loop"],
)
def test_file_that_does_not_take_any_numbers_or_has_subgraphs(tmp_path, shape, layer):
    inputs, path = keras.Input(shape), tmp_path / "net.tflite"
    path.write_bytes(convert(keras.Model(inputs, layer()(inputs)), np.ones((2, *shape), "float32")))
    assert benchmark.compare_tflite([path], repetitions=1, warmup=0)[0].median_ms > 0
    counts = file.operator_counts(file.parse(path.read_bytes()))
    assert {entry.name: entry.count for entry in benchmark.operator_times(path, repetitions=1)} == counts
