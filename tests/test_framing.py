"""How a picture becomes a square: against PIL for the two framings of a run, against torchvision for test images."""

import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile
from torchvision.transforms import v2

from dc3.images import framing, scenes
from dc3.images.decoding import read_image
from dc3.images.framing import Frame
from dc3.images.image_set import in_memory


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("resampling", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("size", [8, 64, 512])
def test_squash_and_crop_are_pils(resampling, size):
    picture, filter = noise(300, 200), Image.Resampling[resampling.upper()]
    squashed, cropped = (Frame(size, framing, resampling).of(picture) for framing in ("squash", "crop"))
    assert (np.asarray(squashed) == np.asarray(picture.resize((size, size), filter))).all()
    assert (np.asarray(cropped) == np.asarray(ImageOps.fit(picture, (size, size), filter))).all()


@pytest.mark.parametrize("shape", [(300, 200), (200, 300), (231, 500), (64, 64), (40, 30), (1000, 37)])
@pytest.mark.parametrize(("size", "side"), [(32, 32), (64, 72), (224, 256)])
def test_a_test_image_is_resized_and_centre_cropped_as_torchvision_does(shape, size, side):
    picture = noise(*shape)
    expected = v2.Compose([v2.Resize(side), v2.CenterCrop(size)])(picture)
    assert framing.tested_side(size) == side
    found = np.asarray(Frame(size, "test").of(picture)).astype(int)
    assert np.abs(found - np.asarray(expected).astype(int)).max() <= 2, "grey levels: torchvision rounds twice"


def test_an_image_of_the_right_size_is_left_as_it_is():
    pixels = np.asarray(noise(32, 32))
    for name in ("crop", "squash", "test"):
        assert (Frame(32, name).pixels(pixels) == pixels).all()


def test_the_bytes_and_the_pixels_of_a_set_are_framed_alike(tmp_path):
    noise(90, 61).save(tmp_path / "x.png")
    pixels = read_image(tmp_path / "x.png")
    for frame in (Frame(16), Frame(16, "squash", "bicubic"), Frame(64, "test"), Frame(40, "crop", "nearest")):
        assert (read_image(tmp_path / "x.png", frame) == frame.pixels(pixels)).all()


def test_a_large_jpeg_is_decoded_at_a_fraction_of_its_size_with_hardly_a_difference(tmp_path, monkeypatch):
    photo = scenes.photograph("chelsea").resize((1804, 1200), Image.Resampling.BICUBIC)
    photo.save(tmp_path / "x.jpg", quality=95)
    drafts = []
    original = JpegImageFile.draft
    monkeypatch.setattr(JpegImageFile, "draft", lambda self, *args: drafts.append(original(self, *args)) or drafts[-1])
    small = read_image(tmp_path / "x.jpg", Frame(32)).astype(int)
    (scaled,) = drafts
    assert scaled[1][2] < 1804 / 8 + 1, "an eighth"
    whole = Frame(32).pixels(read_image(tmp_path / "x.jpg")).astype(int)
    assert np.abs(small - whole).mean() < 1.5 and np.abs(small - whole).max() < 20


def test_a_set_gives_each_reader_its_size_from_the_original():
    """Detail of single pixels at 64 px survives; an image blown up from 32 px would have lost it."""
    stripes = np.zeros((200, 300, 3), np.uint8)
    stripes[:, 50:250] = np.where((np.arange(200) // (200 / 64)).astype(int) % 2, 255, 0)[None, :, None]
    images = in_memory("stripes", "train", ["a", "b"], np.array([0, 1]), [stripes, stripes])
    at_64 = images.images([0], 64)[0].astype(int)
    assert np.abs(np.diff(at_64[32, 4:60, 0])).min() > 80, "neighbouring pixels differ"
    assert (at_64 == np.asarray(ImageOps.fit(Image.fromarray(stripes), (64, 64), Image.Resampling.BILINEAR))).all()
    assert images.at(64).cached().images([1], 16).shape == (1, 16, 16, 3), "another size comes from the original too"


def test_views_of_a_set_have_fingerprints_of_their_own():
    pixels = np.zeros((2, 40, 30, 3), np.uint8)
    images = in_memory("x", "train", ["a", "b"], np.array([0, 1]), pixels)
    views = [images, images.at(16), images.at(32), images.as_tested(32), images.at(32, "nearest")]
    assert len({view.fingerprint() for view in views}) == 5
    assert images.at(16).cached().fingerprint() == images.at(16).fingerprint()
    assert images.side is None and images.at(16).side == images.at(16).image_size == 16


@pytest.mark.parametrize(
    ("options", "named"),
    [((0,), "size = 0"), ((8, "fit"), "framing = 'fit'"), ((8, "crop", "lanczos"), "resampling = 'lanczos'")],
)
def test_what_is_no_frame_is_refused(options, named):
    with pytest.raises(ValueError, match=named):
        Frame(*options)
