import io

import numpy as np
import PIL.Image
import pytest

from keras_sharenets import images


@pytest.fixture
def red(tmp_path):
    path = tmp_path / "red.png"
    PIL.Image.fromarray(np.full((4, 6, 3), (255, 0, 0), np.uint8)).save(path)
    return path


def test_image_in_its_own_size(red):
    image = images.read_image(red, (None, None, 3))
    assert image.dtype == np.uint8
    assert image.shape == (4, 6, 3)
    assert np.unique(image.reshape(-1, 3), axis=0).tolist() == [[255, 0, 0]]


def test_image_resized_and_gray(red):
    image = images.read_image(red, (8, 2, 1))
    assert image.shape == (8, 2, 1)
    # ITU-R 601: 0.299 of red.
    assert np.unique(image).tolist() == [round(0.299 * 255)]


def test_palette_and_transparency_become_rgb(tmp_path):
    PIL.Image.new("RGBA", (2, 2), (0, 255, 0, 10)).save(tmp_path / "a.png")
    PIL.Image.new("P", (2, 2), 0).save(tmp_path / "b.gif")
    for name in ("a.png", "b.gif"):
        assert images.read_image(tmp_path / name, (2, 2, 3)).shape == (2, 2, 3)


def test_images_are_found_by_suffix_and_sorted(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "@eaDir").mkdir()
    for name in ("b.PNG", "a.jpg", "notes.txt", "inner/c.webp", "._a.jpg", "@eaDir/a.jpg"):
        (tmp_path / name).write_bytes(b"")
    found = images.find_images(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["a.jpg", "b.PNG", "inner/c.webp"]


def test_invalid_images(red, tmp_path):
    with pytest.raises(ValueError, match=r"There is no file .*none\.png"):
        images.read_image(tmp_path / "none.png", (4, 4, 3))
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match=r"text\.png is not an image that can be read"):
        images.read_image(tmp_path / "text.png", (4, 4, 3))
    (tmp_path / "half.png").write_bytes(red.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"half\.png is not an image that can be read"):
        images.read_image(tmp_path / "half.png", (4, 4, 3))
    with pytest.raises(ValueError, match=r"`shape` \(=\(4, 4, 2\)\) must have 1 or 3 channels"):
        images.read_image(red, (4, 4, 2))


# The same image in many formats and modes

RANDOM = np.random.default_rng(0)
COLORS = RANDOM.integers(0, 256, (6, 8, 3), np.uint8)
GRAY = RANDOM.integers(0, 256, (6, 8), np.uint8)


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def with_alpha(image, mode):
    image = image.convert(mode)
    image.putalpha(PIL.Image.fromarray(RANDOM.integers(0, 256, image.size[::-1], np.uint8)))
    return image


@pytest.mark.parametrize(
    ("kind", "mode"),
    [(kind, mode) for kind in ("PNG", "TIFF") for mode in ("RGB", "RGBA")]
    + [("BMP", "RGB"), ("BMP", "RGBA"), ("WEBP", "RGB"), ("PPM", "RGB")],
)
def test_colors_of_lossless_formats(kind, mode):
    image = PIL.Image.fromarray(COLORS)
    image = with_alpha(image, mode) if mode == "RGBA" else image
    data = encoded(image, kind, **({"lossless": True} if kind == "WEBP" else {}))
    np.testing.assert_array_equal(images.decode_image(data, (None, None, 3)), COLORS)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("PNG", "L"), ("PNG", "LA"), ("TIFF", "L"), ("TIFF", "LA"), ("BMP", "L"), ("GIF", "L"), ("PPM", "L")],
)
def test_gray_of_lossless_formats(kind, mode):
    image = PIL.Image.fromarray(GRAY)
    data = encoded(with_alpha(image, "LA") if mode == "LA" else image, kind)
    np.testing.assert_array_equal(images.decode_image(data, (None, None, 1))[..., 0], GRAY)
    np.testing.assert_array_equal(images.decode_image(data, (None, None, 3)), np.repeat(GRAY[..., None], 3, -1))


