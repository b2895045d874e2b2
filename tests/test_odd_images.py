"""What image files bring with them: orientation, transparent values, other programs' formats, pipes, the machine."""

import errno
import os
import struct
import zlib

import numpy as np
import pytest
import torchvision
from PIL import Image, ImageOps
from upath import UPath

from dc3 import condensed
from dc3.images import datasets, decoding
from dc3.images.decoding import UnreachableImage, UnreadableImage, header_of, read_image, read_with_size, size_of
from dc3.images.framing import Frame

ORIENTATION = 0x0112
EXTENSIONS = ("jpg", "png", "webp", "tif")
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


def stored(path, orientation=1):
    """An image of 16 × 8 pixels, red on the left, with an EXIF tag."""
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :8, 0] = 255
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, exif=exif, quality=95)
    return path


@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_in_every_format_is_turned_as_pillow_and_hugging_face_turn_it(
    tmp_path, extension, orientation
):
    path = stored(tmp_path / f"image.{extension}", orientation)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    np.testing.assert_array_equal(read_image(path), expected)
    header = header_of(path)
    assert (header.height, header.width) == expected.shape[:2] and header.orientation == orientation


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_without_exif_orientation_images_are_those_of_torchvisions_imagefolder(tmp_path, extension):
    path = stored(tmp_path / f"image.{extension}", 6)
    expected = np.asarray(torchvision.datasets.folder.default_loader(path))
    np.testing.assert_array_equal(read_image(path, exif_orientation=False), expected)
    header = header_of(path, exif_orientation=False)
    assert (header.height, header.width) == expected.shape[:2]


def test_the_parameter_reaches_the_images_and_their_fingerprint(tmp_path):
    for name in ("train/cat/1.jpg", "train/dog/1.jpg"):
        stored(tmp_path / name, 6)
    turned, lying = (
        datasets.load("imagefolder", "train", data_dir=tmp_path, exif_orientation=choice) for choice in (True, False)
    )
    assert turned.originals()[0].shape == (16, 8, 3) and lying.originals()[0].shape == (8, 16, 3)
    assert turned.own_sizes().tolist() == [[16, 8]] * 2 and lying.own_sizes().tolist() == [[8, 16]] * 2
    assert (turned.images(size=8)[0] != lying.images(size=8)[0]).any()
    assert turned.fingerprint() != lying.fingerprint()


def test_an_image_is_turned_before_it_is_framed(tmp_path):
    path = stored(tmp_path / "image.png", 6)
    upright = Image.fromarray(read_image(path))
    np.testing.assert_array_equal(read_image(path, Frame(5)), Frame(5).of(upright))


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("exif_orientation", [True, False])
@pytest.mark.parametrize("extension", EXTENSIONS)
def test_the_size_beside_an_image_is_that_of_its_header(tmp_path, extension, orientation, exif_orientation):
    path = stored(tmp_path / f"image.{extension}", orientation)
    for frame in (None, Frame(1)):  # of so few pixels a JPEG is decoded at a part of its size
        image, size = read_with_size(path, frame, exif_orientation)
        assert size == size_of(path, exif_orientation)[::-1] and (frame or image.shape[:2] == size)


def test_damaged_exif_does_not_make_an_image_unreadable(tmp_path):
    path = tmp_path / "image.jpg"
    Image.new("RGB", (16, 8), "teal").save(path, exif=b"Exif\0\0no TIFF at all")
    assert read_image(path).shape == (8, 16, 3)


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(depth, colour, row, transparent):
    """A PNG of two pixels, the first transparent by its value."""
    header = struct.pack(">IIBBBBB", 2, 1, depth, colour, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"tRNS", transparent) + chunk(b"IDAT", zlib.compress(b"\0" + row))
    return b"\x89PNG\r\n\x1a\n" + chunks + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "second"),
    [
        pytest.param(png(16, 0, struct.pack(">2H", 5140, 25700), struct.pack(">H", 5140)), 100, id="16-bit grey"),
        pytest.param(png(8, 0, bytes([20, 100]), struct.pack(">H", 20)), 100, id="8-bit grey"),
        pytest.param(png(4, 0, bytes([0x36]), struct.pack(">H", 3)), 102, id="4-bit grey"),
        pytest.param(png(2, 0, bytes([0b01100000]), struct.pack(">H", 1)), 170, id="2-bit grey"),
        pytest.param(png(1, 0, bytes([0b10000000]), struct.pack(">H", 1)), 0, id="1-bit grey"),
        pytest.param(
            png(16, 2, struct.pack(">6H", 1000, 2000, 3000, *[25700] * 3), struct.pack(">3H", 1000, 2000, 3000)),
            100,
            id="16-bit colour",
        ),
    ],
)
def test_a_transparent_value_is_laid_on_white_at_every_depth(tmp_path, content, second):
    (path := tmp_path / "image.png").write_bytes(content)
    assert read_image(path).tolist() == [[[255] * 3, [second] * 3]]


