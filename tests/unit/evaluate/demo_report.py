"""A report with plausible data, to look at: ``python tests/unit/evaluate/demo_report.py report.html [screenshots folder]``."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from sparkml.evaluate import report_data as rd
from sparkml.evaluate.bootstrap import interval, poisson_weights
from sparkml.evaluate.evaluation import Evaluation
from sparkml.evaluate.metric import Rows
from sparkml.evaluate.settings import EvaluateSettings
from sparkml.evaluate.states import POINT, Plan, read_values

DIGITS = [str(digit) for digit in range(10)]


def measured(y: Any, p: Any, classes: list[str], slices: dict[str, Any], replicates: int = 100) -> Evaluation:
    """Evaluate in memory with the code that runs inside the Spark tasks."""
    rows = Rows(y.astype(float), p.argmax(1).astype(float), p)
    keys = np.arange(len(y))
    plan = Plan(tuple(EvaluateSettings().for_task("classification")), len(classes), True, replicates, 7)

    def estimates(rows: Rows, weights: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        def state(block: int, weights: Any) -> Any:
            layout = plan.layout(0, block)
            return np.concatenate([one(rows, weights, layout) for one in plan.statistics(0, block).values()], axis=1)

        point, details = read_values(state(POINT, np.ones((1, len(rows.y)))).ravel(), 0, POINT, plan)
        drawn, _ = read_values(state(0, weights).ravel(), 0, 0, plan)
        found = {}
        for metric, value, sample in zip(plan.metrics, point[:, 0], drawn, strict=True):
            low, high = interval(sample, 0.95)
            found[metric.plugin_name()] = {
                "value": value,
                "low": low,
                "high": high,
                "label": metric.label,
                "greater_is_better": metric.greater_is_better,
                "replicates": sample.tolist(),
            }
        return found, details

    weights = poisson_weights(keys, replicates, 7)
    overall, details = estimates(rows, weights)
    parts = []
    for column, values in slices.items():
        for value in np.unique(values):
            mask = values == value
            parts.append(
                {
                    "column": column,
                    "value": str(value),
                    "rows": int(mask.sum()),
                    "metrics": estimates(rows.take(mask), weights[:, mask])[0],
                }
            )
    wrong = np.flatnonzero(rows.correct == 0)
    wrong = wrong[np.argsort(rows.true_probability[wrong])][:12]
    worst = [
        {
            "key": {"id": int(i)},
            "label": float(y[i]),
            "prediction": float(rows.prediction[i]),
            "probability": float(p[i].max()),
            "true_probability": float(p[i, y[i]]),
        }
        for i in wrong
    ]
    return Evaluation.model_validate(
        {
            "task": "classification",
            "classes": classes,
            "rows": len(y),
            "rows_id": "0",
            "confidence": 0.95,
            "seed": 7,
            "metrics": overall,
            "slices": parts,
            "worst": worst,
            **details,
        }
    )


def scores(rng: np.random.Generator, y: Any, classes: int, margin: float) -> Any:
    logits = rng.normal(size=(len(y), classes))
    logits[np.arange(len(y)), y] += margin
    p = np.exp(1.8 * logits)
    return p / p.sum(axis=1, keepdims=True)


def demo_report() -> rd.ReportData:
    """Return the data of a run of the digits pipeline that looks like a real one."""
    from sparkml.evaluate.report import png_data_uri

    rng = np.random.default_rng(3)
    y = rng.integers(0, 10, 540)
    writers = rng.choice(["school", "bank", "post", "survey"], 540, p=[0.5, 0.3, 0.15, 0.05])
    net, forest, linear = (
        measured(y, scores(rng, y, 10, margin), DIGITS, {"writer": writers} if margin > 4 else {}) for margin in (4.6, 3.9, 3.1)
    )
    epochs = [
        {
            "epoch": i,
            "loss": 1.9 * 0.72**i + 0.03,
            "val_loss": 1.8 * 0.75**i + 0.07,
            "accuracy": 1 - 0.8 * 0.68**i,
            "val_accuracy": 0.985 - 0.8 * 0.7**i,
            "seconds": 1.2,
        }
        for i in range(1, 21)
    ]
    grid = [
        {"params": {"numTrees": trees, "maxDepth": depth}, "metric": 0.93 + 0.0003 * trees - 0.2 / depth**2}
        for trees in (50, 100)
        for depth in (5, 10)
    ]
    blur = np.add.outer(np.hanning(10), np.hanning(10))[1:9, 1:9]
    pictures = [
        rd.Picture(
            src=png_data_uri(blur * rng.random((8, 8))),
            truth=str(mistake.label)[0],
            predicted=str(mistake.prediction)[0],
            probability=mistake.probability,
        )
        for mistake in net.worst
    ]
    candidates = [
        rd.CandidateReport(
            name="forest",
            trainer="mllib RandomForestClassifier",
            seconds=4.2,
            evaluation=forest,
            settings={"seed": 7},
            history={
                "algorithm": "RandomForestClassifier",
                "grid": grid,
                "grid_metric": "f1",
                "importances": list(rng.dirichlet(np.ones(64) * 0.3)),
                "trees": 100,
            },
        ),
        rd.CandidateReport(
            name="keras net",
            trainer="keras on 2 Horovod ranks",
            seconds=21.7,
            evaluation=net,
            history={"epochs": epochs, "ranks": 2, "images_per_second": 7120.0},
            settings={"batch_size": 64, "learning_rate": 0.001},
            pictures=pictures,
        ),
        rd.CandidateReport(name="linear", trainer="mllib LogisticRegression", seconds=1.9, evaluation=linear),
    ]
    hashes = [f"{int(value):064x}" for value in rng.integers(0, 2**62, 3)]
    nodes = [
        rd.LineageNode(id="f", label="sklearn digits", kind="file", detail="67.2 kB, scikit-learn 1.9.1"),
        rd.LineageNode(id="l", label="labels.csv", kind="file", detail="3.6 kB"),
        rd.LineageNode(id="i", label="ingest", detail="1 797 rows"),
        rd.LineageNode(id="c", label="contract", detail="1 795 good rows"),
        rd.LineageNode(id="q", label="quarantine", detail="2 rows"),
        rd.LineageNode(id="x", label="features", detail="64 features, 3 splits"),
        rd.LineageNode(id="k", label="keras net", kind="model"),
        rd.LineageNode(id="r", label="forest", kind="model"),
        rd.LineageNode(id="m", label="linear", kind="model"),
        rd.LineageNode(id="v", label="digits v3", kind="model", detail="champion"),
        rd.LineageNode(id="p", label="predictions", kind="predictions", detail="1 795 rows"),
    ]
    edges = [
        ("f", "i"),
        ("l", "i"),
        ("i", "c"),
        ("c", "q"),
        ("c", "x"),
        ("x", "k"),
        ("x", "r"),
        ("x", "m"),
        ("k", "v"),
        ("v", "p"),
        ("c", "p"),
    ]
    timings = [
        ("ingest", "skipped", 0.0, 1797),
        ("contract", "ran", 1.9, 1795),
        ("features", "ran", 3.1, 1795),
        ("train", "ran", 27.8, None),
        ("evaluate", "ran", 4.4, 540),
        ("register", "ran", 0.6, None),
        ("score", "ran", 2.2, 1795),
    ]
    return rd.ReportData(
        run_id="20261120T221503-digits-1f3a",
        pipeline="digits",
        description="Handwritten digits, 8 x 8 pixels: the bundled set of scikit-learn.",
        status="done",
        started="2026-11-20 22:15:03 UTC",
        seconds=40.3,
        command="sparkml run conf/pipelines/digits.yaml",
        outcome=rd.Outcome(
            candidate="keras net",
            metric="accuracy",
            outcome="champion",
            version="digits v3",
            decision=(
                "accuracy difference to digits v2 on the same test rows +0.0130 [+0.0019, +0.0241]: "
                "better beyond chance, it replaces the champion"
            ),
        ),
        stages=[
            rd.StageRow(
                stage=s,
                status=status,
                seconds=t,
                rows=n,
                artifact=f".sparkml/datasets/digits/{s}/{hashes[0][-12:]}",
                fingerprint=hashes[1],
            )
            for s, status, t, n in timings
        ],
        files=[
            rd.InputFile(path="digits.csv.gz", size=57523, sha256=hashes[0][::-1], modified="2026-11-18T09:12:44Z"),
            rd.InputFile(path="labels.csv", size=3594, sha256=hashes[2][::-1], modified="2026-11-18T09:12:44Z"),
        ],
        contract=rd.ContractSummary(
            rows=1797,
            good=1795,
            bad=2,
            by_rule={"range: pixel_3_4 in [0, 16]": 1, "type: label is an integer": 1},
            quarantine_url=".sparkml/quarantine/digits/5c1d90aa",
            examples=[
                rd.BadRow(
                    rules=["range: pixel_3_4 in [0, 16]"],
                    raw="0,0,5,13,9,1,0,0,0,0,13,15,10,15,5,0,0,3,15,2,0,11,8,0,0,4,12,255,0,8,8,0",
                ),
                rd.BadRow(rules=["type: label is an integer"], raw="0,0,1,9,15,11,0,0,seven"),
            ],
        ),
        columns=[
            rd.ColumnSummary(
                name=f"pixel_0_{i}",
                type="double",
                distinct=17,
                minimum=0.0,
                mean=round(float(rng.random() * 16), 2),
                maximum=16.0,
            )
            for i in range(8)
        ],
        features=rd.FeatureSummary(
            names=[f"pixel_{i // 8}_{i % 8}" for i in range(64)],
            shape=[8, 8, 1],
            balance={
                s: {d: int(rng.integers(n // 12, n // 9)) for d in DIGITS}
                for s, n in (("train", 1080), ("validation", 180), ("test", 540))
            },
        ),
        candidates=candidates,
        lineage_nodes=nodes,
        lineage_edges=edges,
        settings=[
            rd.SettingRow(key="seed", value="7", origin="conf/base.yaml"),
            rd.SettingRow(key="train.candidates.net.epochs", value="20", origin="conf/pipelines/digits.yaml:31"),
            rd.SettingRow(key="spark.master", value="local[2]", origin="--set"),
        ],
        versions={"python": "3.11.2", "sparkml": "0.1.0", "pyspark": "4.1.4", "keras": "3.15.0", "horovod": "0.28.1"},
    )


def main() -> None:
    import runpy

    from sparkml.evaluate.report import render_report

    page = Path(sys.argv[1]).resolve()
    page.write_text(render_report(demo_report()), encoding="utf-8")
    if len(sys.argv) > 2:
        browser = runpy.run_path(str(Path(__file__).with_name("browser.py")))["Browser"](Path(tempfile.mkdtemp()))
        for width in (1280, 390):
            for dark in (False, True):
                browser.open(page, width, dark=dark)
                browser.screenshot(Path(sys.argv[2]) / f"{page.stem}-{width}-{'dark' if dark else 'light'}.png")
        browser.close()


if __name__ == "__main__":
    main()
