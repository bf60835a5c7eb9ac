"""The RDD route: quarantine and sessions against an independent computation in pandas, and the truncated lineage."""

from __future__ import annotations

import gzip
import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from chispa import assert_df_equality

from sparkml.errors import DataError
from sparkml.ingest.source import ReadContext
from sparkml.ingest.sources.web_logs import WebLogs
from sparkml.ingest.stage import ingest
from sparkml.ingest.weblog.generate import MALFORMED, Generate, generate
from tests.spark.tiny import Tiny

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

# by eye from the format's description, not the product's expression; a quoted field ends at a quote without a backslash
FIELDS = re.compile(r'(\S+) - - \[(.*?)\] "([A-Z]+) (/\S*) HTTP/1\.1" (\d{3}) (\d{1,15}|-) "((?:\\"|[^"])*)" "((?:\\"|[^"])*)"')


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs") / "a"
    generate(folder, Generate(lines=20_000, sources=7, malformed=0.01, seed=3))
    return folder


def source(folder: Path | list[Path], **options: Any) -> WebLogs:
    paths = [str(path) for path in (folder if isinstance(folder, list) else [folder])]
    return WebLogs(WebLogs.Options.model_validate({"path": paths, **options}))


def take(spark: SparkSession, logs: WebLogs, folder: Path) -> tuple[DataFrame, dict[str, Any]]:
    context = ReadContext(spark=spark, scratch_url=f"file://{folder}/checkpoint")
    ingest(logs, context, f"file://{folder}/rows")
    return spark.read.parquet(f"file://{folder}/rows"), context.notes


def by_pandas(folder: Path, gap: int = 1800) -> tuple[pd.DataFrame, list[bytes]]:
    """Sessions and malformed lines without sparkml: one frame, sorted and grouped."""
    rows, bad = [], []
    for path in sorted(folder.glob("access*")):
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        for raw in data.split(b"\n")[:-1]:
            match = FIELDS.fullmatch(raw.decode(errors="replace")) if len(raw) <= 65536 else None
            time = pd.to_datetime(match[2], format="%d/%b/%Y:%H:%M:%S %z", errors="coerce") if match else pd.NaT
            if match is None or pd.isna(time) or "\ufffd" in match[0]:
                bad.append(raw)
            else:
                rows.append((path.name, match[1], int(time.timestamp()), *match.groups()[2:]))
    frame = pd.DataFrame(rows, columns=["file", "host", "time", "method", "path", "status", "size", "referrer", "agent"])
    frame["size"] = frame["size"].replace("-", "0").astype(int)
    order = ["host", "agent", "time", "method", "path", "status", "size", "referrer", "file"]
    frame = frame.sort_values(order).reset_index(drop=True)
    step = frame.groupby(["host", "agent"])["time"].diff()
    frame["gap"] = step.where(step <= gap)
    frame["session"] = (step.isna() | (step > gap)).cumsum()
    truth = pd.read_csv(folder / "truth.csv").set_index("host")["label"]
    grouped = frame.groupby("session")
    found = pd.DataFrame(
        {
            "host": grouped["host"].first(),
            "agent": grouped["agent"].first(),
            "started": grouped["time"].first(),
            "requests": grouped.size(),
            "duration": (grouped["time"].last() - grouped["time"].first()).astype(float),
            "gap_mean": grouped["gap"].mean().fillna(0.0),
            "gap_std": grouped["gap"].std(ddof=0).fillna(0.0),
            "distinct_paths": grouped["path"].nunique() / grouped.size(),
            "assets": frame["path"].str.contains(r"\.(?:css|js|png|jpg)$").groupby(frame["session"]).mean(),
            "client_errors": frame["status"].str.startswith("4").groupby(frame["session"]).mean(),
            "head": (frame["method"] == "HEAD").groupby(frame["session"]).mean(),
            "with_referrer": (frame["referrer"] != "-").groupby(frame["session"]).mean(),
            "robots": (frame["path"] == "/robots.txt").groupby(frame["session"]).any().astype(float),
            "night": (pd.to_datetime(frame["time"], unit="s").dt.hour < 6).groupby(frame["session"]).mean(),
            "size_mean": grouped["size"].mean(),
            "servers": grouped["file"].nunique(),
            "says_bot": grouped["agent"].first().str.contains("bot|crawl|python|curl", case=False).astype(float),
        }
    )
    found["label"] = found["host"].map(truth)
    found["session_id"] = [
        f"{hashlib.blake2b(f'{host} {agent}'.encode(), digest_size=8).hexdigest()}-{time}"
        for host, agent, time in zip(found["host"], found["agent"], found["started"], strict=True)
    ]
    return found.sort_values("session_id").reset_index(drop=True), sorted(bad)


