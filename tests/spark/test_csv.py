"""CSV: every line of a file is a good row or a quarantined one with its very text; nothing is nulled or dropped."""

from __future__ import annotations

import gzip
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sparkml.errors import DataError
from sparkml.ingest.source import ReadContext
from sparkml.ingest.sources.csv import Csv
from sparkml.ingest.stage import ingest

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

COLUMNS = {"id": "bigint", "age": "double", "name": "string"}


def take(spark: SparkSession, folder: Path, data: bytes, name: str = "in.csv", **options: Any) -> tuple[list[Any], list[str]]:
    """Return the good rows (values by column order) and the raw text of the others."""
    path = folder / name
    path.write_bytes(data)
    source = Csv(Csv.Options.model_validate({"path": [str(path)], "columns": COLUMNS, **options}))
    target = f"file://{folder}/rows"
    ingest(source, ReadContext(spark=spark, scratch_url=f"file://{folder}/scratch"), target)
    rows = spark.read.parquet(target).collect()
    good = sorted((tuple(row[name] for name in source.options.columns) for row in rows if row["_corrupt"] is None), key=str)
    assert {row["_file"] for row in rows} == {name}
    return good, sorted(row["_corrupt"] for row in rows if row["_corrupt"] is not None)


ONE = (1, 1.5, "a")

