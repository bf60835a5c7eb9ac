"""The digits pipeline as a script of one's own: pyspark, MLlib, Keras and Horovod by hand, no sparkml but for the metrics.

Usage: ``python bare_digits.py FOLDER``. Does the work of conf/pipelines/digits.yaml with its parameters, writes the same tables,
models and predictions below FOLDER, and prints JSON: accuracies and the seconds of each phase.

By hand is what sparkml adds a cost to: the session, the rules, the split, the leakage check, the stages, the barrier stage with
Horovod's rendezvous, a rank's data and its training loop, prediction in batches. By sparkml's `evaluate` are the metrics: nobody
writes six of them with bootstrap intervals for eleven slices by hand, and leaving them out would compare different work.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from a checkout that is not installed

RANKS, EPOCHS, BATCH, RATE = 2, 30, 32, 0.002
IMAGE = (8, 8, 1)
METRICS = ["accuracy", "macro_f1", "log_loss", "auc", "brier", "calibration_error"]
seconds: dict[str, float] = {}


@contextmanager
def phase(name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - start, 3)


def start_spark() -> Any:
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = sys.executable
    session = (
        SparkSession.builder.master("local[*]")
        .config("spark.driver.memory", "3g")
        .config("spark.sql.shuffle.partitions", "4")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.sql.execution.arrow.pyspark.enabled", "true")
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("ERROR")
    return session


def ingest(spark: Any, out: str) -> Any:
    from pyspark.sql import functions as F
    from sklearn.datasets import load_digits

    table = load_digits(as_frame=True).frame
    table.insert(0, "id", range(len(table)))
    rows = spark.createDataFrame(table).withColumns({"id": F.col("id").cast("bigint"), "target": F.col("target").cast("int")})
    rows.write.parquet(f"{out}/raw")
    raw = spark.read.parquet(f"{out}/raw")
    assert raw.count() == 1797
    return raw


def contract(spark: Any, raw: Any, out: str) -> Any:
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    valid = F.expr("id is not null and target between 0 and 9 and pixel_0_0 between 0 and 16 and pixel_3_4 between 0 and 16")
    first = F.row_number().over(Window.partitionBy("id").orderBy("target")) == 1
    judged = raw.withColumn("_good", F.coalesce(valid, F.lit(False)) & first)
    judged.where("_good").drop("_good").write.parquet(f"{out}/good")
    judged.where("not _good").drop("_good").write.parquet(f"{out}/bad")
    good = spark.read.parquet(f"{out}/good")
    assert spark.read.parquet(f"{out}/bad").count() == 0

    def distinct(column: str) -> Any:
        return F.hll_sketch_estimate(F.hll_sketch_agg(F.when(F.col(column).isNotNull(), F.xxhash64(column)), F.lit(12)))

    looked_at = [f(column) for column in good.columns for f in (F.count, distinct, F.min, F.max, F.avg)]
    good.select(F.count("*"), *looked_at).first()
    return good


def features(spark: Any, good: Any, out: str) -> tuple[Any, Any]:
    from pyspark.ml import Pipeline
    from pyspark.ml.feature import MinMaxScaler, VectorAssembler
    from pyspark.ml.stat import Summarizer
    from pyspark.sql import functions as F

    place = F.pmod(F.xxhash64("id"), F.lit(100))
    split = F.when(place < 64, "train").when(place < 80, "validation").otherwise("test")
    rows = good.withColumns({"_split": split, "label": F.col("target").cast("double")})
    pixels = [name for name in good.columns if name.startswith("pixel_")]
    stages: list[Any] = [VectorAssembler(inputCols=pixels, outputCol="raw"), MinMaxScaler(inputCol="raw", outputCol="features")]
    model = Pipeline(stages=stages).fit(rows.where("_split = 'train'"))
    made = model.transform(rows).select("id", "_split", "label", "target", "features")
    made.write.partitionBy("_split").parquet(f"{out}/features")
    model.write().save(f"{out}/pipeline")
    rows.groupBy("_split", "target").count().collect()
    assert rows.groupBy("id").agg(F.count_distinct("_split").alias("splits")).where("splits > 1").count() == 0
    written = spark.read.parquet(f"{out}/features")
    moments = Summarizer.mean(written["features"]), Summarizer.variance(written["features"])
    written.where("_split = 'train'").groupBy("label").agg(*moments).collect()  # does a feature equal the target?
    return model, written


def train_forest(rows: Any, out: str) -> Any:
    from pyspark.ml.classification import RandomForestClassifier

    model = RandomForestClassifier(numTrees=120, maxDepth=12, seed=7).fit(rows.where("_split = 'train'"))
    model.write().save(f"{out}/forest")
    return model


def train_net(spark: Any, rows: Any, out: str) -> bytes:
    from pyspark.ml.functions import vector_to_array

    for part in ("train", "validation"):
        arrays = rows.where(f"_split = '{part}'").select(vector_to_array(rows["features"], "float32").alias("x"), "label")
        arrays.repartition(RANKS).write.parquet(f"{out}/arrays/{part}")
    ranks = spark.sparkContext.parallelize(range(RANKS), RANKS).barrier()
    body: bytes = next(body for body in ranks.mapPartitions(lambda _: [_rank(out)]).collect() if body)
    Path(out, "net.keras").write_bytes(body)
    return body


def _rank(out: str) -> bytes:
    """One Horovod rank in a barrier task; rank 0 returns the trained net's file."""
    from horovod.runner.common.util.hosts import get_host_assignments, parse_hosts
    from horovod.runner.http.http_server import RendezvousServer
    from pyspark import BarrierTaskContext

    context = BarrierTaskContext.get()
    rank, port, server = context.partitionId(), 0, None
    if rank == 0:
        server = RendezvousServer()
        port = server.start()
        server.init(get_host_assignments(parse_hosts(f"localhost:{RANKS}"), RANKS))
    port = max(map(int, context.allGather(str(port))))
    place = {"RANK": rank, "SIZE": RANKS, "LOCAL_RANK": rank, "LOCAL_SIZE": RANKS, "CROSS_RANK": 0, "CROSS_SIZE": 1}
    gloo = {"GLOO_RENDEZVOUS_ADDR": "127.0.0.1", "GLOO_RENDEZVOUS_PORT": port, "GLOO_IFACE": "lo", "HOSTNAME": "localhost"}
    chosen = {**place, **gloo, "CONTROLLER": "gloo", "CPU_OPERATIONS": "gloo", "CYCLE_TIME": 0.5, "LOG_LEVEL": "error"}
    os.environ.update({f"HOROVOD_{name}": str(value) for name, value in chosen.items()})
    os.environ.update(TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1", TF_CPP_MIN_LOG_LEVEL="3")
    cores = os.sched_getaffinity(0)
    if len(cores) >= RANKS:
        os.sched_setaffinity(0, {sorted(cores)[rank]})
    import horovod.tensorflow as hvd

    hvd.init()
    try:
        return _train(rank, out)
    finally:
        hvd.shutdown()
        os.sched_setaffinity(0, cores)
        if server is not None:
            server.stop()


def _train(rank: int, out: str) -> bytes:
    import horovod.tensorflow as hvd
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(7)
    layers = keras.layers
    blocks = [
        layer
        for filters in (32, 64)
        for layer in (layers.Conv2D(filters, 3, padding="same", activation="relu"), layers.MaxPooling2D(2))
    ]
    head = [layers.Flatten(), layers.Dense(64, activation="relu"), layers.Dropout(0.25), layers.Dense(10, activation="softmax")]
    net = keras.Sequential([keras.Input(IMAGE), *blocks, *head])
    optimizer = keras.optimizers.Adam(RATE)
    optimizer.build(net.trainable_variables)
    hvd.broadcast_variables([variable.value for variable in net.variables], root_rank=0)
    cross_entropy = keras.losses.SparseCategoricalCrossentropy()

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = cross_entropy(y, net(x, training=True))
        gradients = tape.gradient(loss, [variable.value for variable in net.trainable_variables])
        optimizer.apply(hvd.grouped_allreduce(gradients, op=hvd.Average), net.trainable_variables)
        return loss

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def check(x: Any, y: Any) -> Any:
        output = net(x, training=False)
        return cross_entropy(y, output), tf.reduce_mean(tf.cast(tf.argmax(output, 1) == tf.cast(y, tf.int64), tf.float32))

    x, y = _own_rows(f"{out}/arrays/train", rank)
    held_out = _own_rows(f"{out}/arrays/validation", rank)
    steps = int(np.ceil(float(hvd.allreduce(tf.constant(float(len(x))), op=hvd.Sum)) / RANKS / BATCH))
    random = np.random.default_rng([7, rank])
    for _ in range(EPOCHS):
        order = np.resize(random.permutation(len(x)), steps * BATCH)
        losses = [step(x[at], y[at]) for at in np.split(order, steps)]
        float(hvd.allreduce(tf.reduce_mean(losses), op=hvd.Average))
        [float(value) for value in hvd.grouped_allreduce(list(check(*held_out)), op=hvd.Average)]
    if rank != 0:
        return b""
    with tempfile.TemporaryDirectory() as folder:
        net.save(f"{folder}/net.keras")
        return Path(folder, "net.keras").read_bytes()


def _own_rows(folder: str, rank: int) -> tuple[Any, Any]:
    import pyarrow.parquet as pq

    path = sorted(Path(folder).glob("part-*.parquet"))[rank]
    table = pq.read_table(path)
    return np.stack(table["x"].to_numpy()).astype(np.float32).reshape(-1, *IMAGE), table["label"].to_numpy().astype(np.float32)


def with_net(rows: Any, body: bytes) -> Any:
    """Add ``probability`` and ``prediction`` by Spark's own `predict_batch_udf`."""
    from pyspark.ml.functions import array_to_vector, predict_batch_udf, vector_to_array
    from pyspark.sql import functions as F
    from pyspark.sql.types import ArrayType, FloatType

    def make() -> Any:
        os.environ.update(TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1", TF_CPP_MIN_LOG_LEVEL="3")
        import keras

        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "net.keras").write_bytes(body)
            net = keras.models.load_model(f"{folder}/net.keras")
        return lambda x: np.asarray(net(x, training=False))

    predict = predict_batch_udf(make, return_type=ArrayType(FloatType()), batch_size=512, input_tensor_shapes=[list(IMAGE)])
    made = rows.withColumn("outputs", predict(vector_to_array(rows["features"], "float32")).cast("array<double>"))
    best = F.array_position("outputs", F.array_max("outputs")).cast("double") - 1.0
    return made.withColumns({"probability": array_to_vector(F.col("outputs")), "prediction": best}).drop("outputs")


def evaluated(spark: Any, predictions: Any, folder: str) -> float:
    from sparkml.evaluate.distributed import evaluate
    from sparkml.evaluate.settings import EvaluateSettings

    predictions.drop("features").write.parquet(f"{folder}/predictions")
    settings = EvaluateSettings.model_validate({"metrics": METRICS, "slices": ["target"]})
    found = evaluate(spark.read.parquet(f"{folder}/predictions"), settings, "classification", list(map(str, range(10))), ["id"])
    Path(folder, "evaluation.json").write_text(found.model_dump_json())
    return found.metrics["accuracy"].value


def score(rows: Any, out: str) -> None:
    from pyspark.ml.functions import vector_to_array

    shown = rows.withColumn("probability", vector_to_array(rows["probability"])).drop("raw", "features", "rawPrediction")
    shown.write.parquet(f"{out}/scored")


def main() -> None:
    out = sys.argv[1]
    with phase("session"):
        spark = start_spark()
    with phase("ingest"):
        raw = ingest(spark, out)
    with phase("contract"):
        good = contract(spark, raw, out)
    with phase("features"):
        fitted, rows = features(spark, good, out)
    with phase("train.forest"):
        forest = train_forest(rows, out)
    with phase("train.net"):
        net = train_net(spark, rows, out)
    test = rows.where("_split = 'test'")
    with phase("evaluate.forest"):
        forest_accuracy = evaluated(spark, forest.transform(test), f"{out}/evaluate-forest")
    with phase("evaluate.net"):
        net_accuracy = evaluated(spark, with_net(test, net), f"{out}/evaluate-net")
    with phase("score"):
        everything = fitted.transform(good)
        score(forest.transform(everything) if forest_accuracy >= net_accuracy else with_net(everything, net), out)
    with phase("stop"):
        spark.stop()
    print(json.dumps({"accuracy": {"forest": forest_accuracy, "net": net_accuracy}, "seconds": seconds}))


if __name__ == "__main__":
    main()
