"""The whole pipeline through the command line: run, skip, change, score, trace."""

from __future__ import annotations

import json
from pathlib import Path

from pyspark.sql import SparkSession

from sparkml.registry.registry import Registry

STAGES = ["ingest", "contract", "features", "train.linear", "evaluate.linear", "register", "score"]


def statuses(record: dict) -> dict[str, str]:  # type: ignore[type-arg]
    return {stage["stage"]: stage["status"] for stage in record["stages"]}


def test_run_skip_change_score_and_trace(tiny, spark: SparkSession) -> None:  # type: ignore[no-untyped-def]
    # the first run does everything
    first = tiny.json("run", str(tiny.yaml))
    assert statuses(first) == dict.fromkeys(STAGES, "ran")
    assert first["result"]["decision"]["outcome"] == "champion"
    assert first["result"]["candidates"]["linear"]["accuracy"]["value"] > 0.8
    report = Path(first["report"].removeprefix("file://"))
    assert "tiny@1" in report.read_text()
    raw = first["stages"][0]["inputs"][0]["files"][0]
    assert (raw["path"].endswith("people.csv"), raw["size"], len(raw["sha256"])) == (True, tiny.csv.stat().st_size, 64)
    assert all("Scan" in stage["plan"] or "LocalTable" in stage["plan"] for stage in first["stages"][1:3])

    # the same again does nothing, in no JVM
    second = tiny.json("run", str(tiny.yaml))
    assert set(statuses(second).values()) == {"skipped"}
    assert second["result"]["version"] == "tiny@1"

    # a touched file is the same input, a changed candidate is trained and the rest is not
    tiny.csv.touch()
    third = tiny.json("run", str(tiny.yaml), "--set", "train.candidates.linear.params.regParam=0.3")
    ran = {stage for stage, status in statuses(third).items() if status == "ran"}
    assert {"train.linear", "evaluate.linear", "register"} <= ran
    assert not ran & {"ingest", "contract", "features"}

    # scoring new files with the champion: contract enforced, manifest names the version, twice gives the same rows once
    new = tiny.root / "new.csv"
    new.write_text("id,age,height,city,label\n1,70,170,a,\n2,20,180,b,\n3,999,180,b,\n4,20,180,unseen,\n")
    scored = tiny.json("score", "tiny@champion", str(new), str(tiny.root / "out"), "--set", "seed=7", code=3)
    assert "max_bad_fraction" in scored["error"] or "0.05" in scored["error"]
    new.write_text("id,age,height,city,label\n1,70,170,a,\n2,20,180,b,\n4,20,180,unseen,\n")
    unlabelled = "id,age,height,city\n1,70,170,a\n2,20,180,b\n4,20,180,unseen\n"
    for text in (new.read_text(), new.read_text(), unlabelled):
        new.write_text(text)
        scored = tiny.json("score", "tiny@champion", str(new), str(tiny.root / "out"))
        rows = {row.id: row.predicted for row in spark.read.parquet(str(tiny.root / "out")).collect()}
        assert rows == {1: "yes", 2: "no", 4: "no"}
    for output, message in ((new, "same or inside each other"), (tiny.csv, "not written by sparkml")):
        _, err = tiny.run("score", "tiny@champion", str(new), str(output), code=2 if output == new else 6)
        assert message in err
    assert new.read_text() == unlabelled
    manifest = json.loads((tiny.root / "out" / "_MANIFEST.json").read_text())
    assert manifest["lineage"]["model"] == scored["model"] == "tiny@1"

    # from the prediction back to the raw files, and what changed since
    tree = tiny.run("lineage", str(tiny.root / "out"))[0]
    assert "nothing changed since" in tree
    for name in ("tiny@1", "features", "contract", "ingest", "people.csv", "new.csv"):
        assert name in tree
    tiny.csv.write_text(tiny.csv.read_text() + "9999,50,170,a,yes\n")
    assert "1 of" in tiny.run("lineage", "tiny@1")[0]

    # the other commands see it
    assert "tiny@1" in tiny.run("models")[0]
    assert first["run_id"] in tiny.run("runs")[0]
    assert Registry(tiny.store).resolve("tiny").version == 1


def test_dry_run_says_what_and_why_and_writes_nothing(tiny) -> None:  # type: ignore[no-untyped-def]
    out, err = tiny.run("run", str(tiny.yaml), "--dry-run")
    assert "never ran before" in out
    assert "Spark" not in err
    assert not (tiny.root / "store").exists() or tiny.store.list() == []
    tiny.run("run", str(tiny.yaml), "--to", "features")
    out, _ = tiny.run("run", str(tiny.yaml), "--dry-run", "--set", "split.fractions={train: 0.5, validation: 0.25, test: 0.25}")
    assert "settings changed since" in out
    assert out.count("up to date") == 2


def test_only_needs_what_comes_before(tiny) -> None:  # type: ignore[no-untyped-def]
    _, err = tiny.run("features", str(tiny.yaml), code=2)
    assert "stage 'ingest' has no artifact" in err
    assert "--from ingest" in err


def test_a_gate_that_says_no_registers_nothing_and_shows_why(tiny) -> None:  # type: ignore[no-untyped-def]
    tiny.yaml.write_text(tiny.yaml.read_text().replace("min: 0.7", "min: 0.9999"))
    _, err = tiny.run("run", str(tiny.yaml), code=7)
    assert "linear: accuracy 0." in err
    assert "is below 0.9999" in err
    report = tiny.json("runs")[0]["report"]
    assert f"report: {report}" in err
    page = Path(report.removeprefix("file://")).read_text()
    assert "is below 0.9999" in page
    assert tiny.store.list("models") == []
    assert "no models yet" in tiny.run("models")[0]


def test_a_version_that_was_published_before_a_kill_gets_its_alias(tiny) -> None:  # type: ignore[no-untyped-def]
    tiny.run("run", str(tiny.yaml))
    tiny.store.remove("models/tiny/aliases.json")  # as if killed between publishing the version and pointing the alias
    again = tiny.json("run", str(tiny.yaml))
    assert again["result"]["version"] == "tiny@1"
    assert Registry(tiny.store).resolve("tiny@champion").version == 1


def test_a_champion_of_other_classes_does_not_stop_registration(tiny) -> None:  # type: ignore[no-untyped-def]
    tiny.run("run", str(tiny.yaml))
    tiny.csv.write_text(tiny.csv.read_text().replace(",no", ",never").replace(",yes", ",always"))
    tiny.yaml.write_text(tiny.yaml.read_text().replace('["no", "yes"]', '["never", "always"]'))
    record = tiny.json("run", str(tiny.yaml))
    assert record["result"]["version"] == "tiny@2"
    assert "cannot be evaluated on this data" in record["result"]["decision"]["reason"]
    assert Registry(tiny.store).resolve("tiny@champion").version == 2