LINES: dict[str, tuple[bytes, dict[str, Any], list[Any], list[str]]] = {
    "plain": (b"1,1.5,a\n2,,b\n", {}, [ONE, (2, None, "b")], []),
    "no end of the last line": (b"1,1.5,a\n2,2,b", {}, [ONE, (2, 2.0, "b")], []),
    "CRLF": (b"1,1.5,a\r\n2,2,b\r\n", {}, [ONE, (2, 2.0, "b")], []),
    "BOM": (b"\xef\xbb\xbf1,1.5,a\n", {}, [ONE], []),
    "BOM and header": (b"\xef\xbb\xbfid,age,name\n1,1.5,a\n", {"header": True}, [ONE], []),
    "a header in the middle": (b"id,age,name\n1,1.5,a\nid,age,name\n", {"header": True}, [ONE], ["id,age,name"]),
    "bad number, spaces kept": (b"1,1.5,a\n2, old , b\n", {}, [ONE], ["2, old , b"]),
    "bad integer": (b"1.5,1.5,a\n1,1.5,a\n", {}, [ONE], ["1.5,1.5,a"]),
    "integer too large": (b"9223372036854775808,1,a\n1,1.5,a\n", {}, [ONE], ["9223372036854775808,1,a"]),
    "missing field": (b"1,1.5,a\n2,2\n", {}, [ONE], ["2,2"]),
    "extra field": (b'1,1.5,a\n2,2,"b",x\n', {}, [ONE], ['2,2,"b",x']),
    "extra empty field": (b"1,1.5,a\n2,2,b,\n", {}, [ONE], ["2,2,b,"]),
    "unbalanced quote": (b'1,1.5,a\n2,"2,b\n3,3,c\n', {}, [ONE, (3, 3.0, "c")], ['2,"2,b']),
    "quote open at the end": (b'1,1.5,a\n2,2,"b\n3,3,c\n', {}, [ONE, (3, 3.0, "c")], ['2,2,"b']),
    "text after a quote": (b'1,1.5,"a"x\n2,"2"3,b\n', {}, [(1, 1.5, '"a"x')], ['2,"2"3,b']),
    "a quote inside": (b'1,1.5,5" pipe\n', {}, [(1, 1.5, '5" pipe')], []),
    "quoted delimiter": (b'1,1.5,"a,b"\n', {}, [(1, 1.5, "a,b")], []),
    "quoted quote": (b'1,1.5,"a ""b"""\n', {}, [(1, 1.5, 'a "b"')], []),
    "escaped quote": (b'1,1.5,"a \\"b\\", c"\n', {"escape": "\\"}, [(1, 1.5, 'a "b", c')], []),
    "blank lines": (b"1,1.5,a\n\n   \n2,2,b\n", {}, [ONE, (2, 2.0, "b")], []),
    "comments": (b"|a comment, with, commas, in it\n1,1.5,a\n", {"comment": "|"}, [ONE], []),
    "UTF-8": ("1,1.5,José\n".encode(), {}, [(1, 1.5, "José")], []),
    "latin-1 in UTF-8": (b"1,1.5,a\n2,2,Jos\xe9\n", {}, [ONE], ["2,2,José"]),
    "latin-1 declared": (b"1,1.5,Jos\xe9\n", {"encoding": "ISO-8859-1"}, [(1, 1.5, "José")], []),
    "UTF-8 in US-ASCII": (b"1,1.5,a\n2,2,\xc3\xa9\n", {"encoding": "US-ASCII"}, [ONE], ["2,2,Ã©"]),
    "NUL": (b"1,1.5,a\n\x002,2,b\n3,3,\x00\n4,4,x\x00y\n", {}, [ONE], ["\x002,2,b", "3,3,\x00", "4,4,x\x00y"]),
    "CR only": (b"1,1.5,a\r2,2,b\r", {}, [ONE, (2, 2.0, "b")], []),
    "the replacement character": ("1,1.5,a\ufffd\n".encode(), {}, [(1, 1.5, "a\ufffd")], []),
    "decimals that would be rounded": (
        b"1,1.23,a\n2,1.239,b\n3,1.230,c\n4,1234,d\n",
        {"columns": {"id": "bigint", "price": "decimal(5,2)", "name": "string"}},
        [(1, Decimal("1.23"), "a"), (3, Decimal("1.23"), "c")],
        ["2,1.239,b", "4,1234,d"],
    ),
    "control characters": (b"1,1.5,a\x01b\n2,x\x01,\x00\n", {}, [(1, 1.5, "a\x01b")], ["2,x\x01,\x00"]),
    "a long field": (b"1,1.5," + b"x" * 200_000 + b"\n", {}, [(1, 1.5, "x" * 200_000)], []),
    "null values": (b"1,NA,a\n2,null,b\n3,?,c\n", {}, [(1, None, "a"), (2, None, "b")], ["3,?,c"]),
    "own null values": (b"1,?,a\n2,NA,b\n", {"null_values": ["?"]}, [(1, None, "a")], ["2,NA,b"]),
    "spaces trimmed": (b"1 , 1.5 , a \n", {}, [ONE], []),
    "spaces kept": (b"1,1.5, a \n", {"trim": False}, [(1, 1.5, " a ")], []),
    "two-character delimiter": (b"1||1.5||a\n", {"delimiter": "||"}, [ONE], []),
    "tab": (b"1\t1.5\ta\n", {"delimiter": "\t"}, [ONE], []),
    "line ends in quotes": (
        b'1,1.5,"a\nb"\n2, old ,"c\nd"\n3,3\n4,4,"e\n",x\n5,5," ""f"",\n"\n',
        {"multiline": True},
        [(1, 1.5, "a\nb"), (5, 5.0, ' "f",\n')],
        ['2, old ,"c\nd"', "3,3", '4,4,"e\n",x'],
    ),
    "line ends in quotes: header, BOM and CRLF": (
        b'\xef\xbb\xbfid,"age",name\r\n\r\n1,1.5,"a\r\nb"\r\n2,2,5" pipe\r\n',
        {"multiline": True, "header": True},
        [(1, 1.5, "a\r\nb"), (2, 2.0, '5" pipe')],
        [],
    ),
    "line ends in quotes: comment, latin-1 and NUL": (
        b'# "\n1,1.5,"#\n"\n2,2,"Jos\xe9\n"\n3,3,"\x00\n"\n',
        {"multiline": True, "comment": "#"},
        [(1, 1.5, "#\n")],
        ['2,2,"José\n"', '3,3,"\x00\n"'],
    ),
    "line ends in quotes: escaped, tab": (
        b'1\t1.5\t"a\\"\n\tb"\n2\t"2"\t"c"\n',
        {"multiline": True, "escape": "\\", "delimiter": "\t"},
        [(1, 1.5, 'a"\n\tb'), (2, 2.0, "c")],
        [],
    ),
    "line ends in quotes: never closed": (
        b'1,1.5,a\n2,2,"b\n3,3,c\n',
        {"multiline": True},
        [ONE],
        ['2,2,"b\n3,3,c\n'],
    ),
    "NaN and infinity are numbers": (b"1,NaN,a\n2,Infinity,b\n", {}, [(1, float("nan"), "a"), (2, float("inf"), "b")], []),
}


