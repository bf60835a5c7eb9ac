"""The command line of `scripts/submit`."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from scripts.shipping.command import ROOT, Plan, Submission, run
from sparkml.errors import SparkmlError

app = typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    epilog="""
\b
Examples:
  scripts/submit digits --env yarn
  scripts/submit fashion_mnist --env yarn --deploy-mode cluster --data hdfs:///data/fashion-mnist
  scripts/submit logs --env standalone --secret-file FILE --set spark.master=spark://host:7077 --data hdfs://host/logs \\
      --set store=hdfs://host/sparkml
  scripts/submit digits --env yarn --job train        one stage
  scripts/submit digits --env yarn --print            the command, nothing else
""",
)
def submit(
    context: typer.Context,
    pipeline: Annotated[str, typer.Argument(metavar="PIPELINE", help="A name in conf/pipelines or the path of a YAML file.")],
    env: Annotated[str, typer.Option("--env", help="conf/env/NAME.yaml and conf/spark/NAME.conf: yarn, standalone, or yours.")],
    deploy_mode: Annotated[
        str, typer.Option("--deploy-mode", help="Where the driver is: client (here) or cluster (YARN).")
    ] = "client",
    job: Annotated[str, typer.Option("--job", help="A file of jobs/: pipeline, or one stage.")] = "pipeline",
    conf: Annotated[list[str] | None, typer.Option("--conf", metavar="KEY=VALUE", help="A setting of Spark's.")] = None,
    package: Annotated[list[str] | None, typer.Option("--package", help="Ship this installed package, too.")] = None,
    environment: Annotated[
        str, typer.Option("--environment", help="auto packs this Python; a URL of an archive; none if all hosts have it already.")
    ] = "auto",
    upload_to: Annotated[
        str | None, typer.Option("--upload-to", metavar="URL", help="Where archives go; STORE/_environments on HDFS.")
    ] = None,
    secret_file: Annotated[Path | None, typer.Option("--secret-file", help="Holds a standalone cluster's secret.")] = None,
    credentials: Annotated[Path | None, typer.Option("--credentials", help="An AWS credentials file for the executors.")] = None,
    show: Annotated[bool, typer.Option("--print", help="Print the command and its properties, secrets as references.")] = False,
) -> None:
    """Run a pipeline on a cluster by spark-submit: the package, its environment and its settings travel with it.

    Words that are not options of this command go to `sparkml run`: --set, --date, --resume, --force, --from, ...
    """
    if deploy_mode not in {"client", "cluster"}:
        raise typer.BadParameter(f"{deploy_mode!r} is neither client nor cluster", param_hint="--deploy-mode")
    if not (ROOT / "jobs" / f"{job}.py").is_file():
        known = ", ".join(sorted(path.stem for path in (ROOT / "jobs").glob("*.py")))
        raise typer.BadParameter(f"no job {job!r}; there are {known}", param_hint="--job")
    wanted = Submission(
        pipeline, env, context.args, deploy_mode, job, conf or [], package or [], environment, upload_to, secret_file, credentials
    )
    plan = Plan(wanted)
    if plan.needs_s3a() and (code := subprocess.run([str(ROOT / "scripts" / "s3a-jars")], check=False).returncode):
        raise typer.Exit(code)
    plan.ship(send=not show)
    if show:
        print(shlex.join(plan.command("PROPERTIES")))
        print("".join(f"{key} {value}\n" for key, value in sorted(plan.properties().items())), end="")
        return
    raise typer.Exit(run(plan))


def main() -> int:
    """Run the command line; return its exit code."""
    try:
        return int(app(standalone_mode=False) or 0)
    except SparkmlError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except typer.TyperException as error:
        print(f"error: {error.format_message()}\n  -> scripts/submit --help", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, typer.Abort):
        return 130


if __name__ == "__main__":
    sys.exit(main())
