"""What a registered version holds beside its model: everything that scoring needs, as data."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from sparkml.config import Name


class Bundle(BaseModel):
    """``bundle.json`` of a version.

    Attributes
    ----------
    candidate
        The candidate's name in the pipeline that was registered.
    trainer, source, contract, target, split, features
        The pipeline's settings of those sections, as they were; scoring reads raw input exactly as training did.
    classes
        Class names by label index, empty for regression.
    shape
        Shape of one row of features.
    signature
        ``{"inputs": {column: type}, "outputs": {column: type}}``.
    test_fingerprint
        Which test split the version's evaluation was made on.
    """

    format: int = 1
    pipeline: Name
    candidate: Name
    task: str
    classes: list[str]
    shape: list[int]
    feature_names: list[str]
    trainer: dict[str, Any]
    source: dict[str, Any]
    contract: dict[str, Any]
    target: dict[str, Any]
    split: dict[str, Any]
    features: dict[str, Any]
    signature: dict[str, dict[str, str]]
    test_fingerprint: str
    model_fingerprint: str
    seed: int
