"""The contract's verdict on counts."""

from __future__ import annotations

from typing import Any

import pytest

from sparkml.contract.report import BadExample, ContractReport
from sparkml.errors import DataError


def report(good: int, bad: int, **changed: Any) -> ContractReport:
    settings: dict[str, Any] = {
        "rows": good + bad,
        "good": good,
        "bad": bad,
        "by_rule": {"min:age": bad} if bad else {},
        "examples": [BadExample(rules=["min:age"], raw="1,-1")] if bad else [],
        "columns": {},
        "max_bad_fraction": 0.25,
    }
    return ContractReport(**{**settings, **changed})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (report(2, 1), "1 of 3 rows (33.33%) break the contract, max_bad_fraction is 25.00%: min:age 1; for example '1,-1'"),
        (report(0, 1, max_bad_fraction=1.0), "no good rows are left of 1: min:age 1; for example '1,-1'"),
        (report(0, 0), "no good rows are left of 0"),
        (report(4, 1, problems=["one", "another"]), "the table breaks the contract: one; another"),
    ],
)
def test_a_broken_contract_stops_the_run_and_says_where_to_look(given: ContractReport, message: str) -> None:
    with pytest.raises(DataError) as caught:
        given.verdict("store/quarantine")
    assert caught.value.message == message
    assert caught.value.exit_code == 3
    assert caught.value.hint == ("look at the rows in store/quarantine" if given.bad else None)


@pytest.mark.parametrize("given", [report(3, 1), report(1, 0)])  # just at the limit, and nothing wrong
def test_within_bounds_it_is_silent(given: ContractReport) -> None:
    given.verdict("store/quarantine")
