"""H2O's GLM, IRLSM without a penalty, on a frame imported from Parquet into its own cluster of one node.

Its heap is half of the machine's memory, its threads are all cores. Reading is `import_file`.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import h2o
from h2o.estimators import H2OGeneralizedLinearEstimator

from scripts.bench.peers.measured import Fitted, Turn, run

_HEAP_MB = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2 >> 20


def read(turn: Turn) -> Any:
    if h2o.connection() is None:
        h2o.init(
            nthreads=turn.threads,
            max_mem_size=f"{_HEAP_MB}M",
            ip="127.0.0.1",
            bind_to_localhost=True,
            strict_version_check=False,
            log_level="ERRR",
            verbose=False,
        )
        h2o.no_progress()
    frame = h2o.import_file(turn.rows, pattern=r".*\.parquet")
    frame["label"] = frame["label"].asfactor()
    return frame


def fit(frame: Any, turn: Turn) -> Fitted:
    limit = {"max_iterations": turn.limit} if turn.limit else {}
    model = H2OGeneralizedLinearEstimator(family="binomial", lambda_=0, solver="IRLSM", **limit)
    model.train(y="label", training_frame=frame)
    found = model.coef()
    summary = model._model_json["output"]["model_summary"]
    iterations = int(summary.cell_values[0][summary.col_header.index("number_of_iterations")])
    features = [found[name] for name in frame.columns if name != "label"]
    return Fitted.linear(features, found["Intercept"], iterations)


if __name__ == "__main__":
    status = run("h2o", read, fit)
    h2o.cluster().shutdown()
    sys.exit(status)
