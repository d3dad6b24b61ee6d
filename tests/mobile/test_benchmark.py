import dataclasses
import os
import types
from typing import Any

import keras
import numpy as np
import pytest
from mobile_networks import convert

from keras_sharenets.mobile import benchmark_tflite, compare_tflite
from keras_sharenets.mobile.inspect import benchmark, memory_probe
from keras_sharenets.mobile.inspect.benchmark import delegation
from keras_sharenets.mobile.inspect.file import open_tflite
from keras_sharenets.mobile.inspect.tables import benchmark_entries, benchmark_table


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_report(tflite_files, quantization):
    path, exported = tflite_files[quantization]
    report = benchmark_tflite(path, num_threads=2, repetitions=20, warmup=0)
    assert 0 < report.percentile_10_ms <= report.median_ms <= report.percentile_90_ms
    assert (report.path, report.file_bytes) == (str(path), path.stat().st_size)
    assert (report.threads, report.repetitions, report.warmup) == (2, 20, 0)
    assert report.weight_bytes == exported.file_weight_bytes
    assert report.delegate_partitions == 1
    # XNNPACK has no integer softmax and no conversion between int8 and uint8.
    assert report.undelegated_operators == ({} if quantization is None else {"QUANTIZE": 2, "SOFTMAX": 1})


def test_times_are_in_milliseconds_and_exclude_warmup(tflite_files, monkeypatch):
    """With a fake clock, inference n takes n milliseconds."""
    clock = iter([reading for n in range(1, 12) for reading in (100 * n, 100 * n + n / 1000)])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    report = benchmark_tflite(tflite_files[None][0], repetitions=11, warmup=3)
    assert report.median_ms == pytest.approx(6)
    assert report.percentile_10_ms == pytest.approx(2)
    assert report.percentile_90_ms == pytest.approx(10)
    assert report.spread_ms == pytest.approx(8.5 - 3.5)


def test_files_are_measured_in_turn(tflite_files, monkeypatch):
    """Each file is tried once; the second inference of each pair is measured."""
    run, clock = [], []
    monkeypatch.setattr(benchmark.file, "invoke", lambda interpreter: run.append(id(interpreter)))
    monkeypatch.setattr("time.perf_counter", lambda: clock.append(len(run)) or 0.0)
    reports = compare_tflite([tflite_files[None][0], tflite_files["int8"][0]], repetitions=3, warmup=2)
    first, second = run[:2]
    assert first != second
    assert run == [first, second, *4 * [first, first, second, second]]
    assert clock == [count for turn in range(6) for count in (6 + 2 * turn + 1, 6 + 2 * turn + 2)]
    assert [report.path for report in reports] == [str(tflite_files[kind][0]) for kind in (None, "int8")]


def test_undelegated_operator_splits_delegate(tmp_path):
    """A gather, which XNNPACK does not support, splits a graph of convolutions in two."""
    import tensorflow as tf

    kernel = tf.constant(np.random.default_rng(0).normal(size=(3, 3, 4, 4)), tf.float32)

    @tf.function(input_signature=[tf.TensorSpec((1, 8, 8, 4), tf.float32)])
    def function(x):
        x = tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME"))
        x = tf.gather(x, [2, 0, 3, 1], axis=3)
        return tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME"))

    path = tmp_path / "cut.tflite"
    path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()]).convert())
    assert delegation(open_tflite(path)) == (2, {"GATHER": 1})


def test_delegated_operators_are_not_listed():
    """Operators 0 and 1 are in a delegate with a constant and two outputs, 3 is in another; 2 and 4 are in none."""
    rows = [
        ("CONV_2D", [0, 10], [1]),
        ("ADD", [1, 1], [2]),
        ("CUSTOM", [2, -1], [3]),
        ("MUL", [3, 1], [4]),
        ("CUSTOM", [4], [5]),
        ("DELEGATE", [0, 10], [1, 2]),
        ("DELEGATE", [3, 1], [4]),
    ]
    operators = [
        {"index": index, "op_name": name, "inputs": np.array(inputs), "outputs": np.array(outputs)}
        for index, (name, inputs, outputs) in enumerate(rows)
    ]
    assert delegation(types.SimpleNamespace(_get_ops_details=lambda: operators)) == (2, {"CUSTOM": 2})
    without = types.SimpleNamespace(_get_ops_details=lambda: operators[:2])
    assert delegation(without) == (0, {"CONV_2D": 1, "ADD": 1})


@pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="peak memory is not available on this system"
)
def test_peak_memory_grows_with_file_size(tmp_path):
    """With 8 MB more weights, it grows by the weights and at most two copies of them."""
    peaks = []
    for units in (10, 1010):
        inputs = keras.Input((40, 50, 1))
        path = tmp_path / f"{units}.tflite"
        model = keras.Model(inputs, keras.layers.Dense(units)(keras.layers.Flatten()(inputs)))
        path.write_bytes(convert(model))
        peaks.append(benchmark_tflite(path, repetitions=1).peak_memory_bytes)
    assert 8e6 < peaks[1] - peaks[0] < 3.5 * 8e6


def test_peak_memory_unavailable(tflite_files, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(memory_probe, "__file__", "none.py")
        if os.access("/proc/self/clear_refs", os.W_OK):
            with pytest.raises(RuntimeError, match=r"The memory of .* cannot be measured: .*none\.py"):
                benchmark_tflite(tflite_files[None][0], repetitions=1)
    monkeypatch.setattr("os.access", lambda path, mode: False)
    report = benchmark_tflite(tflite_files[None][0], repetitions=1)
    assert report.peak_memory_bytes is None
    assert "?" in benchmark_table([report])


@pytest.mark.parametrize("argument", ["num_threads", "repetitions", "warmup"])
def test_bad_argument(tflite_files, argument):
    with pytest.raises(ValueError, match=rf"`{argument}` \(=-1\) must be a positive integer"):
        benchmark_tflite(tflite_files[None][0], **{argument: -1})


def test_missing_file(tmp_path):
    with pytest.raises(ValueError, match="There is no file"):
        benchmark_tflite(tmp_path / "none.tflite")
    for paths in ([], "net.tflite", tmp_path / "net.tflite"):
        with pytest.raises(ValueError, match="must be a sequence of at least one file"):
            compare_tflite(paths)


def make_report(path, file_bytes, **more):
    values: dict[str, Any] = {field.name: 1 for field in dataclasses.fields(benchmark.BenchmarkReport)}
    values |= {"path": path, "file_bytes": file_bytes, "undelegated_operators": {"SOFTMAX": 2}, "spread_ms": 0.1}
    return benchmark.BenchmarkReport(**values | more)


def test_unsteady_times_are_marked():
    steady, unsteady = make_report("a", 1, median_ms=20, spread_ms=2), make_report("b", 1, median_ms=20, spread_ms=2.1)
    assert [each["unsteady"] for each in benchmark_entries([steady, unsteady], {}, {})] == [False, True]
    _, first, second, *notes = benchmark_table([steady, unsteady]).splitlines()
    assert (first.split()[3], second.split()[3]) == ("20.0", "~20.0")
    assert [note for note in notes if note.startswith("~: ")] == [
        "~: unsteady, the spread is above 10% of the time: measure again on an idle machine."
    ]
    assert "~" not in benchmark_table([steady])


def test_table_is_aligned():
    reports = [make_report("a.tflite", 1_234_567), make_report("longer name.tflite", 8)]
    head, *lines = benchmark_table(reports, {"a.tflite": 0.7705}).splitlines()
    assert lines[0].split() == ["a.tflite", "1,234,567", "1", "1.00", "0.1", "1", "1", "2", "SOFTMAX", "77.05%"]
    assert lines[1].split() == ["longer", "name.tflite", "8", "1", "1.00", "0.1", "1", "1", "2", "SOFTMAX"]
    assert len(head) == len(lines[0])
    for column in (
        "file bytes",
        "weight bytes",
        "median ms",
        "spread ms",
        "peak memory",
        "delegate partitions",
        "undelegated operators",
    ):
        end = head.index(column) + len(column)
        assert all(line[end - 1] != " " and line[end : end + 1] in ("", " ") for line in lines[:2])
    assert "accuracy" not in benchmark_table(reports)
