"""The command lines that commands, messages and documents suggest are ones that the command takes."""

import re
import shlex

import pytest
import typer
from test_data_check import draw
from workshop import command as dc3

from dc3 import cli
from dc3.cli import given, joined_pairs, stopped_message
from dc3.machine.paths import REPOSITORY
from dc3.runs.data_check import look, report, suggestions
from dc3.runs.parameters import all_declared, check, read_file

ODD_NAMES = ["set #2", "it's", 'a "b"', "-dash", "$HOME", "a;b&c", "café|x", "{p}", "new\tline", "a=b", "50%", "*"]
DOCUMENTS = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
LINE = re.compile(r"^dc3 .*?(?:\\\n.*?)*$", re.MULTILINE)


def parsed(line):
    """(the command, its options) of a line as a shell and dc3 read it; the line is refused when dc3 refuses it."""
    words = shlex.split(line.replace("\\\n", " "), comments=True)
    assert words.pop(0) == "dc3", line
    command, rest, name = typer.main.get_command(cli.app), joined_pairs(words), ""
    while hasattr(command, "commands"):
        name = rest.pop(0)
        command = command.commands[name]
    return name, command.make_context(name, rest).params


def checked(options):
    """The values that a run of these options has."""
    file = REPOSITORY / options["params_file"]
    return check(read_file(file) | given(options["p"]), all_declared())


def of_documents():
    return [(path.name, line) for path in DOCUMENTS for line in LINE.findall(path.read_text(encoding="utf-8"))]


def test_the_documents_suggest_lines():
    assert len(of_documents()) > 20


@pytest.mark.parametrize(("name", "line"), of_documents())
def test_a_line_of_the_documents_is_taken(name, line):
    command, options = parsed(line)
    if command == "run":
        checked(options)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_the_lines_of_the_data_check_lead_to_the_folder_whatever_its_name(tmp_path, name):
    folder = tmp_path / name
    for image in ("train/cat/1.png", "train/dog/1.png", "val/cat/1.png", "val/dog/1.png"):
        draw(folder / image)
    lines = suggestions(look(folder)).values()
    for line in lines:
        command, options = parsed(line)
        assert command == "run" and checked(options)["data_dir"] == str(folder)
    text = report(look(folder / "train"))
    command, options = parsed(next(found for found in re.findall("dc3 data check .*", text)))
    assert command == "check" and options["folder"] == folder / "train" and options["condensed"]


@pytest.mark.parametrize("value", ["a b", "/images/set #2", "it's", "-0.5", "-dash", "a=b", "$HOME", "{p}: *"])
def test_the_line_after_a_signal_goes_on_with_the_same_words(value):
    arguments = [
        "run",
        "params/my file.yaml",
        "--from",
        "03",
        "--force",
        "-p",
        "instruction",
        value,
        "-p",
        f"run={value}",
    ]
    message = stopped_message("run", arguments, "04_compensation")
    assert message.startswith("stopped; `dc3 run ") and message.endswith("` goes on from 04")
    command, options = parsed(message.removeprefix("stopped; `").removesuffix("` goes on from 04"))
    assert command == "run" and str(options["params_file"]) == "params/my file.yaml"
    assert given(options["p"]) == {"instruction": value, "run": value}
    assert not options["start"] and not options["force"], "they would redo what is finished"


def test_other_commands_go_on_or_only_stop():
    assert stopped_message("run", ["run", "x.yaml"], "") == "stopped; `dc3 run x.yaml` begins it again"
    assert stopped_message("sweep", ["sweep", "x y.yaml"], "").startswith("stopped; `dc3 sweep 'x y.yaml'` goes on")
    assert stopped_message("report", ["report", "demo"], "") == "stopped"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["-p", "data_dir", "--until", "04"], "-p data_dir: its value is missing"),
        (["-p", "data_dir"], "-p data_dir: its value is missing"),
        (["-p", "data_dir", "-p", "ipc", "1"], "-p data_dir: its value is missing"),
        (["--until", "--force"], "--until has no value; --force follows it"),
        (["-p", "ipc", "1", "-p", "ipc", "2"], "-p ipc is given twice"),
    ],
)
def test_an_option_without_its_value_is_named(words, told):
    result = dc3("run", REPOSITORY / "params/demo.yaml", *words)
    assert result.exit_code == 2 and told in result.stderr, result.stderr
