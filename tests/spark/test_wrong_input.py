"""Wrong input and broken surroundings through the real command line: message, exit code, and that nothing is lost."""

from __future__ import annotations

import gzip
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from sparkml.registry.registry import Registry
from tests.spark.tiny import Tiny, people

HEADER = "id,age,height,city,label\n"


def put(body: str | bytes) -> Callable[[Tiny], None]:
    def write(tiny: Tiny) -> None:
        tiny.csv.write_bytes(body if isinstance(body, bytes) else body.encode())

    return write


def truncated_gzip(tiny: Tiny) -> None:
    packed = gzip.compress(people(600).encode())
    (tiny.csv.parent / "people.csv.gz").write_bytes(packed[: len(packed) // 2])
    tiny.yaml.write_text(tiny.yaml.read_text().replace("people.csv]", "people.csv.gz]"))


def parquet(change: Callable[[object], object]) -> Callable[[Tiny], None]:
    def write(tiny: Tiny) -> None:
        import pandas as pd

        table = change(pd.read_csv(tiny.csv))
        table.to_parquet(tiny.csv.parent / "people.parquet", index=False)  # type: ignore[attr-defined]
        text = tiny.yaml.read_text().replace("people.csv]", "people.parquet]").replace("type: csv", "type: parquet")
        tiny.yaml.write_text(text.replace("  header: true\n", ""))

    return write


def bad_rows(count: int) -> str:
    return people(600) + "".join(f"{1000 + number},ancient,170,a,yes\n" for number in range(count))


CASES = [
    ("missing input", lambda tiny: tiny.csv.unlink(), 3, "does not exist"),
    ("empty file", put(b""), 3, "is empty"),
    ("header only", put(HEADER), 3, "no rows"),
    ("wrong delimiter", lambda tiny: tiny.csv.write_text(people(600).replace(",", ";")), 3, "is that the delimiter?"),
    ("renamed column", lambda tiny: tiny.csv.write_text(people(600).replace("height", "size", 1)), 3, "height is missing"),
    ("truncated gzip", truncated_gzip, 3, "truncated or damaged"),
    (
        "latin-1 bytes",
        lambda tiny: tiny.csv.write_bytes(people(600).replace(",a,", ",é,").encode("latin-1")),
        3,
        "corrupt_record",
    ),
    ("too many bad rows", put(bad_rows(60)), 3, "max_bad_fraction is 5.00%"),
    ("one class only", lambda tiny: tiny.csv.write_text(people(600).replace(",no", ",yes")), 3, "one class only"),
    ("label missing", lambda tiny: tiny.csv.write_text(people(600).replace(",yes", ",").replace(",no", ",")), 3, "null:label"),
    ("duplicate keys", lambda tiny: tiny.csv.write_text(HEADER + "1,30,170,a,yes\n" * 100), 3, "unique:id"),
    (
        "all-null column",
        lambda tiny: tiny.csv.write_text(HEADER + "".join(f"{n},,170,a,{'yes' if n % 2 else 'no'}\n" for n in range(300))),
        3,
        "age",
    ),
    (
        "NaN and inf",
        put(bad_rows(0) + "".join(f"{2000 + n},{'NaN' if n % 2 else 'Infinity'},170,a,yes\n" for n in range(50))),
        3,
        "finite:age",
    ),
    ("Parquet with a renamed column", parquet(lambda table: table.rename(columns={"height": "size"})), 3, "height is missing"),  # type: ignore[attr-defined]
    ("Parquet with a retyped column", parquet(lambda table: table.astype({"age": str})), 3, "age is string"),  # type: ignore[attr-defined]
    ("Parquet with an extra column", parquet(lambda table: table.assign(extra=1)), 3, "extra is not declared"),  # type: ignore[attr-defined]
    ("a name with dots", lambda tiny: tiny.yaml.write_text("pipeline: ../escape\n" + tiny.yaml.read_text()), 2, "is not allowed"),
    (
        "a model name with a space",
        lambda tiny: tiny.yaml.write_text(tiny.yaml.read_text().replace("register: {", "register: {name: 'a b', ")),
        2,
        "is not allowed",
    ),
]


@pytest.mark.parametrize(("wrong", "code", "message"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_wrong_input(tiny: Tiny, wrong: Callable[[Tiny], None], code: int, message: str) -> None:
    wrong(tiny)
    out, err = tiny.run("run", str(tiny.yaml), "--to", "features", code=code)
    assert message in err
    assert "Traceback" not in err
    assert out == ""


def test_tolerated_bad_rows_are_in_quarantine_with_rule_and_raw_record(tiny: Tiny) -> None:
    import pandas as pd

    tiny.csv.write_text("\ufeff" + bad_rows(5).replace("\n", "\r\n") + "2000,200,170,a,yes\n3000,30,170,a,yes,extra\n4000,30\n")
    record = tiny.json("run", str(tiny.yaml), "--to", "contract")
    assert record["stages"][-1]["rows"] == 600
    folder = tiny.store.at("quarantine/tiny")
    bad = pd.concat([pd.read_parquet(path) for path in Path(folder).rglob("*.parquet")])
    found = {row.raw: list(row.rules) for row in bad.itertuples()}
    assert found["1000,ancient,170,a,yes"] == ["corrupt_record"]
    assert found["3000,30,170,a,yes,extra"] == ["corrupt_record"]
    assert found["4000,30"] == ["corrupt_record"]
    assert sorted(rules for rules in found.values() if rules != ["corrupt_record"]) == [["max:age"]]
    assert len(found) == 8


def test_a_failed_run_changes_nothing_downstream(tiny: Tiny) -> None:
    first = tiny.json("run", str(tiny.yaml))
    before = tiny.store.files("models")
    tiny.csv.write_text(bad_rows(60))
    failed = tiny.json("run", str(tiny.yaml), code=3)
    assert "max_bad_fraction" in failed["error"]
    assert tiny.store.files("models") == before
    assert Registry(tiny.store).resolve("tiny").label == first["result"]["version"]
    shown = tiny.json("runs")[0]
    assert (shown["status"], "--resume" in shown["result"]) == ("failed", True)


def test_an_altered_artifact_is_made_again_and_an_altered_model_is_refused(tiny: Tiny) -> None:
    first = tiny.json("run", str(tiny.yaml))
    features = next(stage["artifact"] for stage in first["stages"] if stage["stage"] == "features")
    victim = next(Path(features.removeprefix("file://")).rglob("part-*.parquet"))
    victim.write_bytes(b"half")
    _, err = tiny.run("run", str(tiny.yaml))
    assert "bytes instead of" in err
    assert "it is made again" in err
    model = Path(tiny.store.at("models/tiny/1"))
    bundle = model / "bundle.json"
    bundle.write_text(bundle.read_text().replace("LogisticRegression", "LinearRegressionX"))
    new = tiny.root / "new.csv"
    new.write_text(HEADER + "1,70,170,a,\n")
    _, err = tiny.run("score", "tiny@1", str(new), str(tiny.root / "out"), code=6)
    assert "altered" in err
    assert not (tiny.root / "out").exists()


def test_a_strangers_model_folder_is_never_loaded(tiny: Tiny) -> None:
    stranger = Path(tiny.store.at("models/tiny/1"))
    stranger.mkdir(parents=True)
    marker = tiny.root / "executed"
    (stranger / "model.pkl").write_bytes(b"cos\nsystem\n(S'touch " + str(marker).encode() + b"'\ntR.")
    new = tiny.root / "new.csv"
    new.write_text(HEADER + "1,70,170,a,\n")
    _, err = tiny.run("score", "tiny@1", str(new), str(tiny.root / "out"), code=6)
    assert "never published" in err
    assert not marker.exists()


def test_the_same_pipeline_twice_at_once(tiny: Tiny) -> None:
    first = tiny.start("run", str(tiny.yaml))
    assert first.stderr is not None
    next(line for line in first.stderr if "ingest ..." in line)
    _, err = tiny.run("run", str(tiny.yaml), code=8)
    assert "pipeline 'tiny' is already running" in err
    assert f"pid {first.pid}" in err
    first.communicate()
    assert first.returncode == 0


def test_ctrl_c_keeps_finished_stages_and_prints_the_resume_command(tiny: Tiny) -> None:
    process = tiny.start("run", str(tiny.yaml))
    assert process.stderr is not None
    next(line for line in process.stderr if "contract ..." in line)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "--resume" in err
    assert tiny.json("runs")[0]["status"] == "interrupted"
    assert tiny.store.list("_staging") == []
    assert tiny.json("run", str(tiny.yaml), "--to", "contract")["stages"][0]["status"] == "skipped"


@pytest.mark.skipif(
    subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode != 0
    if shutil.which("unshare")
    else True,
    reason="a real full disk needs a mount namespace: 'unshare -rm true' must work (util-linux, user namespaces)",
)
@pytest.mark.parametrize(
    ("options", "code", "message"),
    [("size=1200k", 6, "disk is full"), ("size=64k,nr_inodes=12", 6, "space"), ("ro", 6, "read-only")],
    ids=["disk full while a stage writes", "disk full at once", "read-only"],
)
def test_a_real_disk_that_refuses(tiny: Tiny, options: str, code: int, message: str) -> None:
    """A tmpfs of that size is mounted as the store in a namespace of its own; what was outside stays as it was."""
    store = tiny.root / "store"
    store.mkdir()
    tiny.csv.write_text(people(60_000))
    script = f'mount -t tmpfs -o {options} tmpfs {store} && exec "$@"'
    command = ["unshare", "-rm", "sh", "-c", script, "sh", *tiny.command("run", str(tiny.yaml), "--to", "features")]
    environment = {**os.environ, **tiny.environment, "XDG_STATE_HOME": str(tiny.root / "state")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tiny.root, check=False, timeout=300)
    assert done.returncode == code, done.stderr
    assert message in done.stderr.lower()
    assert "Traceback" not in done.stderr
