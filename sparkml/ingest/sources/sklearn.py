"""scikit-learn's bundled data sets: real data without a download."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal

from sparkml.ingest.source import ReadContext, Source, SourceOptions, with_source_columns

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


class SklearnOptions(SourceOptions):
    """Which bundled set."""

    dataset: Literal["digits", "iris", "wine", "breast_cancer", "diabetes"]


class Sklearn(Source):
    """Columns are the set's features under plain names, ``id`` and ``target``."""

    Options = SklearnOptions
    requires = {"sklearn": "sklearn"}

    def identity(self) -> dict[str, Any]:
        from importlib.metadata import version

        return {**super().identity(), "scikit-learn": version("scikit-learn")}

    def read(self, context: ReadContext) -> DataFrame:
        from pyspark.sql import functions as F
        from sklearn import datasets

        name = self.options.dataset
        table = getattr(datasets, f"load_{name}")(as_frame=True).frame
        table.columns = [re.sub(r"\W+", "_", column).strip("_") for column in table.columns]
        table.insert(0, "id", range(len(table)))
        rows = context.spark.createDataFrame(table).withColumn("id", F.col("id").cast("bigint"))
        if name != "diabetes":
            rows = rows.withColumn("target", F.col("target").cast("int"))
        return with_source_columns(rows.withColumn("_file", F.lit(f"sklearn:{name}")))
