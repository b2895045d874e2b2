"""The dc3 command: run the notebooks once or over a grid, report, compare and export runs, train the editor."""

import importlib.metadata
import io
import logging
import platform
import shlex
import signal
import sys
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from dc3.machine import paths
from dc3.runs.parameters import ParameterError, all_declared, problems_of, read_file, read_run_file
from dc3.runs.written import Argument, read_as, shown_name, shown_path

REFUSED, FAILED = 2, 1
TABLE_ROWS = 10  # of a comparison's tables on the terminal

GO_ON = {"run": "from {stage}", "sweep": "from there", "train-editor": "from its last checkpoint"}  # after a signal
REDOING = ("--force", "--from")  # without them a command goes on where it stopped


class Stoppable(TyperGroup):
    """The commands; SIGINT and SIGTERM end them with a word, and the command that goes on."""

    def invoke(self, context: Any) -> Any:
        """Executes the command that the arguments name."""
        try:
            return super().invoke(context)
        except ParameterError as error:
            stop(str(error), REFUSED)
        except KeyboardInterrupt as stopped:
            number = stopped.args[0] if stopped.args else signal.SIGINT
            stage = getattr(stopped, "stage", "")
            stop(stopped_message(context.invoked_subcommand, context.obj or [], stage), 128 + number)


def with_value(parameter: typer.CallbackParam, value: Any) -> Any:
    """The value of an option; stops the command when it is the next option: the value was forgotten."""
    for word in value if isinstance(value, list) else [value]:
        if is_option(str(word)):
            stop(f"refused: {parameter.opts[-1]} has no value; {word} follows it", REFUSED)
    return value


option = partial(typer.Option, callback=with_value)  # one that takes a value
app = typer.Typer(
    cls=Stoppable, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__
)
data_app = typer.Typer(no_args_is_help=True, help="Look at folders of images.")
app.add_typer(data_app, name="data")


def say_version(is_asked: bool) -> None:
    """Prints dc3's version and ends the command."""
    if is_asked:
        typer.echo(f"dc3 {importlib.metadata.version('dc3')}, Python {platform.python_version()}")
        raise typer.Exit


