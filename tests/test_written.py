"""A params file that is no plain mapping of names is refused in one line that names it."""

import os
import threading

import pytest
from workshop import command

from dc3.runs.parameters import ParameterError, read_file, read_run_file

BOMB = "a: &a [x, x]\n" + "".join(f"{k}: &{k} [{', '.join([f'*{chr(ord(k) - 1)}'] * 10)}]\n" for k in "bcdefgh")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"- a\n- b\n", "expected `key: value` lines, got a list"),
        (b"ipc\n", "got a single value"),
        (b"ipc: [1\n", "not YAML: line 2"),
        (b"ipc: 2\nbins: 3\nipc: 50\n", "ipc is given twice, in lines 1 and 3"),
        (b"base:\n  ipc: 2\n  ipc: 50\n", "ipc is given twice, in lines 2 and 3"),
        (b'"i\\e[2Jpc": 1\n"i\\e[2Jpc": 2\n', r"'i\\x1b\[2Jpc' is given twice"),
        (b"? [a]\n: 1\n", "line 1: a key must be"),
        ("ipc: 2\n".encode("utf-16"), "save it as UTF-8"),
        ("ipc: 2\n".encode("utf-16-be"), "save it as UTF-8"),
        ("run: café\n".encode("latin-1"), "byte 0xe9 in line 1.*save it as UTF-8"),
        (b"ipc: !!python/object/apply:os.getcwd []\n", "line 1: remove the tag '!!python/object/apply:os.getcwd"),
        (b"ipc: !!int '010'\n", "line 1: remove the tag '!!int"),
        (b"ipc: &a [*a]\n", "aliases stand for more than"),
        (BOMB.encode(), "aliases stand for more than"),
        (b"ipc: " + b"[" * 20_000, "nested too deeply"),
        (b"#" * (1 << 20) + b"\nipc: 2\n", "larger than 1 MB"),
        ("run: a\u2028b\n".encode(), r"line separator U\+2028"),
    ],
    ids=range(17),
)
def test_one_line_names_the_file_and_what_is_wrong(tmp_path, content, told):
    file = tmp_path / "params.yaml"
    file.write_bytes(content)
    with pytest.raises(ParameterError, match=told) as caught:
        read_file(file)
    assert str(caught.value).startswith(str(file)) and str(caught.value).isprintable()


def test_what_is_no_file_is_named(tmp_path):
    with pytest.raises(ParameterError, match=r"nothing\.yaml: no such params file"):
        read_file(tmp_path / "nothing.yaml")
    with pytest.raises(ParameterError, match="not a file"):
        read_file(tmp_path)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(ParameterError, match="loop: "):
        read_file(tmp_path / "loop")


def test_a_mark_of_the_byte_order_and_other_ends_of_lines_are_no_fault(tmp_path):
    (tmp_path / "params.yaml").write_bytes("\ufeffipc: 2\r\nbins: 3\r\n".encode())
    assert read_file(tmp_path / "params.yaml") == {"ipc": "2", "bins": "3"}
    (tmp_path / "params.yaml").write_bytes(b"\n# nothing\n")
    assert read_file(tmp_path / "params.yaml") == {}


def test_a_pipe_is_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_text("ipc: 2\n", encoding="utf-8"))
    writer.start()
    assert read_file(tmp_path / "pipe") == {"ipc": "2"}
    writer.join()


@pytest.mark.parametrize(("content", "key"), [("yes: 1\n", "yes"), ("1: 2\n", "1"), ("ipc: 2\nipcs: 3\n", "ipcs")])
def test_a_key_that_is_no_parameter_is_named_with_its_file(tmp_path, content, key):
    (tmp_path / "mine.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(ParameterError, match=rf"mine\.yaml: {key}: no notebook declares this parameter"):
        read_run_file(tmp_path / "mine.yaml")
    assert "refused, nothing was run" in (told := command("run", str(tmp_path / "mine.yaml")).output)
    assert f"mine.yaml: {key}" in told
