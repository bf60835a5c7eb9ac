"""What the features stage tells the stages after it."""

from __future__ import annotations

from pydantic import BaseModel


class FeaturesReport(BaseModel):
    """Published in the manifest of the features artifact.

    Attributes
    ----------
    classes
        Class names in the order of the label index; empty for regression.
    shape
        Shape of one row of the output: ``[64]``, ``[28, 28, 1]``.
    feature_names
        One per element of a flat output where Spark knows them; empty otherwise.
    key_columns
        Columns that identify a row of the table.
    split_counts, class_counts
        Rows per split, and per split and class.
    leakage
        Findings of the leakage check, as sentences.
    """

    classes: list[str]
    shape: list[int]
    feature_names: list[str]
    key_columns: list[str]
    split_counts: dict[str, int]
    class_counts: dict[str, dict[str, int]]
    leakage: list[str] = []
