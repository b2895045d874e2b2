"""The words of a command line: the pairs of -p, and the command that goes on after a signal."""

import shlex

from dc3.runs.parameters import ParameterError
from dc3.runs.written import Argument, shown_name

GO_ON = {"run": "from {stage}", "sweep": "from there", "train-editor": "from its last checkpoint"}  # after a signal
REDOING = ("--force", "--from")  # without them a command goes on where it stopped


def joined_pairs(arguments: list[str]) -> list[str]:
    """["-p", "ipc", "50"] → ["-p", "ipc=50"]; leaves pairs with an = unchanged, and a KEY without a VALUE alone."""
    joined, rest = [], list(arguments)
    while rest:
        argument = rest.pop(0)
        joined.append(argument)
        if argument == "-p" and rest and not is_option(rest[0]):
            pair = rest.pop(0)
            has_value = "=" not in pair and rest and not is_option(rest[0])
            joined.append(f"{pair}={rest.pop(0)}" if has_value else pair)
    return joined


def is_option(word: str) -> bool:
    """Whether a word of the command line is an option, and not a value: -0.5 is a value."""
    return word == "-p" or word.startswith("--")


def given(pairs: list[str]) -> dict[str, Argument]:
    """The values of `-p`, as written. ParameterError for a parameter without a value, or given twice."""
    found: dict[str, Argument] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ParameterError(
                f"-p {shown_name(name)}: its value is missing; write -p KEY VALUE, or -p KEY=VALUE for a value that "
                "begins with --"
            )
        if name in found:
            raise ParameterError(f"-p {shown_name(name)} is given twice, with {found[name]!r} and {value!r}: keep one")
        found[name] = Argument(value)
    return found


def stopped_message(command: str, arguments: list[str], stage: str) -> str:
    """"stopped; `dc3 run …` goes on from 04", or "stopped" for a command that has nothing to go on with.

    stage: the one under way; "" before the first.
    """
    if command not in GO_ON:
        return "stopped"
    goes_on = f"goes on {GO_ON[command].format(stage=stage[:2])}" if stage or command != "run" else "begins it again"
    return f"stopped; `{shlex.join(['dc3', *without_redoing(arguments)])}` {goes_on}"


def without_redoing(arguments: list[str]) -> list[str]:
    """The arguments without --force and --from, which would redo what is finished."""
    kept, rest = [], list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument == "--from":
            rest[:1] = []
        elif argument.split("=")[0] not in REDOING:
            kept.append(argument)
    return kept
