import numpy as np
import PIL.Image
import pytest

from keras_sharenets import images


@pytest.fixture
def red(tmp_path):
    path = tmp_path / "red.png"
    PIL.Image.fromarray(np.full((4, 6, 3), (255, 0, 0), np.uint8)).save(path)
    return path


def test_image_as_it_is(red):
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
    for name in ("b.PNG", "a.jpg", "notes.txt", "inner/c.webp"):
        (tmp_path / name).write_bytes(b"")
    found = images.find_images(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["a.jpg", "b.PNG", "inner/c.webp"]


def test_what_is_no_image(red, tmp_path):
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
