"""Templates of instructions and prompts: text with one placeholder, {p} or {class}."""

from string import Formatter


def check_place(parameter: str, template: str, place: str) -> None:
    """ValueError unless `template` has the `place`, such as "{class}"."""
    if place not in template:
        raise ValueError(f"{parameter} = {template!r}: has no {place}; write {place} where the text goes")


def check_instruction(instruction: str) -> None:
    """ValueError unless `instruction` has {p} and no other braces; none is formatted, as {p:1000000000}."""
    check_place("instruction", instruction, "{p}")
    try:
        fields = [field for _, *field in Formatter().parse(instruction) if field[0] is not None]
    except ValueError as error:
        raise ValueError(f"instruction = {instruction!r}: only {{p}} may be in braces ({error})") from None
    if any(field != ["p", "", None] for field in fields) or not fields:
        raise ValueError(f"instruction = {instruction!r}: only {{p}} may be in braces")
