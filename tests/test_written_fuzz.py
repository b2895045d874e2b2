"""What a stage receives is what was written, in a file or on the command line, or it is refused by name."""

import json
import os
import re
import string
import unicodedata
from decimal import Decimal

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from papermill.translators import translate_parameters
from workshop import Workshop

from dc3.runs.kernels import Kernels
from dc3.runs.parameters import all_declared
from dc3.runs.runner import StageFailed

DECLARED = """
run: RunName = "tiny"  # name of the run
text: str = "the default"  # a text
texts: NameList = ["the", "default"]  # some texts
number: float = 0.125  # a number
count: NonNegativeInt = 3  # a whole number
counts: NumberList = [3]  # whole numbers
flag: bool = False  # yes or no
mix: Mix = "cutmix"  # a choice
"""
NOTEBOOK = ["from dc3.runs.parameters import *", DECLARED]
REFUSED = 2
LARGEST = 2**31 - 1
ODD = "#:'\"\\{}[]()$% ,&*!|>@`~-=?./;<^\t\n"
WORDS = ["no", "Yes", "off", "2024", "1e3", "010", "0x1F", "1_000", "1:30.5", "null", "~", "2024-01-05"]
WORDS += ["<<", "=", "-5"]
PHRASES = ["a #b", "a: b", "- a", "{p}", "'a'", '"a"', "a\u2028b", "cafe\u0301", "--x", "-p", "x=y", "/images/set #2"]
LETTERS = string.ascii_letters + string.digits + ODD + "éß猫😀\u0301\u00a0"
TEXTS = st.sampled_from([*WORDS, *PHRASES, ""]) | st.text(st.sampled_from(LETTERS), max_size=20)
SPELLINGS = ["{}", "+{}", "-{}", "0{}", "00{}", "{}.", "{}.0", "{}e2", "{}E+2", "{}.5e-3", ".{}", "0x{}", "0o{}"]
SPELLINGS += ["{}_000", "1:{}", "{}:30.5", "{},000", "{} 000", "１{}", "{}½", "{}e-999", "{}e999", "{}%", "{}f", "'{}'"]
SPELLINGS += ["0b{}", ".inf", "-.INF", ".nan", "inf", "", "~", "{}" + "0" * 5000]
NUMBERS = st.builds(str.format, st.sampled_from(SPELLINGS), st.integers(0, 9999))
NUMBERS |= st.floats(0, allow_infinity=False).map(repr) | st.integers(0, 2**40).map(str)
DECIMAL = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
SYNTAX = ("'", '"', "&", "|", ">")  # quotes, an anchor, a block: what follows is not a word
PLAIN = re.compile(r"[\w/][\w/. -]*[\w/]", re.ASCII)  # certainly no syntax of YAML
NULLS = ("null", "Null", "NULL")  # of YAML, which the command refuses for a text

many = settings(max_examples=25 * int(os.environ.get("DC3_EXAMPLES", "1")), deadline=None)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    workshop = Workshop(tmp_path_factory.mktemp("fuzz"), {"00_x": NOTEBOOK})
    workshop.params.write_text("{}\n", encoding="utf-8")
    return workshop


@pytest.fixture(scope="module")
def receive(workshop):
    """Runs the command; what the stage receives, by name, or the command's words when it refuses."""

    def run(file, *arguments):
        received = {}

        def execute(kernels, name, run, injected):
            exec(translate_parameters("python3", "python", injected, ""), received)
            raise StageFailed("received")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Kernels, "execute", execute)
            patch.setattr(Kernels, "start_ahead", lambda kernels, name: None)
            result = workshop.command("run", file, *arguments)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        if result.exit_code == REFUSED:
            assert all(char.isprintable() or char == "\n" for char in result.stderr), result.stderr
            return result.stderr
        assert "received" in result.stderr
        with workshop.entered():
            return {name: received.get(name, parameter.default) for name, parameter in all_declared().items()}

    return run


@pytest.fixture(scope="module")
def of_file(workshop, receive):
    """What the stage receives from a file with this content."""

    def received(content):
        (workshop.root / "fuzz.yaml").write_text(f"run: tiny\n{content}\n", encoding="utf-8", newline="")
        return receive(workshop.root / "fuzz.yaml")

    return received


@pytest.fixture(scope="module")
def of_command(workshop, receive):
    """What the stage receives from -p and these words."""
    return lambda *words: receive(workshop.params, "-p", *words)


def is_received(received, name, value):
    """Whether the stage received this value, of this type. False when the command refused it by name."""
    if isinstance(received, str):
        assert name in received or "fuzz.yaml" in received, received
        return False
    assert (received[name], type(received[name])) == (value, type(value))
    return True


