"""Names from outside (of classes, folders and prompts) as text in figures: literal, legible, short, on one line."""

import re
import unicodedata
from collections.abc import Iterable
from functools import cache
from itertools import chain, count

from anyascii import anyascii
from matplotlib.font_manager import FontProperties, fontManager
from matplotlib.ft2font import FT2Font

from dc3.machine.markup import escaped

OWN_FONT = "DejaVu Sans"  # comes with matplotlib: Latin, Greek, Cyrillic, Arabic, Hebrew and symbols
OTHER_FONTS = (  # of Linux, macOS and Windows, for scripts that DejaVu lacks; used where they are installed
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans CJK KR", "Noto Sans JP", "Noto Sans SC", "Noto Sans KR"),
    *("Droid Sans Fallback", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "IPAGothic", "NanumGothic"),
    *("Hiragino Sans", "PingFang SC", "Apple SD Gothic Neo", "Yu Gothic", "Microsoft YaHei", "Malgun Gothic"),
    *("Noto Sans Devanagari", "Noto Sans Bengali", "Noto Sans Tamil", "Noto Sans Thai", "Nirmala UI", "Leelawadee UI"),
    *("Arial Unicode MS", "Unifont"),
)
LONGEST = 28  # columns of a name beside an axis; a letter of Chinese takes two
LONGEST_TITLE = 20  # the same over a small panel
DROPPED = ("Mn", "Me", "Cf")  # categories of marks that mean nothing without a font for what they mark
HARMFUL = ("Cc", "Cf", "Zl", "Zp")  # categories that break or turn a line; they are written out
JOINERS = "\u200c\u200d"  # of category Cf, but letters of some scripts need them


@cache
def families() -> list[str]:
    """The fonts for `font.family`: matplotlib's own, then those of other scripts that are installed here."""
    installed = set(fontManager.get_font_names())
    return [OWN_FONT, *(name for name in OTHER_FONTS if name in installed)]


@cache
def _drawable() -> frozenset[int]:
    """The code points for which one of the fonts has a glyph."""
    files = (fontManager.findfont(FontProperties(family=name)) for name in families())
    return frozenset().union(*(FT2Font(file).get_charmap() for file in files))


def readable(names: Iterable[str], longest: int = LONGEST) -> list[str]:
    r"""The names as text for figures, in their order; distinct names stay distinct.

    Letters without a font here are transliterated ("猫" becomes "Mao"), control characters are written \n or \x1b, and
    the middle of what is longer than `longest` columns becomes "…". A name that would look like another gets its place
    in the order, "#3".
    """
    texts: dict[str, str] = {}
    for place, name in enumerate(names := list(names)):
        if name not in texts:
            texts[name] = _distinct(_spelled(name), place, longest, set(texts.values()))
    return [texts[name] for name in names]


def _distinct(text: str, place: int, longest: int, taken: set[str]) -> str:
    endings = chain([""], (f" {'#' * times}{place}" for times in count(1)))
    candidates = (shortened(text, longest - len(ending)) + ending for ending in endings)
    return next(candidate for candidate in candidates if candidate not in taken)


def _spelled(name: str) -> str:
    text = "".join(map(_spelled_letter, unicodedata.normalize("NFC", name)))
    return repr(text) if text.isspace() else text


@cache
def _spelled_letter(letter: str) -> str:
    category = unicodedata.category(letter)
    if category in HARMFUL and letter not in JOINERS:
        return escaped(letter)
    if ord(letter) in _drawable():
        return letter
    return anyascii(letter) or ("" if category in DROPPED else escaped(letter))


def width(text: str) -> int:
    """The width of a text in letters: wide ones, such as Chinese, count twice, combining marks not at all."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return len(text) + wide - sum(unicodedata.category(letter) in DROPPED for letter in text)


def shortened(text: str, longest: int) -> str:
    """The text in at most `longest` columns, with "…" for its middle: names often differ only at their end."""
    if width(text) <= longest:
        return text
    head, tail = text, text
    while width(head) > (longest - 1) // 2:
        head = head[:-1]
    while width(tail) > longest - 1 - width(head):
        tail = tail[1:]
    return f"{head}…{tail}"


def wrapped(text: str, longest: int) -> list[str]:
    """The text in lines of at most `longest` columns, cut after spaces and underscores; a longer word has its own."""
    lines = [""]
    for word in re.findall(r"[^\s_]*[\s_]+|[^\s_]+", text):
        if lines[-1] and width((lines[-1] + word).rstrip()) > longest:
            lines.append("")
        lines[-1] += word
    return [line.rstrip() for line in lines]
