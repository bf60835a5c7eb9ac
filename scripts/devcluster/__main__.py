"""The command line of the development cluster."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from scripts.devcluster.cluster import ROOT, SERVICES, Cluster
from scripts.devcluster.daemon import NotReadyError
from scripts.devcluster.hadoop import whole
from sparkml.errors import SparkmlError

app = typer.Typer(
    help="""A real cluster on this machine's loopback address: HDFS (a NameNode, 3 DataNodes, replication 2), YARN (2
NodeManagers), Spark standalone (2 workers), a history server, and an S3 endpoint.

\b
Examples:
  scripts/cluster up                      everything, in under a minute
  scripts/cluster up hdfs yarn            some of it
  eval "$(scripts/cluster env)"           the variables by which clients find it
  scripts/cluster status
  scripts/cluster fsck /sparkml           what HDFS says of the files there
  scripts/cluster down                    stops every process of it, and removes its data
""",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
)
Folder = Annotated[Path, typer.Option("--folder", help="Where all of the cluster lies.")]
_DEFAULT = ROOT / ".cluster"


@app.command()
def up(
    services: Annotated[list[str] | None, typer.Argument(metavar=f"[{'|'.join(SERVICES)}]...", help="All by default.")] = None,
    folder: Folder = _DEFAULT,
) -> None:
    """Start what does not run yet, and wait until it is ready."""
    for name in services or ():
        if name not in SERVICES:
            raise typer.BadParameter(f"no service {name!r}; there are {', '.join(SERVICES)}")
    cluster = Cluster(folder)
    took = cluster.up(services or SERVICES)
    _show(cluster)
    print(f"ready in {took['daemons']:.1f} s" + (f", jars in {took['jars']:.1f} s" if took["jars"] > 1 else ""))


@app.command()
def down(folder: Folder = _DEFAULT) -> None:
    """Stop every process of the cluster and of jobs on it, and remove its data. The jars stay."""
    print(f"{Cluster(folder).down()} processes stopped")


@app.command()
def status(folder: Folder = _DEFAULT, as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """List the daemons. The exit code is 1 when one of them is dead or none was started."""
    cluster = Cluster(folder)
    rows = cluster.status()
    print(json.dumps(rows)) if as_json else _show(cluster)
    if not rows or not all(row["resident_mb"] for row in rows):
        raise typer.Exit(1)


@app.command()
def fsck(path: Annotated[str, typer.Argument(help="Below which to look.")] = "/", folder: Folder = _DEFAULT) -> None:
    """Have the NameNode check that every file is whole and replicated. The exit code is 1 when one is not."""
    report = Cluster(folder).fsck(path)
    print(report)
    if not whole(report):
        raise typer.Exit(1)


@app.command()
def env(folder: Folder = _DEFAULT) -> None:
    """Print the clients' variables as shell code."""
    if not (cluster := Cluster(folder)).state():
        raise NotReadyError("there is no cluster: scripts/cluster up")
    for name, value in cluster.environment().items():
        print(f"export {name}={shlex.quote(value)}")


def _show(cluster: Cluster) -> None:
    rows = cluster.status()
    for row in rows:
        ports = ", ".join(f"{purpose} {port}" for purpose, port in row["ports"].items())
        state = f"{row['resident_mb']:5.0f} MiB" if row["resident_mb"] else "     dead"
        print(f"{row['daemon']:<16} {row['pid']:>8} {state}  {ports}")
    print(f"{'all':<16} {'':>8} {sum(row['resident_mb'] for row in rows):5.0f} MiB" if rows else "there is no cluster")


def main() -> None:
    """Run the command line; an error ends with its message."""
    try:
        app()
    except (NotReadyError, SparkmlError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(4)


if __name__ == "__main__":
    main()