def value_of(spelling, kind):
    """What a person means by a number; None for what is no decimal number, or none that the type has."""
    if len(spelling) > 400 or not DECIMAL.fullmatch(spelling):
        return None
    meant = Decimal(spelling)
    if kind is int:
        return int(meant) if "." not in spelling and "e" not in spelling.lower() and 0 <= meant <= LARGEST else None
    return float(meant) if (float(meant) == 0) == (meant == 0) and abs(float(meant)) < float("inf") else None


@many
@given(TEXTS)
def test_a_text_of_the_command_line_is_taken_as_it_is(of_command, text):
    assert is_received(of_command(f"text={text}"), "text", text)
    received = of_command("text", text)
    if text.startswith("--") or text == "-p":
        assert isinstance(received, str), "an option"
    else:
        assert is_received(received, "text", text)


@many
@given(TEXTS)
def test_a_text_in_quotes_in_a_file_is_the_text(of_file, text):
    dumped = yaml.safe_dump({"text": text}, allow_unicode=True)
    assert is_received(of_file(f"text: {json.dumps(text, ensure_ascii=False)}"), "text", text) or "\u2028" in text
    is_received(of_file(dumped), "text", text)
    if "\n" not in text and "\u2028" not in text:
        single = text.replace("'", "''")
        assert is_received(of_file(f"text: '{single}'"), "text", text)


@many
@given(TEXTS.filter(lambda text: "\n" not in text and text.strip()[:1] not in SYNTAX))
@example("NULL")
def test_a_text_without_quotes_in_a_file_is_the_words_up_to_a_comment(of_file, text):
    received = of_file(f"text: {text}")
    words = re.split(r"(?:^|[ \t])#", text)[0].strip(" \t")
    assert is_received(received, "text", words) or not PLAIN.fullmatch(text) or text in NULLS


@many
@given(st.lists(TEXTS, max_size=4))
def test_a_list_of_texts_is_the_texts(of_file, of_command, texts):
    written = json.dumps(texts, ensure_ascii=False)
    for received in (of_file(f"texts: {written}"), of_command("texts", written)):
        assert is_received(received, "texts", texts) or "\u2028" in written
    if all(PLAIN.fullmatch(text) and text != "null" for text in texts):
        assert is_received(of_command("texts", f"[{', '.join(texts)}]"), "texts", texts)


@many
@given(NUMBERS)
def test_a_number_in_any_spelling_is_what_a_person_means(of_file, of_command, spelling):
    for name, kind in (("number", float), ("count", int)):
        value = value_of(spelling, kind)
        for received in (of_file(f"{name}: {spelling}"), of_command(f"{name}={spelling}")):
            if value is None:
                assert isinstance(received, str) and name in received
            else:
                is_allowed = is_received(received, name, value)
                assert is_allowed or re.match(r"[-+]?0[0-9]", spelling), "leading zeros alone mean two things"


@many
@given(st.lists(st.integers(0, LARGEST), max_size=5))
def test_a_list_of_numbers_is_the_numbers(of_file, of_command, numbers):
    for received in (of_file(f"counts: {numbers}"), of_command("counts", str(numbers))):
        assert is_received(received, "counts", numbers)


@many
@given(TEXTS)
def test_yes_and_no_are_taken_where_the_type_asks_for_them(of_file, of_command, word):
    known = {"yes": True, "true": True, "on": True, "no": False, "false": False, "off": False}
    received = of_command(f"flag={word}")
    if word.strip().lower() in known:
        assert is_received(received, "flag", known[word.strip().lower()])
    else:
        assert isinstance(received, str) and "flag" in received


@many
@given(TEXTS)
def test_a_choice_is_one_of_the_words(of_command, word):
    received = of_command(f"mix={word}")
    assert isinstance(received, str) == (word not in ("cutmix", "mixup", "none")) and "mix" in received


@many
@given(TEXTS)
def test_a_run_has_the_name_that_was_written_or_none(of_command, text):
    received = of_command(f"run={text}")
    if isinstance(received, dict):
        assert received["run"] == unicodedata.normalize("NFC", text) and "/" not in text
    else:
        assert "run = " in received and not re.fullmatch(r"\w[\w.-]*", text)


@many
@given(st.text(min_size=1, max_size=30))
def test_a_key_that_is_no_parameter_is_refused_and_printed_harmlessly(of_file, key):
    assert isinstance(of_file(f"{json.dumps(key)}: 1"), str) or key in ("run", "number", "count")


def test_both_ways_say_the_same_of_every_kind_at_once(of_file, of_command):
    values = {"text": "it's #1: 50%", "texts": ["a", "no", "1e3"], "number": 1e-4, "count": 7, "counts": [1, 2]}
    received = of_file(yaml.safe_dump(values | {"flag": True, "mix": "none"}))
    assert received == values | {"run": "tiny", "flag": True, "mix": "none"}
    for name, value in values.items():
        assert of_command(name, value if name == "text" else json.dumps(value))[name] == value
