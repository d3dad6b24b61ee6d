import io
import struct
import zipfile

import keras
import numpy as np
import pytest
from mobile_networks import NAMES

from keras_sharenets.mobile import export_tflite, predict_tflite
from keras_sharenets.mobile.export.metadata import add_buffers, write_labels
from keras_sharenets.mobile.inspect.file import parse, read_buffer, read_labels


@pytest.fixture(scope="module")
def converted(plain, tmp_path_factory):
    """Path and bytes of a file without labels, for three classes."""
    path = tmp_path_factory.mktemp("metadata") / "plain.tflite"
    export_tflite(plain, path)
    return path, path.read_bytes()


@pytest.mark.parametrize("names", [("a", "b", "c"), ("gray wolf", "café", "日本")])
def test_labels_round_trip(converted, tmp_path, names):
    data = write_labels(converted[1], list(names))
    (tmp_path / "labeled.tflite").write_bytes(data)
    assert read_labels(data) == names
    assert read_labels(tmp_path / "labeled.tflite") == names
    assert read_labels(converted[1]) is None


def test_labels_do_not_change_outputs_or_converted_bytes(converted, tmp_path):
    path, data = converted
    labeled = write_labels(data, ("a", "b", "c"))
    position = labeled.find(data)
    assert position > 0
    assert position % 16 == 0
    (tmp_path / "labeled.tflite").write_bytes(labeled)
    images = np.random.default_rng(0).integers(0, 256, (3, 6, 5, 3))
    np.testing.assert_array_equal(predict_tflite(tmp_path / "labeled.tflite", images), predict_tflite(path, images))


def test_labels_are_in_a_zip_archive(tflite_files):
    with zipfile.ZipFile(tflite_files["int8"][0]) as archive:
        assert archive.namelist() == ["labels.txt"]
        assert archive.testzip() is None
        assert archive.read("labels.txt").decode() == "".join(f"{name}\n" for name in NAMES)


def test_labels_written_by_another_program(converted):
    """Only an archive with Windows line endings, without the buffer."""
    file = io.BytesIO(converted[1])
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("labels.txt", "a\r\nb\r\nc")
    assert read_labels(file.getvalue()) == ("a", "b", "c")


def test_size_of_decompressed_labels_is_limited(converted):
    """64 MiB compress to 64 KiB: a file of a megabyte could contain a gigabyte."""
    file = io.BytesIO(converted[1])
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels.txt", bytes(2**26))
    with pytest.raises(ValueError, match=r"labels.txt has 67108864 bytes; class names have at most 16777216"):
        read_labels(file.getvalue())


def test_archive_without_labels(converted):
    file = io.BytesIO(converted[1])
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("notes.txt", "nothing")
    assert read_labels(file.getvalue()) is None


class Table:
    """A reader of flatbuffer tables by field number, implemented from the specification of the format."""

    def __init__(self, data, position=None):
        self.data = data
        self.position = self.follow(0) if position is None else position

    def follow(self, position):
        return position + struct.unpack_from("<I", self.data, position)[0]

    def distance(self, field):
        table = self.position - struct.unpack_from("<i", self.data, self.position)[0]
        known = 4 + 2 * field < struct.unpack_from("<H", self.data, table)[0]
        return struct.unpack_from("<H", self.data, table + 4 + 2 * field)[0] if known else 0

    def has(self, field):
        return self.distance(field) != 0

    def place(self, field):
        assert self.has(field)
        return self.position + self.distance(field)

    def table(self, field):
        return Table(self.data, self.follow(self.place(field)))

    def entry(self, field, index=0):
        return Table(self.data, self.follow(self.follow(self.place(field)) + 4 + 4 * index))

    def text(self, field):
        start = self.follow(self.place(field))
        return self.data[start + 4 : start + 4 + struct.unpack_from("<I", self.data, start)[0]].decode()

    def byte(self, field):
        return self.data[self.place(field)]

    def floats(self, field):
        start = self.follow(self.place(field))
        return struct.unpack_from(f"<{struct.unpack_from('<I', self.data, start)[0]}f", self.data, start + 4)


