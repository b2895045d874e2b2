import os
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from dc3.images import datasets
from dc3.images.decoding import UnreadableImage, read_image
from dc3.images.framing import Frame
from dc3.machine import files
from dc3.machine.fingerprints import is_unchanged, path_fingerprint


@pytest.fixture
def images(tmp_path):
    """train/ and val/ with a cat and a dog."""
    for name in ("train/cat", "train/dog", "val/cat", "val/dog"):
        (tmp_path / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), "teal").save(tmp_path / name / "0.png")
    return tmp_path


def load(images):
    return datasets.load("imagefolder", "train", data_dir=images).at(8)


def test_files_come_in_the_order_of_sorted_paths(tmp_path):
    for name in ("a-b/x", "a/y", "a/b/z", "c", "B/q"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    expected = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert [Path(path) for path in files.walk(tmp_path)] == expected and len(expected) == 5


def test_linked_class_folders_are_read_and_belong_to_the_path_fingerprint(images):
    (images / "train/dog").rename(images / "elsewhere")
    (images / "train/dog").symlink_to(images / "elsewhere")
    assert load(images).sources == ["train/cat/0.png", "train/dog/0.png"]
    before = path_fingerprint(images / "train")
    Image.new("RGB", (8, 8), "red").save(images / "elsewhere/1.png")
    assert path_fingerprint(images / "train") != before, "a change behind a link is a change"


@pytest.mark.parametrize(
    ("link", "target", "named"),
    [
        (
            "train/cat/loop",
            "train/cat",
            r"cat/loop contains itself through a symbolic link on this path: remove the link",
        ),
        ("train/cat/up", "train", r"train/cat/up contains itself"),
        ("train/cat/self.png", "train/cat/self.png", r"self\.png is a link that leads back to itself"),
    ],
)
def test_a_loop_of_links_is_refused_by_name_and_without_it_the_set_is_as_before(images, link, target, named):
    before = load(images).fingerprint()
    (images / link).symlink_to(images / target)
    with pytest.raises(ValueError, match=named):
        load(images)
    (images / link).unlink()
    assert load(images).fingerprint() == before


def test_two_links_that_lead_to_each_other_are_a_loop(tmp_path):
    for one, other in (("a", "b"), ("b", "a")):
        (tmp_path / one).mkdir()
        (tmp_path / one / "link").symlink_to(tmp_path / other)
    with pytest.raises(files.LinkLoop, match="a/link/link"):
        list(files.walk(tmp_path / "a"))


def test_a_folder_that_came_to_have_a_loop_is_not_what_a_stage_used(images):
    used = path_fingerprint(images)
    assert is_unchanged(images, used)
    (images / "loop").symlink_to(images)
    assert not is_unchanged(images, used), "so the stage runs, and says why it cannot"
    (images / "loop").unlink()
    assert is_unchanged(images, used) and not is_unchanged(images / "nowhere", used)


@pytest.mark.skipif(os.name != "posix", reason="file names are bytes on POSIX systems only")
def test_a_class_folder_whose_name_is_not_utf8_is_refused(images):
    os.mkdir(os.fsencode(images / "train") + b"/caf\xe9")
    with pytest.raises(ValueError, match=r"data_dir: .*names are not UTF-8 \(caf\\xe9\)"):
        load(images)


@pytest.mark.skipif(os.name != "posix", reason="file names are bytes on POSIX systems only")
def test_a_file_whose_name_is_not_utf8_is_read_and_named(images):
    path = os.fsdecode(os.fsencode(images / "train/cat") + b"/caf\xe9.png")
    Image.new("RGB", (8, 8), "red").save(path)
    found = load(images)
    assert files.printable(found.source(1)) == r"train/cat/caf\xe9.png"
    assert (found.images([1]) == (255, 0, 0)).all() and len(found.fingerprint()) == 64
    Path(path).write_bytes(b"broken")
    with pytest.raises(UnreadableImage, match=r"caf\\xe9\.png") as caught:
        found.images()
    str(caught.value).encode()


def test_a_decompression_bomb_is_refused_by_its_header(tmp_path, monkeypatch):
    """A PNG that says it has 12,000 × 12,000 pixels: PIL itself warns, and refuses twice as many."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header, body = struct.pack(">IIBBBBB", 12_000, 12_000, 8, 2, 0, 0, 0), zlib.compress(bytes(1000))
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    (bomb := tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("it was decoded"))
    with pytest.raises(UnreadableImage, match=r"bomb\.png \(12000×12000 pixels, at most .*: replace or"):
        read_image(bomb, Frame(8))