@pytest.mark.parametrize(
    ("kind", "options"),
    [(kind, {}) for kind in ("PNG", "GIF", "BMP", "TIFF")]
    + [(kind, {"transparency": 3}) for kind in ("PNG", "GIF")]
    + [("PNG", {"transparency": bytes(range(16))})],
)
def test_palettes(kind, options):
    colors = RANDOM.integers(0, 256, (16, 3), np.uint8)
    indices = np.arange(48).reshape(6, 8) % 16
    image = PIL.Image.fromarray(indices.astype(np.uint8))
    image.putpalette(colors.tobytes())
    found = images.decode_image(encoded(image, kind, **options), (None, None, 3))
    np.testing.assert_array_equal(found, colors[indices])


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_black_and_white(kind):
    pixels = GRAY > 127
    found = images.decode_image(encoded(PIL.Image.fromarray(pixels), kind), (None, None, 1))
    np.testing.assert_array_equal(found[..., 0], pixels * 255)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("PPM", {}), ("TIFF", {"tiffinfo": {262: 0}})],
)
def test_16_bits(kind, options, channels):
    deep = RANDOM.integers(0, 65536, (6, 8), np.uint16)
    found = images.decode_image(encoded(PIL.Image.fromarray(deep), kind, **options), (None, None, channels))
    expected = np.round(deep / 257)[..., None].repeat(channels, -1)
    # Tag 262: the lowest value is white.
    np.testing.assert_array_equal(found, 255 - expected if options.get("tiffinfo") else expected)


def test_cmyk():
    ink = RANDOM.integers(0, 256, (8, 8, 4), np.uint8)
    found = images.decode_image(encoded(PIL.Image.fromarray(ink, "CMYK"), "TIFF"), (None, None, 3))
    expected = (255 - ink[..., :3].astype(float)) * (255 - ink[..., 3:]) / 255
    np.testing.assert_allclose(found, expected, atol=1)


@pytest.mark.parametrize("channels", [1, 3])
def test_lab_and_ycbcr(channels):
    # CIE: L* 53.6 (137 of 255) without color is the gray 128 of sRGB.
    data = encoded(PIL.Image.new("LAB", (4, 4), (137, 128, 128)), "TIFF")
    np.testing.assert_allclose(images.decode_image(data, (None, None, channels)).astype(int), 128, atol=1)
    data = encoded(PIL.Image.fromarray(COLORS).convert("YCbCr"), "TIFF")
    expected = COLORS if channels == 3 else COLORS @ (0.299, 0.587, 0.114)
    found = images.decode_image(data, (None, None, channels)).squeeze()
    # Luma and blue chroma are each off by less than 1, and the latter is multiplied by 1.772.
    np.testing.assert_allclose(found, expected, atol=3)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(kind, orientation):
    """The name of an orientation begins with the side at which the rows of the image start."""
    upright = np.repeat(np.repeat(COLORS, 8, 0), 8, 1)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    image = PIL.Image.fromarray(np.ascontiguousarray(stored))
    if kind == "TIFF":
        options = {"tiffinfo": {0x0112: orientation}}
    data = encoded(image, kind, **options, **({} if kind == "TIFF" else {"exif": exif.tobytes()}))
    found = images.decode_image(data, (None, None, 3)).astype(int)
    np.testing.assert_allclose(found, upright, atol=0 if kind != "JPEG" else 6)


def test_damaged_exif_is_ignored():
    data = encoded(PIL.Image.fromarray(COLORS), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert images.decode_image(data, (None, None, 3)).shape == COLORS.shape


@pytest.mark.parametrize(("mode", "reason"), [("I", "32 bits"), ("F", "32 bits")])
def test_modes_without_a_known_range_raise_an_error(mode, reason):
    with pytest.raises(ValueError, match=rf"`data` is not an image that can be read: .*{reason}"):
        images.decode_image(encoded(PIL.Image.new(mode, (4, 4)), "TIFF"), (None, None, 3))


def test_many_pixels_in_a_small_file(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    PIL.Image.new("1", (13000, 7000)).save(path)
    assert path.stat().st_size < 20_000
    monkeypatch.setattr(PIL.Image.Image, "load", lambda image: pytest.fail("decoded before the check"))
    with (
        pytest.warns(PIL.Image.DecompressionBombWarning),
        pytest.raises(ValueError, match=r"bomb\.png .*13000 x 7000 pixels exceed 89,478,485"),
    ):
        images.read_image(path, (8, 8, 1))
