"""What people write in params files and on the command line, kept as written until a parameter's type reads it.

YAML 1.1 decides what a word without quotes is (`no`, `1e3`, `010`) without knowing what it is for. Here such a word
stays a `Word`, and `read_as` reads it for a type: a text takes the word itself, a number only decimal digits.
"""

import codecs
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel

LARGEST_FILE = 1 << 20  # bytes; a params file has a few hundred
MOST_VALUES = 100_000  # in a file, aliases resolved: they can stand for billions
MOST_DIGITS = 400  # of a number
LONGEST_SHOWN = 200  # characters of a value in a message
SEPARATORS = "\x85\u2028\u2029"
NOTHING = ("", "~", "null", "Null", "NULL")
YES, NO = ("yes", "true", "on"), ("no", "false", "off")
INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
DECIMAL = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?")
NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


class Word(str):
    """A word of YAML without quotes."""


class Argument(str):
    """A value of the command line: a text for a parameter that is a text, YAML for any other."""


def values_of(path: Path) -> dict[str, Any]:
    """The values of a params file, as written. ValueError when it cannot be read or is no mapping of names."""
    values = _parsed(_text_of(path))
    if values is not None and not isinstance(values, dict):
        raise ValueError(f"expected `key: value` lines, got a {'list' if isinstance(values, list) else 'single value'}")
    return values or {}


def _text_of(path: Path) -> str:
    """The text of a file in UTF-8; ValueError says why there is none."""
    try:
        if path.exists() and not (path.is_file() or path.is_fifo()):  # a pipe: `dc3 run <(…)`
            raise ValueError("not a file; give a params file, such as those of params/")
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except FileNotFoundError:
        raise ValueError("no such params file; params/ holds examples") from None
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from None
    if len(content) > LARGEST_FILE:
        raise ValueError(f"larger than {LARGEST_FILE >> 20} MB, so it is no params file")
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in content:
        raise ValueError("not UTF-8 text (UTF-16, perhaps): save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(
            f"not UTF-8 text (byte 0x{content[error.start]:02x} in line {line}): save it as UTF-8"
        ) from None


class _Loader(yaml.BaseLoader):
    """YAML's syntax alone: lists, mappings, texts in quotes as `str`, all other words as `Word`."""


def _scalar(loader: _Loader, node: yaml.ScalarNode) -> str:
    return Word(node.value) if node.style is None else str(node.value)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[str, Any]:
    """The mapping; ValueError for a key that is no word, or is given twice."""
    found: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise ValueError(f"line {line}: a key must be a parameter's name")
        if key.value in found:
            name, before = shown_name(key.value), lines[key.value]
            raise ValueError(f"{name} is given twice, in lines {before} and {line}: keep one")
        found[key.value], lines[key.value] = loader.construct_object(value, deep=True), line
    return found


def _refuse_tag(loader: _Loader, node: yaml.Node) -> None:
    tag = node.tag.replace("tag:yaml.org,2002:", "!!")
    raise ValueError(f"line {node.start_mark.line + 1}: remove the tag {shown(tag)}: only plain values are read")


_Loader.add_constructor("tag:yaml.org,2002:str", _scalar)
_Loader.add_constructor("tag:yaml.org,2002:seq", lambda loader, node: loader.construct_sequence(node, deep=True))
_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
_Loader.add_constructor(None, _refuse_tag)


def _parsed(text: str, alone: bool = False) -> Any:
    """What YAML text holds, as written; None when it is empty.

    ValueError when it is not YAML, or (`alone`) has anything beside one value, such as a comment.
    """
    if found := next((char for char in SEPARATORS if char in text), None):
        raise ValueError(f"it has the line separator U+{ord(found):04X}, which YAML reads as the end of a line")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, {})
        if alone and (text[: node.start_mark.index].strip() or text[node.end_mark.index :].strip()):
            raise ValueError("something stands beside the value; put quotes around a text with #")
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {_reason(error)}") from None
    except RecursionError:
        raise ValueError("its values are nested too deeply") from None


