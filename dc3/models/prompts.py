"""Templates of instructions and prompts: text with one placeholder, {p} or {class}."""


def check_place(parameter: str, template: str, place: str) -> None:
    """ValueError unless `template` has the `place`, such as "{class}"."""
    if place not in template:
        raise ValueError(f"{parameter} = {template!r}: has no {place}; write {place} where the text goes")


def check_instruction(instruction: str) -> None:
    """ValueError unless `instruction` has {p} and no other braces."""
    check_place("instruction", instruction, "{p}")
    try:
        instruction.format(p="sunny")
    except (LookupError, ValueError, AttributeError) as error:
        raise ValueError(f"instruction = {instruction!r}: only {{p}} may be in braces ({error!r})") from None