def raw_line(text: str) -> bytes:
    """The bytes of a quarantined line."""
    return re.sub(rb"\\(\\|x(..))", lambda found: bytes.fromhex(found[2].decode()) if found[2] else b"\\", text.encode())


def test_sessions_and_quarantine_equal_an_independent_computation(spark: SparkSession, logs: Path, tmp_path: Path) -> None:
    rows, notes = take(spark, source(logs, split_bytes=100_000), tmp_path)
    wanted, bad = by_pandas(logs)
    assert sorted(raw_line(row["_corrupt"]) for row in rows.where("_corrupt is not null").collect()) == bad
    assert bad == sorted((logs / MALFORMED).read_bytes().split(b"\n")[:-1])
    sessions = rows.where("_corrupt is null").withColumn("started", rows["started"].cast("bigint"))
    found = sessions.toPandas().sort_values("session_id").reset_index(drop=True)
    assert len(found) == len(wanted) > 500
    for column in wanted.columns:
        if wanted[column].dtype.kind == "f":
            np.testing.assert_allclose(found[column], wanted[column], rtol=1e-9, atol=1e-6, err_msg=column)
        else:
            assert found[column].tolist() == wanted[column].tolist(), column
    assert (found["servers"] > 1).sum() > 100  # sessions whose lines lie in several files
    assert found["host"].nunique() < len(found[["host", "agent"]].drop_duplicates())
    assert notes["lines"] == {"read": 20_000, "malformed": 200, "sessions": len(wanted)}


def test_order_files_and_pieces_change_nothing(spark: SparkSession, logs: Path, tmp_path: Path) -> None:
    """The same lines in one shuffled file, read in small pieces."""
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir(), other.mkdir()
    data = b"".join(path.read_bytes() for path in sorted(logs.glob("access*.log")))
    lines = data.split(b"\n")[:-1]
    np.random.default_rng(1).shuffle(lines)
    (one / "all.log").write_bytes(data)
    (other / "all.log").write_bytes(b"\n".join(lines))
    truth = logs / "truth.csv"
    first, _ = take(spark, source([one, truth]), tmp_path / "out-one")
    second, _ = take(spark, source([other, truth], split_bytes=30_000), tmp_path / "out-other")
    assert_df_equality(first, second, ignore_row_order=True, ignore_nullable=True)


def test_the_checkpoint_truncates_the_lineage(spark: SparkSession, logs: Path, tmp_path: Path) -> None:
    _, notes = take(spark, source(logs), tmp_path)
    before, after = notes["rdd_lineage"], notes["rdd_lineage_after_checkpoint"]
    assert any("ShuffledRDD" in line for line in before)
    assert any("ParallelCollectionRDD" in line for line in before)
    assert any("ReliableCheckpointRDD" in line for line in after)
    assert not any("ShuffledRDD" in line for line in after)
    assert any((tmp_path / "checkpoint").rglob("part-*"))  # a reliable one, in the folder it was given
    assert spark.sparkContext.getCheckpointDir() is None  # nobody else writes there afterwards


def test_a_pause_ends_a_session_only_when_longer_than_the_gap(spark: SparkSession, tmp_path: Path) -> None:
    def line(minute: int, second: int, agent: str = "a") -> str:
        return f'192.0.2.1 - - [02/Mar/2026:10:{minute:02d}:{second:02d} +0000] "GET /p{minute} HTTP/1.1" 200 10 "-" "{agent}"\n'

    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.log").write_text(line(0, 0) + line(15, 0) + line(25, 1) + line(25, 1, "b") + line(5, 0))
    rows, _ = take(spark, source(tmp_path / "in", gap_minutes=10), tmp_path / "out")
    found = {(row["agent"], row["started"].minute): (row["requests"], row["duration"], row["label"]) for row in rows.collect()}
    assert found == {("a", 0): (3, 900.0, None), ("a", 25): (1, 0.0, None), ("b", 25): (1, 0.0, None)}


