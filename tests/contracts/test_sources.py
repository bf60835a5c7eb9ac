"""What every source promises; a new one is tested by being there."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from sparkml.errors import DataError
from sparkml.ingest.source import Source
from sparkml.plugins import load, names
from tests.contracts.options import guesses


@pytest.fixture(params=names("ingest.sources"))
def kind(request: pytest.FixtureRequest) -> Any:
    return load("ingest.sources", request.param)


def make(kind: Any, **changed: Any) -> Any:
    return kind(kind.Options.model_validate({**next(guesses(kind)), **changed}))


def test_is_a_documented_source(kind: Any) -> None:
    assert issubclass(kind, Source)
    assert kind.__doc__


def test_unknown_options_are_refused(kind: Any) -> None:
    with pytest.raises(ValidationError, match="no_such_option"):
        make(kind, no_such_option=1)


def test_identity_is_the_settings_without_where_the_files_lie(kind: Any) -> None:
    one = make(kind)
    assert json.loads(json.dumps(one.identity())) == make(kind).identity()
    assert one.identity()["source"] == one.plugin_name()
    assert "no/such/file" not in json.dumps(one.identity())
    assert make(kind, derive={"x": "1"}).identity() != one.identity()


def test_missing_files_are_named_without_a_jvm(kind: Any) -> None:
    source = make(kind)
    if "path" not in kind.Options.model_fields:
        assert source.files() == []
        return
    with pytest.raises(DataError, match="no/such/file does not exist"):
        source.files()


def test_files_of_the_user_need_no_fetching(kind: Any) -> None:
    source = make(kind)
    source.fetch()
    assert source.fetched()


def test_a_column_that_is_not_declared_is_not_lacking(kind: Any) -> None:
    assert make(kind).lacks("no such column") is False
