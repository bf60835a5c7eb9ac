"""From raw rows to predictions with a registered version: the same source, contract and features that training used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from sparkml.contract.enforce import enforce
from sparkml.contract.settings import ContractSettings
from sparkml.errors import ConfigError, DataError
from sparkml.estimators.trainer import Trainer
from sparkml.flow.engine import Engine
from sparkml.ingest.files import scan
from sparkml.ingest.source import ReadContext, Source
from sparkml.lineage.fingerprint import fingerprint
from sparkml.lineage.records import InputRef, StageRecord, now
from sparkml.plugins import plugged
from sparkml.registry.registry import ModelVersion
from sparkml.score.output import check_output, write_output
from sparkml.storage import Manifest

if TYPE_CHECKING:
    from pyspark.ml import Model
    from pyspark.sql import DataFrame, SparkSession

_HIDDEN = ("_file", "_corrupt", "_split")


def plugin_of(kind: str, selector: str, value: dict[str, Any]) -> Any:
    """Build a plugin from the settings that a bundle recorded. Raises `ConfigError` for options that are wrong."""
    try:
        return TypeAdapter(plugged(kind, selector)).validate_python(value)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, item['loc'])) or selector}: {item['msg']}" for item in error.errors()]
        raise ConfigError(f"{kind} {value.get(selector)!r}: {'; '.join(wrong)}") from None


def load_model(spark: SparkSession, trainer: Trainer, url: str) -> Model:
    """Load a model saved by a trainer's estimator."""
    return trainer.load(spark, url)


def predict(spark: SparkSession, version: ModelVersion, root: str, rows: DataFrame) -> DataFrame:
    """Return `rows` with the model's ``prediction`` (and ``probability``) columns; `root` is the version's URL."""
    from sparkml.features.fit import apply_features

    trainer = plugin_of("estimators.trainers", "trainer", version.bundle.trainer)
    model = load_model(spark, trainer, f"{root}/model")
    return model.transform(apply_features(rows, f"{root}/features"))


def shown(predictions: DataFrame, columns: list[str], version: ModelVersion) -> DataFrame:
    """Return what users read: the input's columns, the prediction by name, the probabilities as an array by class order."""
    from pyspark.ml.functions import vector_to_array
    from pyspark.sql import functions as F

    picked = [F.col(f"`{column}`") for column in columns if column not in _HIDDEN]
    if version.bundle.task == "classification":
        names = F.array(*[F.lit(name) for name in version.bundle.classes])
        picked.append(F.element_at(names, F.col("prediction").cast("int") + 1).alias("predicted"))
        if "probability" in predictions.columns:
            picked.append(vector_to_array(F.col("probability")).alias("probability"))
    else:
        picked.append(F.col("prediction").alias("predicted"))
    return predictions.select(*picked)


def score_files(
    engine: Engine, version: ModelVersion, paths: list[str], output: str, *, partition_by: list[str], source: dict[str, Any]
) -> tuple[Manifest, dict[str, Any]]:
    """Score raw files with a registered version and replace the output.

    Returns
    -------
    The output's manifest, and the contract's report with the quarantine's URL.

    Raises
    ------
    DataError
        The input is missing, empty, not of the model's format, or breaks the contract beyond the allowed fraction.
    """
    bundle, store = version.bundle, engine.store
    check_output(output, paths)
    store.verify(version.path)
    reader = _reader(_with_paths(bundle.source, source, paths), bundle.target["column"])
    files = scan(reader.files(), {})
    raw = InputRef(
        name="raw",
        url=f"source:{reader.plugin_name()}",
        files=[file.model_dump() for file in files],
        fingerprint=fingerprint([sorted(file.sha256 for file in files), reader.identity()]),
    )
    model_input = InputRef(name=version.label, url=store.url(version.path), fingerprint=version.manifest.fingerprint)
    mark = fingerprint([raw.fingerprint, model_input.fingerprint, partition_by])
    record = StageRecord(
        stage="score",
        status="ran",
        started=now(),
        seconds=0.0,
        fingerprint=mark,
        artifact=output,
        inputs=[raw, model_input],
        settings={"model": version.label, "output": output, "partition_by": partition_by},
    )
    quarantine = f"quarantine/{bundle.pipeline}/score-{mark}"
    with engine.board.stage("score") as progress, store.stage() as staging:
        good = _good_rows(engine, version, reader, staging.path, quarantine, record)
        predictions = shown(predict(engine.spark, version, store.url(version.path), good), good.columns, version)
        lineage = {
            "run_id": engine.run.run_id,
            "stage": "score",
            "model": version.label,
            "inputs": [raw.model_dump(), model_input.model_dump()],
        }
        report = record.notes["contract"]
        manifest = write_output(
            predictions,
            output,
            fingerprint=mark,
            lineage=lineage,
            partition_by=partition_by,
            extra={
                "model": version.label,
                "model_fingerprint": version.manifest.fingerprint,
                "rows": report["good"],
                "quarantined": report["bad"],
            },
        )
        progress.note(f"{report['good']:,} rows by {version.label}")
    record.rows, record.bytes, record.plan = report["good"], manifest.size, engine.executed_plans()
    engine.add_record(record)
    return manifest, {**report, "quarantine": store.url(quarantine) if report["bad"] else ""}


def _good_rows(
    engine: Engine, version: ModelVersion, reader: Source, staging: str, quarantine: str, record: StageRecord
) -> DataFrame:
    from sparkml.ingest.stage import ingest

    store, bundle = engine.store, version.bundle
    context = ReadContext(spark=engine.spark, scratch_url=store.url(f"{staging}/checkpoint"), notes=record.notes)
    ingest(reader, context, store.url(f"{staging}/rows"))
    contract = ContractSettings.model_validate(bundle.contract)
    with store.stage() as bad:
        report = enforce(
            engine.spark.read.parquet(store.url(f"{staging}/rows")),
            contract,
            store.url(f"{staging}/good"),
            f"{bad.url}/rows",
            optional=frozenset({bundle.target["column"]}),
        )
        store.remove(quarantine)
        if report.bad:
            store.publish(
                bad,
                quarantine,
                kind="quarantine",
                fingerprint=record.fingerprint,
                lineage={"run_id": engine.run.run_id, "stage": "score"},
                extra={"rows": report.bad, "by_rule": report.by_rule},
            )
    report.verdict(store.url(quarantine))
    record.notes["contract"] = report.model_dump(mode="json")
    return engine.spark.read.parquet(store.url(f"{staging}/good"))


def _reader(settings: dict[str, Any], target: str) -> Source:
    """Build the source; where the files come without the target, it is not declared and not derived either."""
    source: Source = plugin_of("ingest.sources", "type", settings)
    if not source.lacks(target):
        return source
    lighter = {
        key: {name: item for name, item in settings.get(key, {}).items() if name != target} for key in ("columns", "derive")
    }
    return plugin_of("ingest.sources", "type", {**settings, **lighter})  # type: ignore[no-any-return]


def _with_paths(recorded: dict[str, Any], override: dict[str, Any], paths: list[str]) -> dict[str, Any]:
    settings = {**recorded, **override}
    if override.get("type", recorded["type"]) != recorded["type"]:
        settings = dict(override)
    if not paths:
        raise DataError("nothing to score: no input was given")
    plugin = plugin_of("ingest.sources", "type", settings)
    if "path" not in type(plugin.options).model_fields:
        raise ConfigError(
            f"the model was trained on the source {recorded['type']!r}, which reads no files",
            hint="say how to read the input: --source '{type: parquet}' or --source '{type: csv, columns: {...}}'",
        )
    return {**settings, "path": paths}
