import csv
import html
import io
import json

from keras_sharenets.analysis.profile import LayerProfile, Profile, to_csv, to_dict, to_text
from keras_sharenets.rendering.tables import short_names

IMAGES, VECTORS = (None, 32, 32, 16), (None, 10)
ROWS = (
    LayerProfile("conv", "Conv2D", 0, (None, 32, 32, 3), IMAGES, 1296, 2304, 0, 1_234_567),
    LayerProfile("norm", "BatchNormalization", 0, IMAGES, IMAGES, 32, 32, 32, 0),
    LayerProfile("conv", "Conv2D", 1, (None, 32, 32, 3), IMAGES, 0, 2304, 0, 1_234_567),
    LayerProfile("add", "Add", 0, (IMAGES, IMAGES), IMAGES, 0, 0, 0, 0),
)
RECURRENT = LayerProfile("inner/lstm", "LSTM", 0, (None, None, 3), VECTORS, 1000, 1000, 0, None)
PROFILE = Profile("net", ((32, 32, 3),), ROWS)
LACKING = Profile("net", ((32, 32, 3), (None, 3)), (*ROWS, RECURRENT))

TEXT = """\
net, input 32x32x3

layer  type                call    output  stored  effective  multiply-adds
---------------------------------------------------------------------------
conv   Conv2D                    32x32x16   1,296      2,304      1,234,567
norm   BatchNormalization        32x32x16      32         32              0
conv   Conv2D                 2  32x32x16  shared      2,304      1,234,567
add    Add                       32x32x16       0          0              0
---------------------------------------------------------------------------
total                                       1,328      4,640      2,469,134

effective / stored: 3.49
non-trainable, not counted above: 32
"""


def test_text():
    assert to_text(PROFILE) == TEXT
    assert str(PROFILE) == TEXT
    assert PROFILE._repr_html_() == f"<pre>{html.escape(TEXT)}</pre>"


def test_text_names_the_layers_missing_in_its_totals():
    lines = to_text(LACKING).splitlines()
    assert lines[0] == "net, input 32x32x3+?x3"
    assert next(line for line in lines if line.startswith("inner/lstm")).endswith(" ?")
    assert next(line for line in lines if line.startswith("total")).endswith(">= 2,469,134")
    assert lines[-1] == "unknown multiply-adds: inner/lstm"


def test_csv():
    rows = list(csv.DictReader(io.StringIO(to_csv(LACKING), newline="")))
    assert [row["name"] for row in rows] == ["conv", "norm", "conv", "add", "inner/lstm"]
    assert rows[2] == {
        "name": "conv",
        "type": "Conv2D",
        "call": "1",
        "input_shape": "32x32x3",
        "output_shape": "32x32x16",
        "stored_parameters": "0",
        "effective_parameters": "2304",
        "non_trainable_parameters": "0",
        "multiply_adds": "1234567",
    }
    assert rows[3]["input_shape"] == "32x32x16+32x32x16"
    assert (rows[4]["input_shape"], rows[4]["multiply_adds"]) == ("?x3", "")


def test_csv_quotes_what_needs_it():
    row = LayerProfile('a, "b"', "Dense", 0, VECTORS, VECTORS, 1, 1, 0, 1)
    (read,) = csv.DictReader(io.StringIO(to_csv(Profile("net", ((10,),), (row,))), newline=""))
    assert read["name"] == 'a, "b"'


def test_dict_is_plain_data():
    data = to_dict(LACKING)
    assert json.loads(json.dumps(data)) == data
    rows = data.pop("layers")
    assert data == {
        "name": "net",
        "input_shapes": [[32, 32, 3], [None, 3]],
        "stored_parameters": 2328,
        "effective_parameters": 5640,
        "non_trainable_parameters": 32,
        "ratio": 5640 / 2328,
        "multiply_adds": 2_469_134,
        "uncounted": ["inner/lstm"],
    }
    assert rows[3]["input_shape"] == [[None, 32, 32, 16], [None, 32, 32, 16]]
    assert rows[4] == {
        "name": "inner/lstm",
        "type": "LSTM",
        "call": 0,
        "input_shape": [None, None, 3],
        "output_shape": [None, 10],
        "stored_parameters": 1000,
        "effective_parameters": 1000,
        "non_trainable_parameters": 0,
        "multiply_adds": None,
    }


def test_paths_with_the_same_last_part_keep_their_folders():
    paths = ["a/last.keras", "b/last.keras", "saved/wrn", "resnet_8", "resnet_8", "wrn", "c/x/", "d/y"]
    assert short_names(paths) == [*paths[:6], "x", "y"]
