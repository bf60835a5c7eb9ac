"""pyspark.ml Estimators of our own, imported when they are first used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "CrossValidator": "sparkml.estimators.tuning",
    "GeneralizedLinearRegression": "sparkml.estimators.linear",
    "GeneralizedLinearRegressionModel": "sparkml.estimators.linear_model",
    "KerasClassifier": "sparkml.estimators.keras",
    "KerasRegressor": "sparkml.estimators.keras",
    "KerasClassificationModel": "sparkml.estimators.keras_model",
    "KerasRegressionModel": "sparkml.estimators.keras_model",
    "LinearRegression": "sparkml.estimators.linear",
    "LinearRegressionModel": "sparkml.estimators.linear_model",
    "LinearSVC": "sparkml.estimators.linear",
    "LinearSVCModel": "sparkml.estimators.linear_model",
    "LogisticRegression": "sparkml.estimators.linear",
    "LogisticRegressionModel": "sparkml.estimators.linear_model",
    "TorchClassifier": "sparkml.estimators.torch",
    "TorchRegressor": "sparkml.estimators.torch",
    "TorchClassificationModel": "sparkml.estimators.torch_model",
    "TorchRegressionModel": "sparkml.estimators.torch_model",
}
__all__ = [
    "CrossValidator",
    "GeneralizedLinearRegression",
    "GeneralizedLinearRegressionModel",
    "KerasClassificationModel",
    "KerasClassifier",
    "KerasRegressionModel",
    "KerasRegressor",
    "LinearRegression",
    "LinearRegressionModel",
    "LinearSVC",
    "LinearSVCModel",
    "LogisticRegression",
    "LogisticRegressionModel",
    "TorchClassificationModel",
    "TorchClassifier",
    "TorchRegressionModel",
    "TorchRegressor",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'sparkml.estimators' has no attribute {name!r}; it offers: {', '.join(__all__)}")
