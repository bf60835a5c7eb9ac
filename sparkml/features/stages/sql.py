"""Columns from Spark SQL expressions over the columns before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from sparkml.config import Options
from sparkml.features.stage import FeatureStage

if TYPE_CHECKING:
    from pyspark.ml.base import Transformer


class SqlOptions(Options):
    columns: dict[str, str] = Field(min_length=1, description="name -> expression, e.g. ratio: a / b")


class Sql(FeatureStage):
    """MLlib's SQLTransformer: ``SELECT *, <expression> AS <name> ... FROM __THIS__``."""

    Options = SqlOptions

    def inputs(self) -> list[str]:
        return []

    def outputs(self) -> list[str]:
        return list(self.options.columns)

    def build(self, columns: list[str]) -> Transformer:
        from pyspark.ml.feature import SQLTransformer

        added = ", ".join(f"({expression}) AS `{name}`" for name, expression in self.options.columns.items())
        return SQLTransformer(statement=f"SELECT *, {added} FROM __THIS__")
