"""The report in a real browser and as text: nothing runs, nothing is fetched, nothing overflows."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparkml.errors import ConfigError
from sparkml.evaluate import report_data as rd
from sparkml.evaluate.evaluation import Estimate, Evaluation
from sparkml.evaluate.lineage_graph import layers
from sparkml.evaluate.report import duration, interval_text, metric_number, number, percent, png_data_uri, render_report, size

EVIL = '<script>document.title="run"</script><img src=x onerror="document.title=\'run\'">"\'$x$'


@pytest.fixture(scope="module")
def page(demo: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render_report(demo["demo_report"]()), encoding="utf-8")
    return path


def evil_report(demo: dict[str, Any]) -> rd.ReportData:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 80)
    evaluation = demo["measured"](y, demo["scores"](rng, y, 2, 1.0), [EVIL, EVIL + "2"], {EVIL: np.array([EVIL] * 80)}, 20)
    history = {
        "epochs": [{"epoch": 1, "loss": 0.5, EVIL: 1.0, f"val_{EVIL}": 1.0}],
        "importances": [0.1, 0.9],
        "grid": [{"params": {EVIL: EVIL}, "metric": 0.5}],
        "grid_metric": EVIL,
        EVIL: EVIL,
    }
    return rd.ReportData(
        run_id=EVIL, pipeline=EVIL, description=EVIL, status=EVIL, started=EVIL, command=EVIL, error=EVIL,
        outcome=rd.Outcome(candidate=EVIL, metric="accuracy", outcome="champion", version=EVIL, decision=EVIL),
        stages=[rd.StageRow(stage=EVIL, status="failed", seconds=1, artifact=EVIL, error=EVIL)],
        files=[rd.InputFile(path=EVIL, size=1, sha256=EVIL, modified=EVIL)],
        contract=rd.ContractSummary(
            rows=1, good=0, bad=1, by_rule={EVIL: 1}, quarantine_url=EVIL, examples=[rd.BadRow(rules=[EVIL], raw=EVIL)]
        ),
        columns=[rd.ColumnSummary(name=EVIL, type=EVIL, minimum=EVIL)],
        features=rd.FeatureSummary(names=[EVIL, EVIL], balance={EVIL: {EVIL: 1}}),
        candidates=[rd.CandidateReport(name=EVIL, trainer=EVIL, evaluation=evaluation, history=history, settings={EVIL: EVIL})],
        lineage_nodes=[rd.LineageNode(id=EVIL, label=EVIL, detail=EVIL), rd.LineageNode(id="b", label=EVIL)],
        lineage_edges=[(EVIL, "b")],
        settings=[rd.SettingRow(key=EVIL, value=EVIL, origin=EVIL)],
        versions={EVIL: EVIL},
    )  # fmt: skip


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False), (390, True)])
def test_page_fits_and_is_quiet(page: Path, browser: Any, tmp_path: Path, width: int, dark: bool) -> None:
    browser.open(page, width, dark=dark)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("innerWidth") == width
    assert browser.problems() == []
    assert browser.requests() == []
    text = browser.evaluate("document.body.innerText")
    for words in (
        "digits",
        "keras net",
        "registered digits v3",
        "champion",
        "Confusion matrix",
        "By writer",
        "Lineage",
        "in quarantine",
    ):
        assert words in text
    ink, paper = (
        browser.evaluate(f"getComputedStyle(document.body).{name}.match(/\\d+/g).map(Number).reduce((a, b) => a + b)")
        for name in ("color", "backgroundColor")
    )
    assert (ink > paper) == dark
    browser.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 50_000


def test_plots_follow_the_colour_scheme(page: Path, browser: Any) -> None:
    colours = []
    for dark in (False, True):
        browser.open(page, 1280, dark=dark)
        colours.append(browser.evaluate("getComputedStyle(document.querySelector('.chart text')).fill"))
    assert colours[0] != colours[1]


def test_text_has_enough_contrast(page: Path, browser: Any) -> None:
    """WCAG 2.2 AA: 4.5 to 1 for text, on the pairs of variables that the page puts together."""
    pairs = [
        ("ink", "card"), ("muted", "paper"), ("muted", "card"), ("muted", "soft"), ("accent", "card"), ("on-accent", "accent"),
        ("good", "good-soft"), ("warn", "warn-soft"), ("bad", "bad-soft"), ("bad", "card"), ("good", "card"),
    ]  # fmt: skip
    for dark in (False, True):
        browser.open(page, 1280, dark=dark)
        for front, back in pairs:
            values = [
                browser.evaluate(f"getComputedStyle(document.documentElement).getPropertyValue('--{name}').trim()")
                for name in (front, back)
            ]
            light, deep = sorted((luminance(value) for value in values), reverse=True)
            assert (light + 0.05) / (deep + 0.05) >= 4.5, (front, back, dark, values)


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_nothing_in_the_data_can_run(demo: dict[str, Any], browser: Any, tmp_path: Path) -> None:
    text = render_report(evil_report(demo))
    assert text.count("<script>") == 1  # our own, for printing
    path = tmp_path / "evil.html"
    path.write_text(text, encoding="utf-8")
    browser.open(path, 390)
    assert browser.evaluate("document.title") == f"{EVIL} · {EVIL} · sparkml"
    assert browser.evaluate("document.querySelectorAll('script, [onerror], [onload]').length") == 1
    assert browser.problems() == [] and browser.requests() == []
    assert browser.evaluate("document.documentElement.scrollWidth") <= 390


def test_page_is_self_contained(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = re.findall(r'(?:src|href)\s*=\s*["\']?([^"\'\s>]+)', text)
    assert links and all(link.startswith(("#", "data:")) for link in links)
    assert "@import" not in text and not re.search(r"url\((?!#)", text)
    assert "/work" not in text and "/root" not in text


def test_ids_are_unique_and_references_resolve(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', text)) | set(re.findall(r"url\(#([^)]+)\)", text)) <= set(ids)
    assert all(name in ids for group in re.findall(r'aria-labelledby="([^"]+)"', text) for name in group.split())


def test_a_failed_run_has_a_page_too(browser: Any, tmp_path: Path) -> None:
    stages = [rd.StageRow(stage="ingest", status="failed", seconds=0.4, error="no such file: adult.data")]
    path = tmp_path / "failed.html"
    data = rd.ReportData(
        run_id="r1", pipeline="adult", status="failed", started="today", error="no such file: adult.data", stages=stages
    )
    path.write_text(render_report(data), encoding="utf-8")
    browser.open(path, 390)
    assert "This run did not finish" in browser.evaluate("document.body.innerText") and browser.problems() == []


def test_a_regression_and_undefined_values_have_a_page(browser: Any, tmp_path: Path) -> None:
    nan = float("nan")
    metric = {"value": 3.2, "low": 3.0, "high": 3.5, "label": "RMSE", "greater_is_better": False, "replicates": []}
    undefined = {**metric, "value": nan, "low": nan, "high": nan, "label": "R²"}
    residuals = {"edges": [-1, 0, 1], "counts": [3, 5], "sample_target": [1, 2, 3], "sample_prediction": [1.1, 2.2, 2.9]}
    slices = [{"column": "city", "value": "oslo", "rows": 1, "metrics": {"rmse": {"value": nan, "low": nan, "high": nan}}}]
    evaluation = Evaluation.model_validate(
        {"task": "regression", "rows": 8, "rows_id": "0", "confidence": 0.95, "seed": 7,
         "metrics": {"rmse": metric, "r2": undefined},
         "residuals": residuals, "slices": slices, "worst": [{"key": {"id": 3}, "label": 3, "prediction": 2.9}]}
    )  # fmt: skip
    candidates = [rd.CandidateReport(name="trees", evaluation=evaluation)]
    path = tmp_path / "regression.html"
    path.write_text(render_report(rd.ReportData(run_id="r", pipeline="p", status="done", started="now", candidates=candidates)))
    browser.open(path, 390)
    text = browser.evaluate("document.body.innerText")
    assert "3.200" in text and "n/a" in text and "nan" not in text.lower() and "Predicted against actual" in text
    assert browser.problems() == []


def test_png_is_what_was_given() -> None:
    from PIL import Image

    def read(uri: str) -> Any:
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))

    rng = np.random.default_rng(0)
    grey, colour = rng.integers(0, 256, (5, 7), dtype=np.uint8), rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert np.array_equal(read(png_data_uri(grey)), grey)
    assert np.array_equal(read(png_data_uri(grey[:, :, None])), grey)
    assert np.array_equal(read(png_data_uri(colour)), colour)
    assert read(png_data_uri(np.array([[-1.0, 0.0, 1.0]]))).tolist() == [[0, 128, 255]]
    assert read(png_data_uri(np.full((2, 2), 0.5))).tolist() == [[0, 0], [0, 0]]
    with pytest.raises(ConfigError, match="shape"):
        png_data_uri(np.zeros(4))
    with pytest.raises(ValueError):
        rd.Picture(src="https://example.org/x.png", truth="a", predicted="b")


def test_numbers_for_people() -> None:
    assert [number(value) for value in (1797, 0.12345678, float("nan"), None, "x", 12345.6)] == [
        "1\u202f797",
        "0.1235",
        "n/a",
        "n/a",
        "x",
        "12\u202f346",
    ]
    assert [percent(value) for value in (0, 1, 0.5, 0.0011, 0.00001, 0.9999999)] == [
        "0 %",
        "100 %",
        "50 %",
        "0.11 %",
        "< 0.01 %",
        "> 99.99 %",
    ]
    assert [duration(value) for value in (None, 0.31, 42, 185, 7830)] == ["", "0.3 s", "42 s", "3 min 5 s", "2 h 10 min"]
    assert [size(value) for value in (3, 57523, 2.5e12)] == ["3 B", "57.5 kB", "2.5 TB"]
    assert metric_number(1234.5) == "1\u202f234" and metric_number(0.98149) == "0.981"
    assert interval_text(Estimate(value=0.99972, low=0.99938, high=0.99996)) == "0.99972 [0.99938, 0.99996]"
    assert interval_text(Estimate(value=0.981, low=0.971, high=0.989)) == "0.981 [0.971, 0.989]"
    assert interval_text(Estimate.model_validate_json('{"value": null, "low": null, "high": null}')) == "n/a"


def test_lineage_layers_are_by_longest_path_and_survive_cycles() -> None:
    nodes = [rd.LineageNode(id=name, label=name) for name in "abcd"]
    edges = [("a", "b"), ("b", "c"), ("a", "c"), ("x", "c")]
    assert [[node.id for node in level] for level in layers(nodes, edges)] == [["a", "d"], ["b"], ["c"]]
    assert sum(len(level) for level in layers(nodes, [("a", "b"), ("b", "a")])) == 4