def _count(node: yaml.Node, counted: dict[int, int]) -> int:
    """How many values a node stands for, aliases resolved. ValueError for too many."""
    if id(node) not in counted:
        counted[id(node)] = MOST_VALUES  # of one that contains itself
        entries = [] if isinstance(node, yaml.ScalarNode) else node.value
        parts = [part for entry in entries for part in (entry if isinstance(entry, tuple) else (entry,))]
        counted[id(node)] = 1 + sum(_count(part, counted) for part in parts)
    if counted[id(node)] > MOST_VALUES:
        raise ValueError(f"its aliases stand for more than {MOST_VALUES:,} values")
    return counted[id(node)]


def _reason(error: yaml.YAMLError) -> str:
    """A YAML error in one line."""
    mark = getattr(error, "problem_mark", None)
    if mark:
        return f"line {mark.line + 1}, column {mark.column + 1}: {getattr(error, 'problem', None)}"
    return " ".join(str(error).split())


def read_as(value: Any, kind: Any) -> Any:
    """A value of a file or of the command line, read for a type: str, bool, int, float, choices, lists, models of them.

    Everything else, such as a text in quotes or a value from Python, is returned as it is: its type is checked later.
    ValueError for a word that YAML 1.1 would read as another number than the one written.
    """
    kind = _bare(kind)
    if isinstance(value, Argument):
        value = str(value) if _is_text(kind) else _parsed(value, alone=True)
    if isinstance(value, Word):
        return _word(value, kind)
    if isinstance(value, list):
        of_item = get_args(kind)[0] if get_origin(kind) is list else Any
        return [read_as(item, of_item) for item in value]
    if isinstance(value, dict) and isinstance(kind, type) and issubclass(kind, BaseModel):
        kinds = {name: field.annotation for name, field in kind.model_fields.items()}
        return {key: read_as(item, kinds.get(key, Any)) for key, item in value.items()}
    return value


def _bare(kind: Any) -> Any:
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    return kind


def _is_text(kind: Any) -> bool:
    return kind is str or get_origin(kind) is Literal


def _word(word: Word, kind: Any) -> Any:
    """A word without quotes as a text, bool or number; a plain str where it is none."""
    if _is_text(kind):
        if word in NOTHING:
            raise ValueError('it has no value; write "" for an empty text, and quotes around null or ~ for a text')
        return str(word)
    if word in NOTHING:
        return None
    if kind is bool:
        return word.lower() in YES if word.lower() in YES + NO else str(word)
    return _number(str(word))


def _number(word: str) -> int | float | str:
    """The number that a word is in decimal digits; the word when it is no number."""
    if len(word) > MOST_DIGITS and re.match(r"[-+.]*[0-9]", word):
        raise ValueError(f"it has {len(word):,} characters; a number has at most {MOST_DIGITS}")
    if INTEGER.fullmatch(word):
        return int(word)
    if DECIMAL.fullmatch(word):
        number = float(word)
        if number == 0 and re.search("[1-9]", re.split("[eE]", word)[0]):
            raise ValueError("it is too small for a number of 64 bits; write 0")
        return number
    if NOT_FINITE.fullmatch(word):
        return float(word.replace(".", ""))
    if (other := _in_yaml_1_1(word)) is not None:
        raise ValueError(f"YAML 1.1 reads it as {other}; write the number that you mean in decimal digits")
    return word


def _in_yaml_1_1(word: str) -> int | float | None:
    """The number that YAML 1.1 takes a word for (010 is 8, 1:30 is 90); None when it takes it for something else."""
    try:
        number = yaml.safe_load(word)
    except (yaml.YAMLError, ValueError):
        return None
    return number if isinstance(number, int | float) and not isinstance(number, bool) else None


def shown(value: Any) -> str:
    """A value for a message: words as they were written, others escaped; cut when it is long."""
    text = _written(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]} … ({len(text):,} characters)"


def _written(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_written, value))}]"
    return str(value) if isinstance(value, Word | Argument) and value.isprintable() else repr(value)


def shown_name(name: str) -> str:
    """A parameter's name for a message: in quotes and escaped when it has odd characters, cut when it is long."""
    return name if re.fullmatch(r"\w{1,100}", name) else shown(str(name))


def shown_path(path: Path) -> str:
    """A path for a message, in quotes and escaped when it has control characters."""
    return str(path) if str(path).isprintable() else repr(str(path))