def test_too_many_malformed_lines_stop_the_run(spark: SparkSession, logs: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"200 of 20,000 lines \(1\.00%\) are malformed, .* is 0\.90%; for example"):
        take(spark, source(logs, max_malformed_fraction=0.009), tmp_path)


WRONG_LABELS = {
    b"client,is\n1,2\n": "must have the columns host and label, it has client, is",
    b"host,label\n192.0.2.1,bot\n192.0.2.2\n": r"truth\.csv, line 3: needs a host and its label, found '192\.0\.2\.2' and None",
    b"host,label\n192.0.2.1,bot\n192.0.2.1,human\n": "line 3: the host 192.0.2.1 is 'human' here and 'bot' before",
    b"host,label\n192.0.2.1,b\xf6t\n": r"truth\.csv is not UTF-8 text",
}


@pytest.mark.parametrize("content", WRONG_LABELS, ids=["columns", "short", "two labels", "latin-1"])
def test_wrong_labels_are_refused(spark: SparkSession, logs: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "truth.csv").write_bytes(content)
    with pytest.raises(DataError, match=WRONG_LABELS[content]):
        take(spark, source([logs / "access-00.log", tmp_path / "truth.csv"]), tmp_path / "out")


def test_a_byte_order_mark_is_no_part_of_a_column(spark: SparkSession, logs: Path, tmp_path: Path) -> None:
    (tmp_path / "truth.csv").write_bytes(b"\xef\xbb\xbf" + (logs / "truth.csv").read_bytes())
    rows, _ = take(spark, source([logs / "access-00.log", tmp_path / "truth.csv"]), tmp_path / "out")
    assert rows.where("_corrupt is null and label is null").count() == 0


def test_a_damaged_gzip_is_named(spark: SparkSession, logs: Path, tmp_path: Path) -> None:
    whole = (logs / "access-04.log.gz").read_bytes()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.log.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"a\.log\.gz: the compressed file is truncated or damaged$"):
        take(spark, source(tmp_path / "in"), tmp_path / "out")


def test_labels_alone_are_no_logs(logs: Path) -> None:
    with pytest.raises(DataError, match="there is no log beside"):
        source(logs / "truth.csv").files()


def test_the_pipeline_generates_runs_and_cleans_its_checkpoint(tiny: Tiny) -> None:
    small = "source.generate={lines: 30000, sources: 5, malformed: 0.01, seed: 5}"
    tiny.environment["XDG_CACHE_HOME"] = str(tiny.root / "cache")
    rehearsed, _ = tiny.run("run", "logs", "--dry-run", "--set", small)
    assert "would be fetched" in rehearsed
    assert not (tiny.root / "cache").exists()
    record = tiny.json("run", "logs", "--set", small)
    stages = {stage["stage"]: stage for stage in record["stages"]}
    assert stages["ingest"]["notes"]["lines"]["malformed"] == 300
    assert any("ReliableCheckpointRDD" in line for line in stages["ingest"]["notes"]["rdd_lineage_after_checkpoint"])
    assert not [path for path in tiny.store.files("datasets") if "checkpoint" in path]
    quarantine = next((tiny.root / "store" / "quarantine" / "logs").rglob("rows"))
    assert pd.read_parquet(quarantine)["rules"].map(list).tolist() == [["corrupt_record"]] * 300
    assert record["result"]["candidates"]["forest"]["auc"]["value"] > 0.8
    again = tiny.json("run", "logs", "--set", small)
    assert {stage["status"] for stage in again["stages"]} == {"skipped"}
    quiet = tiny.root / "quiet"
    quiet.mkdir()
    (log,) = (tiny.root / "cache" / "sparkml" / "generated").glob("*/access-00.log")
    (quiet / "new.log").write_bytes(log.read_bytes())
    tiny.run("score", "logs@champion", str(quiet), str(tiny.root / "scored"))  # no truth.csv
    scored = pd.read_parquet(tiny.root / "scored")
    assert len(scored) > 20
    assert set(scored["predicted"]) <= {"bot", "human"}
