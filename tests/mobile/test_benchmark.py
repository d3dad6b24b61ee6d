import pytest

from keras_sharenets.mobile import benchmark_tflite


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_report(tflite_files, quantization):
    path, _ = tflite_files[quantization]
    report = benchmark_tflite(path, num_threads=2, repetitions=20, warmup=0)
    assert 0 < report.percentile_10_ms <= report.median_ms <= report.percentile_90_ms
    assert (report.path, report.file_bytes) == (str(path), path.stat().st_size)
    assert (report.threads, report.repetitions) == (2, 20)


def test_times_are_milliseconds_of_the_inferences_after_the_warmup(tflite_files, monkeypatch):
    """A clock of our own: inference number n takes n milliseconds."""
    clock = iter([reading for n in range(1, 12) for reading in (100 * n, 100 * n + n / 1000)])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    report = benchmark_tflite(tflite_files[None][0], repetitions=11, warmup=3)
    assert report.median_ms == pytest.approx(6)
    assert report.percentile_10_ms == pytest.approx(2)
    assert report.percentile_90_ms == pytest.approx(10)


@pytest.mark.parametrize("argument", ["num_threads", "repetitions", "warmup"])
def test_bad_argument(tflite_files, argument):
    with pytest.raises(ValueError, match=rf"`{argument}` \(=-1\) must be a whole number of at least 1"):
        benchmark_tflite(tflite_files[None][0], **{argument: -1})


def test_no_file(tmp_path):
    with pytest.raises(ValueError, match="There is no file"):
        benchmark_tflite(tmp_path / "none.tflite")
