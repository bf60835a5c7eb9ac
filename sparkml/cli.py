"""The command line. Everything heavy is imported inside the commands: ``sparkml --help`` starts neither Spark nor TensorFlow."""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from sparkml.errors import EXIT_CODES, ConfigError, SparkmlError
from sparkml.printing import print_json, print_summary, print_table, print_tree
from sparkml.render import command as render_command

if TYPE_CHECKING:
    from sparkml.flow.dates import Dates

EXAMPLES = """
\b
Examples:
  sparkml run digits                          the whole pipeline on this machine
  sparkml run digits --dry-run                what would run, and why
  sparkml run digits --set train.candidates.net.epochs=5
  sparkml run logs --data 'logs/dt={date}' --date yesterday
  sparkml run adult --data adult.data --data adult.test
  sparkml score adult@champion new.csv out/   predict files with the champion
  sparkml lineage adult@champion              from the model to the raw files
"""

app = typer.Typer(
    help=f"PySpark MLlib pipelines and Horovod-on-Spark nets, from raw data to a registered, scored model.\n{EXAMPLES}",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
)
config_app = typer.Typer(help="Look at the settings.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(config_app, name="config")

Env = Annotated[str | None, typer.Option("--env", help="Overlay conf/env/NAME.yaml: where it runs and where it stores.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override one setting; may be repeated.")]
Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON document on stdout, everything else on stderr.")]
PipelineName = Annotated[str, typer.Argument(metavar="PIPELINE", help="A name in conf/pipelines or the path of a YAML file.")]
Data = Annotated[
    list[str] | None, typer.Option("--data", help="Raw files or folder instead of the pipeline's own; may be repeated.")
]
Force = Annotated[bool, typer.Option("--force", help="Do the selected stages again even when nothing changed.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show the log on the terminal too.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would run and why; starts no JVM and writes nothing.")]

Date = Annotated[
    str | None, typer.Option("--date", metavar="DATE", help="The partition to run: YYYY-MM-DD, or today or yesterday (UTC).")
]
FromDate = Annotated[str | None, typer.Option("--from-date", metavar="DATE", help="Run every date from this one on ...")]
ToDate = Annotated[str | None, typer.Option("--to-date", metavar="DATE", help="... to this one, both included.")]
KeepGoing = Annotated[bool, typer.Option("--keep-going", help="Go on with the next date after one that failed.")]
SkipMissing = Annotated[bool, typer.Option("--skip-missing", help="Pass over dates whose partition has no files.")]
Resume = Annotated[str | None, typer.Option("--resume", metavar="RUN_ID", help="Take up a failed or killed run.")]


def main() -> NoReturn:
    """Run the command line; every error a user can cause ends with its message, its hint and its exit code."""
    as_json = "--json" in sys.argv
    try:
        code = app(standalone_mode=False)
    except SparkmlError as error:
        _complain(error, as_json)
        code = error.exit_code
    except typer.TyperException as error:  # wrong usage: typer's own message
        print(f"error: {error.format_message()}\n  -> sparkml --help", file=sys.stderr)
        code = error.exit_code
        _failed_json(as_json, code, error.format_message())
    except (KeyboardInterrupt, typer.Abort):
        print("\ninterrupted; finished stages are kept", file=sys.stderr)
        code = 130
        _failed_json(as_json, code, "interrupted")
    except Exception as error:
        from sparkml.config import redact

        print(redact(traceback.format_exc()), file=sys.stderr)
        print(
            redact(f"internal error: {error}\nThis is a bug in sparkml: please report it with the lines above."), file=sys.stderr
        )
        code = 1
        _failed_json(as_json, code, str(error))
    sys.stdout.flush()
    sys.exit(code or 0)


def _complain(error: SparkmlError, as_json: bool) -> None:
    from sparkml.config import redact

    kind = EXIT_CODES[error.exit_code]
    print(f"error: {redact(str(error))}\n(exit code {error.exit_code}: {kind})", file=sys.stderr)
    _failed_json(as_json, error.exit_code, error.message, error.hint)


def _failed_json(as_json: bool, exit_code: int, error: str, hint: str | None = None) -> None:
    from sparkml.config import redact

    if as_json:
        found = {"error": redact(error), "hint": None if hint is None else redact(hint)}
        print_json({"schema_version": 1, "status": "failed", "exit_code": exit_code, **found})


# --- running ----------------------------------------------------------------------------------------------------------


@app.command(epilog=EXAMPLES)
def run(
    pipeline: PipelineName,
    env: Env = None,
    data: Data = None,
    date: Date = None,
    from_date: FromDate = None,
    to_date: ToDate = None,
    keep_going: KeepGoing = False,
    skip_missing: SkipMissing = False,
    first: Annotated[str | None, typer.Option("--from", help="First stage to run; earlier ones must be up to date.")] = None,
    last: Annotated[str | None, typer.Option("--to", help="Last stage to run.")] = None,
    only: Annotated[str | None, typer.Option("--only", help="Run this stage alone.")] = None,
    force: Force = False,
    dry_run: DryRun = False,
    resume: Resume = None,
    assignments: Set = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Run a pipeline: ingest, contract, features, train, evaluate, register, score, report. Unchanged stages are skipped."""
    from sparkml.flow.dates import chosen_dates

    if only and (first or last):
        raise ConfigError("--only stands alone: it means --from STAGE --to STAGE")
    dates = chosen_dates(date, from_date, to_date, keep_going, skip_missing, resume)
    _run(pipeline, env, data, dates, only or first, only or last, force, dry_run, resume, assignments, as_json, verbose)


def _run(
    pipeline: str,
    env: str | None,
    data: list[str] | None,
    dates: Dates,
    first: str | None,
    last: str | None,
    force: bool,
    dry_run: bool,
    resume: str | None,
    assignments: list[str] | None,
    as_json: bool,
    verbose: bool,
) -> None:
    from sparkml.config import find_pipeline
    from sparkml.flow.backfill import COLUMNS, Backfill
    from sparkml.flow.engine import STAGES, Selection
    from sparkml.flow.run import run_pipeline
    from sparkml.observe.progress import Board
    from sparkml.settings import load_settings

    selection = Selection(first or STAGES[0], last or STAGES[-1], force, dry_run)
    given = [*(assignments or []), *([f"source.path={json.dumps(data)}"] if data else [])]
    settings, layered = load_settings(find_pipeline(pipeline), env, given)
    if dates.backfill:
        backfill = Backfill(
            settings, layered, env=env, selection=selection, tell=lambda error: _complain(error, False), verbose=verbose
        )
        rows = backfill.run(dates)
        code = next((row["exit_code"] for row in rows if row["exit_code"]), 0)
        if as_json:
            status = "failed" if code else "done"
            print_json({"schema_version": 1, "pipeline": settings.pipeline, "status": status, "exit_code": code, "dates": rows})
        else:
            print_table(rows, COLUMNS, "no dates")
        raise typer.Exit(code)
    (day,) = dates.days
    record = run_pipeline(settings, layered, env=env, selection=selection, resume=resume, board=Board(), verbose=verbose, day=day)
    if as_json:
        print_json(record.model_dump(mode="json"))
    else:
        print_summary(record, dry_run)


def _stage_command(stage: str, help_text: str) -> None:
    @app.command(stage, help=help_text)
    def command(
        pipeline: PipelineName,
        env: Env = None,
        data: Data = None,
        date: Date = None,
        from_date: FromDate = None,
        to_date: ToDate = None,
        keep_going: KeepGoing = False,
        skip_missing: SkipMissing = False,
        force: Force = False,
        dry_run: DryRun = False,
        resume: Resume = None,
        assignments: Set = None,
        as_json: Json = False,
        verbose: Verbose = False,
    ) -> None:
        from sparkml.flow.dates import chosen_dates

        dates = chosen_dates(date, from_date, to_date, keep_going, skip_missing, resume)
        _run(pipeline, env, data, dates, stage, stage, force, dry_run, resume, assignments, as_json, verbose)


for _stage, _help in {
    "ingest": "Read the raw files into a typed table.",
    "contract": "Check every row; bad ones go to quarantine.",
    "features": "Split, fit the feature stages on the training split, transform all rows.",
    "train": "Train every candidate.",
    "evaluate": "Measure every candidate on the test split.",
    "register": "Select, compare with the champion, publish a version.",
}.items():
    _stage_command(_stage, f"{_help} The stages before it must be up to date.")


@app.command()
def score(
    model: Annotated[str, typer.Argument(metavar="NAME[@ALIAS|@VERSION]", help="A registered model; the champion when no @.")],
    paths: Annotated[list[str], typer.Argument(metavar="INPUT... OUTPUT", help="Raw files or folders, then the output folder.")],
    env: Env = None,
    source: Annotated[
        str | None, typer.Option("--source", metavar="YAML", help="How to read the input when not as in training.")
    ] = None,
    partition_by: Annotated[
        list[str] | None, typer.Option("--partition-by", help="Replace only the partitions of this column.")
    ] = None,
    date: Date = None,
    assignments: Set = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Predict files with a registered model. The contract is enforced; the output is replaced atomically.

    Example: sparkml score adult@champion new.csv predictions/ --partition-by education
    """
    from sparkml.flow.commands import score_command

    if len(paths) < 2:
        raise ConfigError("score needs at least one INPUT and the OUTPUT", hint="sparkml score NAME@champion INPUT... OUTPUT")
    result = score_command(model, paths[:-1], paths[-1], env, source, partition_by or [], assignments or [], verbose, date)
    if as_json:
        print_json(result)
    else:
        bad = f", {result['quarantined']:,} in {result['quarantine']}" if result["quarantined"] else ""
        print(f"{result['rows']:,} rows scored by {result['model']} -> {result['output']}{bad}")


@app.command()
def report(
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID|PIPELINE", help="A run, or a pipeline for its last run.")],
    env: Env = None,
    assignments: Set = None,
    as_json: Json = False,
) -> None:
    """Print the path of a run's HTML report."""
    from sparkml.flow.commands import report_path

    found = report_path(run_id, env, assignments or [])
    print_json(found) if as_json else print(found["report"])


# --- looking ----------------------------------------------------------------------------------------------------------


@config_app.command("show")
def config_show(
    pipeline: Annotated[str | None, typer.Argument(metavar="[PIPELINE]")] = None,
    env: Env = None,
    assignments: Set = None,
    as_json: Json = False,
) -> None:
    """Print the merged settings, each with where it was set. Secrets are references and stay so."""
    from sparkml.config import find_pipeline, load_layers, redact
    from sparkml.settings import load_settings

    if pipeline is None:
        layered = load_layers(None, env, assignments or [])
    else:
        layered = load_settings(find_pipeline(pipeline), env, assignments or [])[1]
    rows = [(path, value, str(layered.origin(path) or "default")) for path, value in layered.leaves()]
    if as_json:
        print_json({path: {"value": value, "origin": origin} for path, value, origin in rows})
        return
    width = min(60, max(len(f"{path}: {value}") for path, value, _ in rows))
    for path, value, origin in rows:
        print(redact(f"{f'{path}: {json.dumps(value, ensure_ascii=False)}':<{width}}  # {origin}"))


@app.command()
def runs(
    pipeline: Annotated[str | None, typer.Argument(metavar="[PIPELINE]")] = None,
    env: Env = None,
    assignments: Set = None,
    limit: Annotated[int, typer.Option(help="How many, newest first.")] = 20,
    as_json: Json = False,
) -> None:
    """List runs, newest first: status, stages, and the resume command of those that did not end."""
    from sparkml.flow.commands import list_runs

    found = list_runs(pipeline, env, assignments or [], limit)
    if as_json:
        print_json(found)
        return
    print_table(found, ("run_id", "date", "status", "started", "seconds", "stages", "result"), "no runs yet: sparkml run digits")


@app.command()
def models(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]")] = None,
    env: Env = None,
    assignments: Set = None,
    as_json: Json = False,
) -> None:
    """List registered models: versions, aliases, metrics."""
    from sparkml.flow.commands import list_models

    found = list_models(name, env, assignments or [])
    if as_json:
        print_json(found)
        return
    print_table(found, ("model", "aliases", "candidate", "metrics", "created", "run_id"), "no models yet: sparkml run digits")


@app.command()
def lineage(
    what: Annotated[str, typer.Argument(metavar="NAME@VERSION|PATH", help="A model, an artifact, or an output folder.")],
    env: Env = None,
    assignments: Set = None,
    as_json: Json = False,
) -> None:
    """Draw the tree from a prediction or model back to the raw files, and say which of them changed since."""
    from sparkml.flow.commands import lineage_tree

    tree = lineage_tree(what, env, assignments or [])
    if as_json:
        print_json(tree.as_dict())
        return
    print_tree(tree)


@app.command()
def doctor(env: Env = None, assignments: Set = None, as_json: Json = False) -> None:
    """Check this machine: Java, versions, slots, storage write and atomic publish, the executors' Python against the driver's."""
    from sparkml.flow.doctor import examine

    findings = examine(env, assignments or [])
    if as_json:
        print_json(findings)
    else:
        for item in findings:
            print(
                f"{'ok  ' if item['ok'] else 'FAIL'}  {item['check']:<40} {item['found']}"
                + ("" if item["ok"] else f"\n      -> {item['advice']}")
            )
    if not all(item["ok"] for item in findings):
        raise typer.Exit(4)


@app.command()
def warm(as_json: Json = False) -> None:
    """Make Spark start in half the time on this machine: load its classes from an archive, made once, in a minute.

    `make setup` does it. After another Java or another Python environment, do it again.
    """
    from sparkml import class_archive

    archive = class_archive.make()
    size = archive.stat().st_size
    print_json({"archive": str(archive), "bytes": size}) if as_json else print(f"{archive} ({size / 1e6:.0f} MB)")


app.command(epilog=render_command.EXAMPLES)(render_command.render)


@app.command("exit-codes")
def exit_codes() -> None:
    """List what each exit code means."""
    for code, meaning in EXIT_CODES.items():
        print(f"{code:>4}  {meaning}")


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        from importlib.metadata import version as installed

        print(installed("sparkml"))
        raise typer.Exit


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    main()
