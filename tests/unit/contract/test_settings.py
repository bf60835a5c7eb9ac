"""What a contract refuses before a JVM starts."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from sparkml.contract.settings import ContractSettings

REFUSED: dict[str, tuple[str, str]] = {
    "null in allowed": ("columns: {a: {allowed: [x, null]}}", "null is not a value; nullable: true allows it"),
    "nothing allowed": ("columns: {a: {allowed: []}}", "at least 1 item"),
    "a list in allowed": ("columns: {a: {allowed: [[1]]}}", "valid"),
    "bounds crossed": ("columns: {a: {min: 2, max: 1}}", "min 2 is above max 1"),
    "a boolean bound": ("columns: {a: {min: yes}}", "must be a number, a date or a text"),
    "a bound that is no number": ("columns: {a: {min: .nan}}", "must be a number, a date or a text"),
    "row bounds crossed": ("rows: {min: 9, max: 1}", "max 1 is below min 9"),
    "an empty check": ("checks: [{name: a, expr: ''}]", "at least 1 character"),
    "two checks of one name": ("checks: [{name: a, expr: x}, {name: a, expr: y}]", "two checks have the same name"),
    "a fraction above one": ("max_bad_fraction: 1.5", "less than or equal to 1"),
    "an unknown rule": ("columns: {a: {minn: 1}}", "did you mean 'min'"),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_wrong_settings_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ContractSettings.model_validate(yaml.safe_load(text))


@pytest.mark.parametrize(
    ("text", "value"),
    [("2026-03-02", "2026-03-02"), ("2026-03-02 10:30:00", "2026-03-02T10:30:00"), ("1", 1), ("1.0", 1.0), ("x", "x")],
)
def test_values_stay_what_yaml_reads_but_dates_are_text(text: str, value: Any) -> None:
    rule = ContractSettings.model_validate(yaml.safe_load(f"columns: {{a: {{min: {text}, allowed: [{text}]}}}}")).columns["a"]
    assert rule.min == value and type(rule.min) is type(value)
    assert rule.allowed == [value] and type(rule.allowed[0]) is type(value)


def test_booleans_and_numbers_in_a_list_of_values_stay_apart() -> None:
    rule = ContractSettings.model_validate({"columns": {"a": {"allowed": [True, 1, "1"]}}}).columns["a"]
    assert [type(value) for value in rule.allowed or []] == [bool, int, str]
