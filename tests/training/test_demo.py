import csv
import json
import re

import pytest
import tensorflow as tf

from keras_sharenets import files, mobile
from keras_sharenets.mobile.inspect.file import read_labels
from trainers import cli

TRACED = True  # Hundreds of steps.


@pytest.fixture(scope="module", autouse=True)
def learning_curves():
    """Enables learning curves, which the page shows."""


def test_demo_writes_files_and_report(quick_network, quick_decoding, tmp_path, capsys, digits):
    output = tmp_path / "demo"
    assert cli.main(["demo", "--output", str(output), "--epochs", "6"]) == 0
    printed = capsys.readouterr().out
    table = dict(re.findall(r"^(\w[^\n]*?|\.keras file)  +(\S[^\n]*)$", printed, re.M))
    # Recompute every number of the table from the files.
    model = files.load_model(output / "last.keras")
    assert int(table["stored parameters"].replace(",", "")) == sum(
        v.value.shape.num_elements() for v in model.trainable_variables
    )
    images, labels = digits.test.images, digits.test.labels
    right = {
        "Keras": (model.predict(images.astype("float32"), verbose=0).argmax(-1) == labels).sum(),
        "int8 TFLite": (mobile.predict_tflite(output / "int8.tflite", images).argmax(-1) == labels).sum(),
    }
    for name, correct in right.items():
        assert table[f"test accuracy, {name}"] == f"{correct / 359:.4f} ({correct} of 359)"
        assert correct / 359 > 0.5
    size = (output / "int8.tflite").stat().st_size
    assert table["int8 .tflite file"].startswith(f"{size:,} bytes")
    assert read_labels(output / "int8.tflite") == tuple("0123456789")
    loaded = tf.saved_model.load(str(output / "saved_model"))
    assert set(loaded.signatures) == {"serving_default", "serve_encoded"}
    with open(output / "history.csv") as file:
        assert len(list(csv.DictReader(file))) == 6
    record = json.loads((output / "metrics.json").read_text())
    assert (record["state"], record["source"]["data"]) == ("finished", "digits")

    page = (output / "report.html").read_text()
    assert len(re.findall(r'<img alt="[^"]+" src="data:image/png;base64,iVBOR', page)) == 41
    rows = re.findall(r"<tr><td>(.*?)</td><td>(.*?)</td></tr>", page)
    assert len(rows) == 10
    assert set(rows) <= set(table.items())


def test_demo_rejects_folder_with_a_run(tmp_path, capsys):
    (tmp_path / "metrics.json").write_text("{}")
    assert cli.main(["demo", "--output", str(tmp_path)]) == 2
    assert "already contains a run" in capsys.readouterr().err
