"""Inject faults into real services and say what became of the work, of what was committed, and of the output.

The services are those of `scripts/cluster`, in a temporary folder, and are stopped at the end. After every injection the script
checks that (a) no committed artifact is lost or changed (every file against the checksum of its manifest), (b) nothing partial is
to be seen, (c) the output in the end equals that of a run without a fault. The exit code is 1 when one of them is not so.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil
from drill import ROOT, FaultError, SkipError

sys.path.insert(0, str(ROOT))

import network_faults
import spark_faults
import storage_faults
from injection import Seen, Site
from store_workload import Settings, work

from scripts.devcluster.cluster import Cluster
from scripts.devcluster.hadoop import DATANODES
from scripts.devcluster.objects import BUCKET
from sparkml.errors import SparkmlError

_BLOCK_BYTES = 4 << 20  # so that a shard has several
_DISK_BYTES = 3 << 30  # of a DataNode, so that it can be filled; one with less than 1.2 GB free takes no block at all


@dataclass(frozen=True)
class Kind:
    """Faults that need the same services. `url` is the root below which each injection gets a store of its own."""

    services: tuple[str, ...]
    url: str
    faults: dict[str, tuple[str, storage_faults.Fault]]


KINDS = (
    Kind(("hdfs",), "{SPARKML_HDFS}/faults", storage_faults.HDFS),
    Kind(("s3",), f"s3a://{BUCKET}/faults", storage_faults.S3),
    Kind(("hdfs", "standalone"), "{SPARKML_HDFS}/faults", spark_faults.STANDALONE),
    Kind(("hdfs", "yarn"), "{SPARKML_HDFS}/faults", spark_faults.YARN),
    Kind(("hdfs",), "{SPARKML_HDFS}/faults", {**spark_faults.LOCAL, **network_faults.NETWORK}),
    Kind(("s3",), f"s3a://{BUCKET}/faults", spark_faults.LOCAL_S3),
)
FAULTS = {name: (kind, text, fault) for kind in KINDS for name, (text, fault) in kind.faults.items()}


@dataclass(frozen=True)
class Row:
    """One injection."""

    fault: str
    turn: int
    seen: Seen | None
    problem: str = ""
    skipped: str = ""
    seconds: float = 0.0
    at: float = field(default_factory=time.time)


def inject(name: str, turn: int, folder: Path, cluster: Cluster, reference: str) -> Row:
    """Inject one fault, once."""
    kind, _, fault = FAULTS[name]
    began = time.monotonic()
    site = Site(folder, cluster, kind.url.format(**os.environ) + f"/{name}-{turn}", turn)
    seen, problem, skipped = None, "", ""
    try:
        site.healthy()
        seen = fault(site)
        site.healthy()
        site.check()
        if seen.digest and seen.digest != reference:  # whole runs compare their own outputs
            raise FaultError("(c) the output differs from that of a run without a fault")
    except SkipError as why:
        skipped = str(why)
    except (FaultError, SparkmlError, OSError, psutil.Error, subprocess.SubprocessError) as error:
        problem = f"{type(error).__name__}: {error}"
    finally:
        site.close()
    return Row(name, turn, seen, problem, skipped, round(time.monotonic() - began, 1))


def line(name: str, rows: Sequence[Row], folder: Path) -> str:
    """Return the Markdown row of a fault; of several injections the worst is told."""
    _, text, _ = FAULTS[name]
    start = f"| {text} (`{name}`) |"
    bad = [row for row in rows if row.problem]
    if bad:
        why = bad[0].problem.splitlines()[0][:300]
        return f"{start} **NOT SURVIVED** {len(bad)} of {len(rows)}: {why} | | | | | | | {len(rows)} |"
    good = [row.seen for row in rows if row.seen]
    if not good:
        return f"{start} skipped: {rows[0].skipped} | | | | | | | 0 |"
    shown = max(good, key=lambda seen: (seen.recovered != "yes", seen.seconds or 0.0))
    user = re.sub(
        rf"(hdfs://[\w.:]+|s3a://\w+)/faults/[\w-]+|{re.escape(str(folder))}[\w./-]*", "STORE", shown.user.splitlines()[0]
    )
    user = re.sub(r"once more in [\d.]+ s", "once more in 0.4 s", re.sub(r"\b[0-9a-f]{16,}\b", "…", user)).replace("|", "\\|")
    taken = [seen.seconds for seen in good if seen.seconds is not None]
    seconds = f"{statistics.median(taken):.1f} ({min(taken):.1f} to {max(taken):.1f})" if taken else ""
    how = [f"{answer} ({count} of {len(good)})" if count < len(good) else answer for answer, count in _counted(good)]
    tried = sorted(sum(seen.retries.values()) for seen in good)
    retries = f"{tried[0]} to {tried[-1]}" if tried[0] != tried[-1] else str(tried[0])
    return f"{start} {user} | {seconds} | {'; '.join(how)} | {retries} | yes | yes | yes | {len(good)} |".replace("\n", " ")


def _counted(good: Sequence[Seen]) -> list[tuple[str, int]]:
    answers = [seen.recovered for seen in good]
    return sorted({answer: answers.count(answer) for answer in answers}.items(), key=lambda item: -item[1])


def small_disk(folder: Path) -> bool:
    """Mount a file system of its own at a folder, with what is in it; return False where that is not allowed."""
    shutil.copytree(folder, folder.with_suffix(".copy"))  # a DataNode that lost its identity would be another one
    image = folder.with_suffix(".img")
    with image.open("wb") as file:
        file.truncate(_DISK_BYTES)
    for command in (["mkfs.ext4", "-q", "-m", "0", str(image)], ["mount", "-o", "loop", str(image), str(folder)]):
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            return False
    shutil.copytree(folder.with_suffix(".copy"), folder, dirs_exist_ok=True)
    return True


@contextlib.contextmanager
def services(folder: Path, wanted: Sequence[str]):  # type: ignore[no-untyped-def]
    """Start a cluster whose DataNodes have small disks of their own and small blocks, and take it down in the end."""
    cluster = Cluster(folder, tied=True)
    mounted: list[Path] = []
    try:
        cluster.up(wanted)
        os.environ.update(cluster.environment())
        if "hdfs" in wanted:
            names = ["namenode", *(f"datanode{at}" for at in range(DATANODES))]
            for name in names:
                cluster.signal(name)
            time.sleep(1)
            conf = folder / "hadoop-conf" / "hdfs-site.xml"
            size = f"<property><name>dfs.blocksize</name><value>{_BLOCK_BYTES}</value></property>\n</configuration>"
            conf.write_text(conf.read_text().replace("</configuration>", size))
            mounted = [disk for at in range(DATANODES) if small_disk(disk := folder / f"dn{at}")]
            for name in names:
                cluster.start(name)
        yield cluster
    finally:
        for disk in mounted:
            subprocess.run(["umount", "-l", str(disk)], check=False)
        cluster.down()


def main() -> int:
    """Inject the faults that were asked for; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=FAULTS, metavar="NAME", help="faults to inject, all by default; see --list")
    parser.add_argument("--repeats", type=int, default=5, help="how often each (default: 5)")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder, removed in the end)")
    parser.add_argument("--list", action="store_true", help="list the faults and end")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write one JSON document per injection there, one a line")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there, too")
    arguments = parser.parse_args()
    if arguments.list:
        for name, (_, text, _) in FAULTS.items():
            print(f"{name:<22} {text}")
        return 0
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # whatever ends us, the cluster goes down; started with & we would ignore Ctrl-C
        signal.signal(number, signal.default_int_handler)
    wanted = arguments.only or list(FAULTS)
    table = [
        "| fault | what the user sees first | seconds to detect | recovered by itself | retries | (a) | (b) | (c) | repeats |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    passed = True
    with tempfile.TemporaryDirectory(prefix="sparkml-faults-") as scratch:
        folder = arguments.folder.resolve() if arguments.folder else Path(scratch)
        (folder / "reference").mkdir(parents=True, exist_ok=True)
        reference = work(Settings(str(folder / "reference" / "store"), str(folder / "reference")))["digest"]
        needed = sorted({service for name in wanted for service in FAULTS[name][0].services})
        with services(folder / "cluster", needed) as cluster:
            for name in wanted:
                rows = []
                for turn in range(max(1, arguments.repeats)):
                    rows.append(inject(name, turn, folder / f"{name}-{turn}", cluster, reference))
                    passed = passed and not rows[-1].problem
                    told = json.dumps(asdict(rows[-1]))
                    print(told, file=sys.stderr, flush=True)
                    if arguments.json:
                        with arguments.json.open("a") as file:
                            file.write(told + "\n")
                table.append(line(name, rows, folder))
    print("\n".join(table))
    if arguments.markdown:
        arguments.markdown.write_text("\n".join(table) + "\n")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