@pytest.fixture
def set_of_two(tmp_path):
    """A set of the classes cat and dog, an image of each, without splits."""
    for name in ("cat", "dog"):
        stored(tmp_path / "set" / name / "0.png")
    return tmp_path / "set"


def readers(folder, path):
    """Everything that opens an image of a set: the check of a header, decoding, a condensed set."""
    return [
        lambda: header_of(path),
        lambda: read_image(path),
        lambda: condensed.load(folder, ("cat", "dog"), allow_unequal=True),
    ]


def replace_by_pipe(path):
    os.mkfifo(path)


def replace_by_device(path):
    path.symlink_to("/dev/zero")


@pytest.mark.skipif(os.name != "posix", reason="named pipes and devices are POSIX's")
@pytest.mark.parametrize(("make", "kind"), [(replace_by_pipe, "a named pipe"), (replace_by_device, "a device")])
def test_what_is_no_regular_file_is_refused_by_name_and_never_waited_for(set_of_two, make, kind):
    make(set_of_two / "cat/x.png")
    for read in readers(set_of_two, set_of_two / "cat/x.png"):
        with pytest.raises(UnreadableImage, match=rf"x\.png .*{kind}, not a regular file"):
            read()


def test_an_image_starts_no_other_program(set_of_two, monkeypatch):
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))
    (set_of_two / "cat/x.png").write_bytes(EPS)
    with Image.open(set_of_two / "cat/x.png") as image:
        assert image.format == "EPS", "Pillow alone would take it"
    for read in readers(set_of_two, set_of_two / "cat/x.png"):
        with pytest.raises(UnreadableImage, match=r"x\.png .*cannot identify"):
            read()


@pytest.mark.parametrize("extension", datasets.IMG_EXTENSIONS)
def test_every_documented_suffix_is_of_a_format_that_is_opened(tmp_path, extension):
    mode = "L" if extension == ".pgm" else "RGB"
    Image.new(mode, (4, 4), "teal" if mode == "RGB" else 7).save(tmp_path / f"image{extension}")
    assert read_image(tmp_path / f"image{extension}").shape == (4, 4, 3)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EMFILE, r"ulimit -n"),
        (errno.EACCES, r"right to read"),
        (errno.ESTALE, r"disk or the network"),
        (errno.EIO, r"disk or the network"),
    ],
)
def test_an_error_of_the_machine_is_told_as_such(set_of_two, monkeypatch, number, said):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(decoding.Image, "open", fail)
    path = set_of_two / "cat/0.png"
    named = rf"0\.png \({os.strerror(number)}.*not of the image\): .*{said}"
    with pytest.raises(UnreachableImage, match=named) as told:
        read_image(path)
    assert "replace or remove" not in str(told.value)


def test_an_error_of_a_remote_store_is_told_as_such(monkeypatch):
    path = UPath("memory://odd-images/0.png")

    class SlowDown(Exception):
        """As a store's client raises its own."""

    def fail(_):
        raise SlowDown("reduce your request rate")

    monkeypatch.setattr(type(path), "read_bytes", fail)
    with pytest.raises(UnreachableImage, match=r"memory://odd-images/0\.png \(SlowDown: reduce your request rate"):
        read_image(path)
    monkeypatch.undo()
    with pytest.raises(UnreadableImage, match=r"memory://odd-images/0\.png .*replace or remove"):
        read_image(path)


@pytest.mark.skipif(os.name != "posix", reason="a limit of open files is POSIX's")
def test_too_many_open_files_are_not_taken_for_a_broken_image(set_of_two):
    import resource

    path = set_of_two / "cat/0.png"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    read_image(path)  # loads Pillow's plugins
    held = [os.open(os.devnull, os.O_RDONLY)]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (held[0] + 1, hard))
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            held.extend(os.open(os.devnull, os.O_RDONLY) for _ in range(1000))
        with pytest.raises(UnreachableImage, match=os.strerror(errno.EMFILE)):
            read_image(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in held:
            os.close(descriptor)
    assert read_image(path).shape == (8, 16, 3)


def test_an_orientation_behind_a_pngs_pixels_is_in_its_header_too(tmp_path):
    before = stored(tmp_path / "before.png", 6).read_bytes()
    start = before.index(b"eXIf") - 4
    chunk = before[start : start + 12 + int.from_bytes(before[start : start + 4])]
    (tmp_path / "behind.png").write_bytes(before.replace(chunk, b"").replace(end := b"\0\0\0\0IEND", chunk + end))
    header = header_of(tmp_path / "behind.png")
    assert header == header_of(tmp_path / "before.png") and header.orientation == 6
    assert (header.height, header.width) == read_image(tmp_path / "behind.png").shape[:2] == (16, 8)
    stored(tmp_path / "none.png").write_bytes(before.replace(chunk, b""))
    assert header_of(tmp_path / "none.png").orientation == 1