@app.callback()
def log_to_terminal(
    version: Annotated[bool, typer.Option("--version", callback=say_version, is_eager=True, help="show it")] = False,
) -> None:
    """Logs plain lines to the terminal, from libraries only warnings and errors."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    for library in ("papermill", "httpx", "httpx2", "huggingface_hub"):
        logging.getLogger(library).setLevel(logging.WARNING)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="a new folder")],
) -> None:
    """Make a folder with notebooks and params of your own; runs and figures stay in that folder."""
    from dc3.runs import workspace

    made = workspace.create(folder)
    typer.echo(f"{made} has notebooks and params to change at will. Next:\n  cd {shlex.quote(str(folder))}")
    typer.echo("  jupyter lab notebooks        # one notebook after another by hand, or")
    typer.echo("  dc3 run params/demo.yaml     # all of them without a browser")


@app.command()
def run(
    params_file: Annotated[Path, typer.Argument(help="a file of params/, such as params/demo.yaml")],
    p: Annotated[list[str], option("-p", metavar="KEY VALUE", help="set a parameter; may be repeated")] = [],  # noqa: B006
    start: Annotated[str, option("--from", metavar="STAGE", help="redo from this stage on, such as 03")] = "",
    until: Annotated[str, option("--until", metavar="STAGE", help="stop after this stage, such as 00")] = "",
    force: Annotated[bool, typer.Option("--force", help="run every stage again")] = False,
) -> None:
    """Execute the notebooks of a run in order; skip stages that are up to date."""
    from dc3.machine.files import Busy
    from dc3.runs import workspace
    from dc3.runs.guide import guide
    from dc3.runs.runner import StageFailed, run_notebooks

    try:
        workspace.check_is_here(params_file)
        values = {"run": params_file.stem} | read_run_file(params_file) | given(p)
        for line in workspace.changed_cells():
            typer.echo(line)
        name = run_notebooks(values, start, force, until)
    except (ParameterError, Busy) as error:
        stop(f"refused, nothing was run:\n{error}", REFUSED)
    except StageFailed as error:
        stop(str(error), FAILED)
    typer.echo(f"\n{guide(name)}")


@app.command()
def reproduce(
    run_name: Annotated[str, typer.Argument(metavar="RUN", help="a run with a finished 04_compensation")],
    index: Annotated[int, typer.Argument(help="the source in the training set: column index of provenance.parquet")],
) -> None:
    """Make one condensed image of a run again, and compare the bytes."""
    from dc3.runs.manifests import StageMissing
    from dc3.runs.reproduction import reproduce as make_again

    try:
        found = make_again(run_name, index)
    except (StageMissing, ValueError, FileNotFoundError) as error:
        stop(str(error), REFUSED)
    agree = found.on_disk == found.again
    typer.echo(f"{paths.shown(found.file)}\n  recorded   {found.on_disk}\n  made again {found.again}")
    typer.echo(
        "  the bytes agree" if agree else f"  the bytes differ, pixels by up to {found.largest_difference} of 255"
    )
    if not agree:
        raise typer.Exit(FAILED)


@app.command()
def sweep(
    sweep_file: Annotated[Path, typer.Argument(help="a file of params/ with base and grid: params/…_sweep.yaml")],
    part: Annotated[
        str, option(metavar="K/N", help="every N-th run from the K-th on, to divide runs among N machines")
    ] = "1/1",
    force: Annotated[bool, typer.Option("--force", help="run every stage of every run again, without sharing")] = False,
    known: Annotated[
        Path | None, option(metavar="TABLE", help="results of the sweep from another machine; their runs are skipped")
    ] = None,
    report: Annotated[bool, typer.Option(help="write a report on all finished runs")] = True,
) -> None:
    """Execute the runs of a grid, share their common stages, and collect the results in one table."""
    from dc3.runs.report import write_sweep_report
    from dc3.runs.stage import StageFailed
    from dc3.runs.sweep import run_sweep

    try:
        failures, table = run_sweep(sweep_file, part, force, known)
    except ParameterError as error:
        stop(f"refused, nothing was run:\n{error}", REFUSED)
    typer.echo(f"results: {paths.shown(table)}")
    for name, why in failures.items():
        typer.echo(f"failed: {name}: {why}", err=True)
    try:
        if report and (page := write_sweep_report(table)):
            typer.echo(f"report: {paths.shown(page)}")
    except StageFailed as error:
        stop(str(error), FAILED)
    if failures:
        raise typer.Exit(FAILED)


@data_app.command("check")
def check_data(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="with train/ and val/ (or test/), or a condensed set")],
    decode: Annotated[
        bool | None,
        typer.Option("--decode/--headers", help="decode every file, or only its header; default: up to 20,000"),
    ] = None,
    condensed: Annotated[bool, typer.Option("--condensed", help="DIR is a condensed set, however named")] = False,
) -> None:
    """Show the classes, counts, sizes and unreadable files of a folder; exit with 1 if a run would refuse it."""
    from dc3.runs import data_check

    try:
        seen = data_check.look(folder, decode, condensed)
    except (ValueError, OSError) as error:
        stop(f"DIR = {str(folder)!r}: {error}", REFUSED)
    typer.echo(data_check.report(seen))
    if not seen.ready:
        raise typer.Exit(FAILED)


@app.command()
def report(
    run_name: Annotated[str, typer.Argument(metavar="RUN", help="a run with finished stages")],
    out: Annotated[Path | None, option(help="the file; default: runs/RUN/report.html")] = None,
    code: Annotated[bool, typer.Option("--code", help="include the notebooks' code")] = False,
) -> None:
    """Write the results of a run and its notebooks as one HTML file."""
    from dc3.runs.report import write_report

    try:
        page = write_report(run_name, out, code)
    except (ValueError, OSError) as error:
        stop(str(error), REFUSED)
    typer.echo(f"{paths.shown(page)}: {page.stat().st_size / 1e6:.1f} MB")


@app.command("compare")
def compare_runs(
    run_a: Annotated[str, typer.Argument(metavar="RUN_A", help="a run with finished stages")],
    run_b: Annotated[str, typer.Argument(metavar="RUN_B", help="another; differences are RUN_B minus RUN_A")],
) -> None:
    """Compare two runs: parameters, accuracy, colour, FID, common picks and time, as tables and a figure."""
    from dc3.runs.compare import compare, write
    from dc3.runs.manifests import StageMissing
    from dc3.runs.stage import StageFailed

    try:
        compared = compare(run_a, run_b)
        folder = write(compared)
    except (ValueError, OSError, StageMissing) as error:
        stop(str(error), REFUSED)
    except StageFailed as error:
        stop(str(error), FAILED)
    for remark in compared.remarks:
        typer.echo(f"note: {remark}")
    for name, table in compared.tables.items():
        typer.echo(f"\n{name}: {len(table)} rows")
        typer.echo(table.head(TABLE_ROWS).to_string(index=False, na_rep="", float_format="{:,.2f}".format))
    typer.echo(f"\ntables, figure and compare.html: {paths.shown(folder)}")


@app.command("export")
def export_set(
    run_name: Annotated[str, typer.Argument(metavar="RUN", help="a run with a finished 04_compensation")],
    to: Annotated[str, option(metavar="FORMAT", help="hf (Hugging Face datasets) or npz")],
    out: Annotated[Path | None, option(help="a new folder; default: runs/RUN/export-FORMAT")] = None,
    soft_labels: Annotated[bool, typer.Option("--soft-labels", help="add the teacher's logits of each image")] = False,
) -> None:
    """Export a run's condensed set with its dataset card and provenance."""
    from dc3.runs.export import export
    from dc3.runs.manifests import StageMissing

    try:
        folder = export(run_name, to, out, soft_labels)
    except (ValueError, OSError, StageMissing) as error:
        stop(str(error), REFUSED)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    typer.echo(f"{paths.shown(folder)}: {size / 1e6:.1f} MB; its README.md is the dataset card")