@pytest.mark.parametrize(("data", "options", "good", "bad"), LINES.values(), ids=LINES.keys())
def test_every_line_is_a_row_or_in_quarantine_as_it_was(
    spark: SparkSession, tmp_path: Path, data: bytes, options: dict[str, Any], good: list[Any], bad: list[str]
) -> None:
    found, raw = take(spark, tmp_path, data, **options)
    assert str(found) == str(sorted(good, key=str))  # as text: NaN equals nothing
    assert raw == bad


def test_gzip_is_read_and_a_truncated_one_is_named(spark: SparkSession, tmp_path: Path) -> None:
    packed = gzip.compress(b"".join(b"%d,1.5,a\n" % n for n in range(5000)))
    found, _ = take(spark, tmp_path, packed, "in.csv.gz")
    assert len(found) == 5000
    (tmp_path / "cut").mkdir()
    for multiline in (False, True):
        with pytest.raises(DataError, match=r"in\.csv\.gz: the compressed file is truncated or damaged"):
            take(spark, tmp_path / "cut", packed[: len(packed) - 100], "in.csv.gz", multiline=multiline)


def test_files_are_read_apart(spark: SparkSession, tmp_path: Path) -> None:
    """An open quote or a header concerns its own file only."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text('id,age,name\n1,1.5,"a\n')
    (tmp_path / "in" / "b.csv").write_text('id,age,name\n2,2,"b\n"\n')
    options = {"path": [str(tmp_path / "in")], "columns": COLUMNS, "header": True, "multiline": True}
    rows = Csv(Csv.Options.model_validate(options)).read(ReadContext(spark=spark, scratch_url="")).collect()
    assert sorted((row["_file"], row["name"], row["_corrupt"]) for row in rows) == [
        ("a.csv", None, '1,1.5,"a\n'),
        ("b.csv", "b\n", None),
    ]


STARTS: dict[str, tuple[bytes, dict[str, Any], str]] = {
    "delimiter": (b"1;1.5;a\n", {}, "has 1 fields, 3 columns are declared; with delimiter ';' it has 3: is that the delimiter"),
    "too many columns": (b"1,1.5,a,b\n", {}, "has 4 fields, 3 columns are declared"),
    "renamed": (b"id,aeg,name\n1,1.5,a\n", {"header": True}, "age is missing .did you mean 'aeg'.*aeg is not declared"),
    "another order": (b"age,id,name\n1,1.5,a\n", {"header": True}, "the columns are in another order: age, id, name"),
    "no records": (b"\n\n", {}, "holds no records"),
    "only a comment": (b"#x\n", {"comment": "#"}, "holds no records"),
}


@pytest.mark.parametrize(("data", "options", "message"), STARTS.values(), ids=STARTS.keys())
def test_a_file_that_is_another_one_stops_at_its_first_record(
    spark: SparkSession, tmp_path: Path, data: bytes, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        take(spark, tmp_path, data, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": {"_corrupt": "string"}}, "may not be called"),
        ({"columns": {"_File": "string"}}, "may not be called"),
        ({"columns": {"id": "string", "ID": "string"}}, "'id' and 'ID' differ in case only"),
        ({"columns": {"a`b": "string"}}, "backtick"),
        ({"quote": ""}, "at least 1 character"),
        ({"quote": "''"}, "at most 1 character"),
        ({"delimiter": '"'}, "must differ"),
        ({"comment": ","}, "must differ"),
        ({"columns": {"a": "flaot"}}, "did you mean 'float'"),
        ({"encoding": "UTF-61"}, "UTF-8"),
        ({"columns": {}}, "at least 1"),
        ({"delimeter": ";"}, "delimeter"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Csv.Options.model_validate({"path": ["x"], "columns": COLUMNS, **options})
