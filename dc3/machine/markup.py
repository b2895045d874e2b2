r"""Text from outside inside Markdown: a class called `$1_vs_$5|<b>` is shown as just that."""

import re
import unicodedata

SPECIAL = re.compile(r"[\\`*<>|$~&]|\](?=[(\[])|(?<![^\W_])_|_(?![^\W_])")  # an underscore within a word is none
TURNING = ("Cc", "Zl", "Zp")  # categories of characters that end a line, or do worse to a terminal
LONGEST_FENCE = re.compile(r"`{3,}")


def literal(text: str) -> str:
    r"""The text as Markdown (CommonMark, GitHub, JupyterLab) on one line; control characters are written \n or \x1b."""
    return SPECIAL.sub(r"\\\g<0>", one_line(text))


def one_line(text: str) -> str:
    r"""The text without control characters and line ends, which are written \n or \x1b."""
    return for_terminal(text, kept="")


def for_terminal(text: str, kept: str = "\n\t") -> str:
    r"""The text without control characters but those `kept`: they are written \x1b."""
    return "".join(
        escaped(char) if unicodedata.category(char) in TURNING and char not in kept else char for char in text
    )


def escaped(letter: str) -> str:
    r"""A character written as \n or \x1b."""
    return letter.encode("unicode_escape").decode()


def fenced(text: str, language: str) -> str:
    """A code block of the text, with a fence that the text cannot close."""
    fence = "`" * (1 + max([2, *map(len, LONGEST_FENCE.findall(text))]))
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"
