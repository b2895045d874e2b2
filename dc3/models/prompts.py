"""Templates of instructions and prompts: text with one place, {p} or {class}, that is filled in."""


def check_place(parameter: str, template: str, place: str) -> None:
    """ValueError unless `template` has the `place`, such as "{class}"."""
    if place not in template:
        raise ValueError(f"{parameter} = {template!r}: has no {place}; write {place} where the text goes")


def check_instruction(instruction: str) -> None:
    """ValueError unless `instruction` has {p} and `instruction.format(p=…)` finds no other braces in it."""
    check_place("instruction", instruction, "{p}")
    try:
        instruction.format(p="sunny")
    except (LookupError, ValueError, AttributeError) as error:
        raise ValueError(
            f"instruction = {instruction!r}: {{p}} is the only pair of braces that it may have ({error!r})"
        ) from None
