"""What the report page shows: plain data, filled by the flow, rendered by `sparkml.evaluate.report`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from sparkml.evaluate.evaluation import Evaluation


class StageRow(BaseModel):
    """One stage of the run."""

    stage: str
    status: Literal["ran", "skipped", "failed"]
    seconds: float
    rows: int | None = None
    artifact: str = ""
    fingerprint: str = ""
    error: str = ""


class InputFile(BaseModel):
    """A raw file that was read: size in bytes, `modified` as ISO 8601."""

    path: str
    size: int
    sha256: str = ""
    modified: str = ""


class BadRow(BaseModel):
    """An example from the quarantine."""

    rules: list[str]
    raw: str


class ContractSummary(BaseModel):
    """How many rows kept the contract, and by which rules the others broke it."""

    rows: int
    good: int
    bad: int
    by_rule: dict[str, int] = {}
    quarantine_url: str = ""
    examples: list[BadRow] = []


class ColumnSummary(BaseModel):
    """Statistics of one column after the contract; only those that its type has."""

    name: str
    type: str
    nulls: int = 0
    distinct: int | None = None
    minimum: str | float | None = None
    mean: float | None = None
    maximum: str | float | None = None


class FeatureSummary(BaseModel):
    """The features of a row, and the rows per split and class (``balance["train"]["cat"]``)."""

    names: list[str] = []
    shape: list[int] = []
    balance: dict[str, dict[str, int]] = {}


class Picture(BaseModel):
    """A mistake as an image: `src` from `png_data_uri`, `probability` of the predicted class."""

    src: str = Field(pattern="^data:image/png;base64,[A-Za-z0-9+/=]+$")
    truth: str
    predicted: str
    probability: float | None = None


class CandidateReport(BaseModel):
    """One trained model.

    Attributes
    ----------
    history
        What its trainer kept: ``epochs`` (list of dicts with ``epoch`` and values, ``val_`` for validation), ``grid`` (list of
        ``params`` and ``metric``), ``grid_metric``, ``importances`` (in the order of the feature names); other plain values are
        listed as they are.
    """

    name: str
    trainer: str = ""
    seconds: float | None = None
    evaluation: Evaluation
    history: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    pictures: list[Picture] = []


class Outcome(BaseModel):
    """Who won and what became of it. `version` is the label (``digits v3``), `decision` the gate's sentence."""

    candidate: str = ""
    metric: str = ""
    outcome: Literal["champion", "challenger", "rejected", "none"] = "none"
    version: str = ""
    decision: str = ""


class LineageNode(BaseModel):
    """An artifact, a raw file or a model; `kind` decides its look."""

    id: str
    label: str
    kind: Literal["file", "data", "model", "report", "predictions"] = "data"
    detail: str = ""


class SettingRow(BaseModel):
    """One setting with the layer that set it."""

    key: str
    value: str
    origin: str = ""


class ReportData(BaseModel):
    """Everything on the page."""

    run_id: str
    pipeline: str
    description: str = ""
    status: str
    started: str
    ended: str = ""
    seconds: float | None = None
    command: str = ""
    outcome: Outcome = Outcome()
    error: str = ""
    stages: list[StageRow] = []
    files: list[InputFile] = []
    contract: ContractSummary | None = None
    columns: list[ColumnSummary] = []
    features: FeatureSummary | None = None
    candidates: list[CandidateReport] = []
    lineage_nodes: list[LineageNode] = []
    lineage_edges: list[tuple[str, str]] = []
    settings: list[SettingRow] = []
    versions: dict[str, str] = {}
