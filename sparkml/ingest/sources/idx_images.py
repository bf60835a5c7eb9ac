"""Images and labels in IDX files, gzipped or not, as Fashion-MNIST and MNIST are published.

Format: http://yann.lecun.com/exdb/mnist (two zero bytes, type code 8 for uint8, number of dimensions, then each dimension as a
big-endian 32-bit integer, then the values row-major).
"""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa
from pydantic import Field

from sparkml.errors import DataError
from sparkml.ingest.source import FileOptions, ReadContext, Source, with_source_columns
from sparkml.storage import opened

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_NAME = re.compile(r"(?P<part>.+?)[-.](?P<what>images|labels)[-.]idx(?P<dimensions>[13])-ubyte(?:\.gz)?")
_COLUMNS = "id bigint, part string, image binary, height int, width int, label int, _file string"
_BLOCK = 1024  # images that a task hands to Spark at a time
_MAGIC = {1: b"\x00\x00\x08\x01", 3: b"\x00\x00\x08\x03"}


class IdxImagesOptions(FileOptions):
    """Files are paired by name: ``train-images-idx3-ubyte.gz`` with ``train-labels-idx1-ubyte.gz``; others are left alone."""

    images_per_task: int = Field(10_000, ge=1, description="a gzip is read from its start by every task, so not too few")


@dataclass(frozen=True)
class _Pair:
    """An images file and its labels file."""

    part: str
    images: str
    labels: str
    first_id: int = 0
    count: int = 0
    height: int = 0
    width: int = 0


class IdxImages(Source):
    """One row per image: ``id``, ``part`` (``train``, ``t10k``), ``image`` (uint8, row-major), ``height``, ``width``, ``label``.

    ``id`` counts the images of all pairs, in the order of the parts' names.
    """

    Options = IdxImagesOptions

    def files(self) -> list[str]:
        found = super().files()
        named = [path for path in found if _NAME.fullmatch(path.rpartition("/")[2])]
        if not named:
            raise DataError(
                f"none of {len(found)} files is named like an IDX file: {', '.join(found[:3])}",
                hint="names are PART-images-idx3-ubyte[.gz] and PART-labels-idx1-ubyte[.gz]",
            )
        return named

    def read(self, context: ReadContext) -> DataFrame:
        pairs, next_id = [], 0
        for pair in _paired(self.files()):
            measured = _measured(pair, next_id)
            next_id += measured.count
            pairs.append(measured)
        step = self.options.images_per_task
        tasks = [(pair, start, min(step, pair.count - start)) for pair in pairs for start in range(0, pair.count, step)]
        spark = context.spark
        numbers = spark.range(0, len(tasks), 1, len(tasks))

        def images(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            for batch in batches:
                for number in batch.column(0).to_pylist():
                    yield from _read_images(*tasks[number])

        context.notes["idx_pairs"] = [{"part": p.part, "images": p.count, "height": p.height, "width": p.width} for p in pairs]
        return with_source_columns(numbers.mapInArrow(images, _COLUMNS))


def _paired(files: list[str]) -> list[_Pair]:
    by_part: dict[str, dict[str, str]] = {}
    for path in files:
        match = _NAME.fullmatch(path.rpartition("/")[2])
        assert match is not None
        kinds = by_part.setdefault(match["part"], {})
        if match["what"] in kinds:
            raise DataError(f"two {match['what']} files for {match['part']!r}: {kinds[match['what']]} and {path}")
        kinds[match["what"]] = path
    for part, kinds in by_part.items():
        for what in ("images", "labels"):
            if what not in kinds:
                raise DataError(f"{next(iter(kinds.values()))} has no {what} file beside it ({part}-{what}-idx...)")
    return [_Pair(part, kinds["images"], kinds["labels"]) for part, kinds in sorted(by_part.items())]


def _open(path: str) -> IO[bytes]:
    fs, inside = opened(path)
    raw = fs.open(inside, "rb")
    return gzip.GzipFile(fileobj=raw) if path.endswith(".gz") else raw  # type: ignore[return-value, no-any-return]


def _header(file: IO[bytes], path: str, dimensions: int) -> tuple[int, ...]:
    start = _exactly(file, 4 + 4 * dimensions, path)
    if start[:4] != _MAGIC[dimensions]:
        raise DataError(f"{path} is not an IDX file of {dimensions} dimensions of bytes: it starts with {start[:4].hex(' ')}")
    return struct.unpack(f">{dimensions}I", start[4:])


def _exactly(file: IO[bytes], size: int, path: str) -> bytes:
    try:
        block = file.read(size)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise DataError(f"{path}: the compressed file is truncated or damaged") from None
    if len(block) < size:
        raise DataError(f"{path} ends too early: {size - len(block):,} bytes are missing")
    return block


def _measured(pair: _Pair, first_id: int) -> _Pair:
    """Read both headers; the counts must be equal."""
    with _open(pair.images) as images, _open(pair.labels) as labels:
        count, height, width = _header(images, pair.images, 3)
        (labelled,) = _header(labels, pair.labels, 1)
    if count != labelled:
        raise DataError(f"{pair.images} has {count:,} images, {pair.labels} has {labelled:,} labels")
    return _Pair(pair.part, pair.images, pair.labels, first_id, count, height, width)


def _read_images(pair: _Pair, start: int, count: int) -> Iterator[pa.RecordBatch]:
    """Yield `count` images from the one at `start`; the task that has the last ones checks that the files end there."""
    size = pair.height * pair.width
    with _open(pair.images) as images, _open(pair.labels) as labels:
        _header(images, pair.images, 3)
        _header(labels, pair.labels, 1)
        images.seek(16 + start * size)
        labels.seek(8 + start)
        for begin in range(start, start + count, _BLOCK):
            rows = min(_BLOCK, start + count - begin)
            pixels = pa.py_buffer(_exactly(images, rows * size, pair.images))
            found = _exactly(labels, rows, pair.labels)
            yield _batch(pair, begin, rows, pa.FixedSizeBinaryArray.from_buffers(pa.binary(size), rows, [None, pixels]), found)
        if start + count == pair.count:
            for file, path in ((images, pair.images), (labels, pair.labels)):
                if _more(file, path):
                    raise DataError(f"{path} is longer than its header says ({pair.count:,} items)")


def _more(file: IO[bytes], path: str) -> bool:
    try:
        return bool(file.read(1))  # for a gzip, this is also where its checksum is compared
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise DataError(f"{path}: the compressed file is truncated or damaged") from None


def _batch(pair: _Pair, begin: int, rows: int, pixels: Any, labels: bytes) -> pa.RecordBatch:
    first = pair.first_id + begin
    return pa.RecordBatch.from_arrays(
        [
            pa.array(range(first, first + rows), pa.int64()),
            pa.array([pair.part] * rows, pa.string()),
            pixels.cast(pa.binary()),
            pa.array([pair.height] * rows, pa.int32()),
            pa.array([pair.width] * rows, pa.int32()),
            pa.array(list(labels), pa.int32()),
            pa.array([pair.images.rpartition("/")[2]] * rows, pa.string()),
        ],
        names=["id", "part", "image", "height", "width", "label", "_file"],
    )