@pytest.mark.parametrize(("color_space", "fixture"), [(1, "converted"), (2, "tflite_files")])
def test_standard_metadata(request, color_space, fixture):
    """Field numbers follow metadata_schema.fbs, counted from 0; a union takes two."""
    if fixture == "converted":
        data = write_labels(request.getfixturevalue(fixture)[1], ("a", "b", "c"))
    else:
        data = request.getfixturevalue(fixture)["int8"][0].read_bytes()
    content = read_buffer(parse(data), "TFLITE_METADATA")
    assert content[4:8] == b"M001"
    model = Table(content)
    assert model.text(7) == "1.0.0"
    graph = model.entry(3)
    images, classes = graph.entry(2), graph.entry(3)
    assert images.text(0) == "images"
    assert images.table(3).byte(0) == 2  # the content is ImageProperties
    assert images.table(3).table(1).byte(0) == color_space
    unit = images.entry(4)
    assert unit.byte(0) == 1  # NormalizationOptions
    assert (unit.table(1).floats(0), unit.table(1).floats(1)) == ((0.0,), (1.0,))
    assert (images.table(5).floats(0), images.table(5).floats(1)) == ((255.0,), (0.0,))
    labels = classes.entry(6)
    assert (labels.text(0), labels.byte(2), labels.text(3)) == ("labels.txt", 2, "en")  # TENSOR_AXIS_LABELS
    assert classes.table(3).byte(0) == 1  # FeatureProperties
    assert (classes.table(5).floats(0), classes.table(5).floats(1)) == ((1.0,), (0.0,))


def test_metadata_without_class_names(converted):
    """MediaPipe requires it for float images. Class names that are added later replace it."""
    graph = Table(read_buffer(parse(converted[1]), "TFLITE_METADATA")).entry(3)
    assert graph.entry(2).entry(4).byte(0) == 1  # NormalizationOptions
    assert not graph.entry(3).has(6)
    model = parse(write_labels(converted[1], ("a", "b", "c")))
    names = [model.Metadata(index).Name() for index in range(model.MetadataLength())]
    assert sorted(names) == [b"TFLITE_METADATA", b"labels"]
    assert Table(read_buffer(model, "TFLITE_METADATA")).entry(3).entry(3).has(6)


def test_pixel_values_are_declared_only_if_known(tmp_path):
    """By the first layers or the images; a network for other images has neither a normalization nor a range."""
    inputs, random = keras.Input((4, 4, 3)), np.random.default_rng(0)
    path, scores = tmp_path / "net.tflite", keras.layers.Dense(2)(keras.layers.Flatten()(inputs))
    bare = keras.Model(inputs, scores)
    for images, declared in ((None, False), ((0, 1), False), ((0, 255), True)):
        images = None if images is None else random.uniform(*images, (8, 4, 4, 3)).astype("float32")
        export_tflite(bare, path, representative_data=images, class_names=["a", "b"])
        described = Table(read_buffer(parse(path.read_bytes()), "TFLITE_METADATA")).entry(3).entry(2)
        assert (described.has(4), described.has(5)) == (declared, declared)
    # Known for pixels from 0 to 16, not to 255.
    for scale, declared in ((1 / 16, False), (1 / 255, True)):
        export_tflite(keras.Sequential([inputs, keras.layers.Rescaling(scale), keras.layers.Flatten()]), path)
        described = Table(read_buffer(parse(path.read_bytes()), "TFLITE_METADATA")).entry(3).entry(2)
        assert (described.has(4), described.has(5)) == (declared, declared)


def test_buffers_round_trip(converted):
    contents = {"empty": b"", "one": b"\0", "many": bytes(range(256)) * 5}
    model = parse(add_buffers(converted[1], contents))
    assert {name: read_buffer(model, name) for name in contents} == contents
    assert read_buffer(model, "none") is None


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a", "b"), "has 2 entries, but the network has 3 classes"),
        (("a", "b", ""), "entry '' must be a non-empty single-line string"),
        (("a", "b\nc", "d"), r"entry 'b\\nc' must be a non-empty single-line string"),
        (("a", "b\u2028c", "d"), "must be a non-empty single-line string"),
        (("a ", "b", "c"), "without leading or trailing spaces"),
        ((0, 1, 2), "entry 0 must be a non-empty single-line string"),
        ("abc", "not one string"),
    ],
)
def test_bad_class_names(converted, names, message):
    with pytest.raises(ValueError, match=message):
        write_labels(converted[1], names)


def test_labels_are_written_once(converted):
    with pytest.raises(ValueError, match="already contains class names"):
        write_labels(write_labels(converted[1], ["a", "b", "c"]), ["d", "e", "f"])


def test_invalid_files(tmp_path, converted):
    with pytest.raises(ValueError, match="There is no file"):
        read_labels(tmp_path / "none.tflite")
    with pytest.raises(ValueError, match="has no TFLite identifier"):
        read_labels(b"\x89PNG\r\n\x1a\n and so on")
    with pytest.raises(ValueError, match="has no TFLite identifier"):
        write_labels(b"", ("a",))
    with pytest.raises(ValueError, match="is a damaged TFLite file"):
        read_labels(write_labels(converted[1], ("a", "b", "c"))[:200])