@app.command()
def params() -> None:
    """List every parameter with its type, default, notebooks and help."""
    from dc3.runs import workspace

    for parameter in all_declared().values():
        stages = ", ".join(name[:2] for name in parameter.notebooks)
        typer.echo(f"{parameter.name}: {parameter.type_name} = {parameter.default!r}  [{stages}]\n    {parameter.help}")
    for line in workspace.changed_cells():
        typer.echo(line)


@app.command()
def keep_outputs(run_name: Annotated[str, typer.Argument(metavar="RUN")] = "demo") -> None:
    """Copy a run's outputs into the committed notebooks (a run with the default parameters)."""
    from dc3.runs.kernels import take_outputs
    from dc3.runs.parameters import notebook_names
    from dc3.runs.runner import executed_copy

    for name in notebook_names():
        take_outputs(executed_copy(run_name, name), paths.NOTEBOOKS / f"{name}.ipynb")


@app.command()
def train_editor(
    recipe_file: Annotated[Path, typer.Argument(help="such as params/editor/tiny-instruct-pix2pix.yaml")],
    out: Annotated[Path, option(help="folder of the trained pipeline")] = paths.SHIPPED_EDITOR,
    work: Annotated[Path, option(help="folder of the checkpoints")] = paths.RUNS / "editor",
    device: Annotated[str, option(help="auto, cpu, cuda or mps")] = "auto",
) -> None:
    """Train the editor that the package ships; after a kill, start it again to continue from its last checkpoint."""
    from pydantic import ValidationError

    from dc3.generators import tiny_editor
    from dc3.machine.keeping import AnotherTraining

    try:
        recipe = tiny_editor.EditorRecipe.model_validate(read_as(read_file(recipe_file), tiny_editor.EditorRecipe))
        tiny_editor.train_editor(recipe, work, out, device)
    except ValidationError as error:
        stop("\n".join(f"{shown_path(recipe_file)}: {problem}" for problem in problems_of(error)), REFUSED)
    except (AnotherTraining, ParameterError) as error:
        stop(str(error), REFUSED)


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


def main() -> None:
    """The entry point: `-p KEY VALUE` becomes `-p KEY=VALUE`, because typer has no repeated options of two values."""
    signal.signal(signal.SIGTERM, raise_stop)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 shows \\u2026, and nothing fails
    arguments = sys.argv[1:]
    app(args=joined_pairs(arguments), obj=arguments)


def raise_stop(number: int, frame: FrameType | None) -> None:
    """What SIGTERM does: the same as SIGINT."""
    raise KeyboardInterrupt(number)


def stop(message: str, code: int) -> None:
    """Prints `message` to stderr and exits with `code`."""
    typer.echo(message, err=True)
    raise typer.Exit(code)


if __name__ == "__main__":
    main()
