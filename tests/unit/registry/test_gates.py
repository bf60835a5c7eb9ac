"""Selection and the champion rule on numbers that can be checked by eye."""

from __future__ import annotations

import pytest

from sparkml.errors import GateError
from sparkml.registry.gates import Candidate, Gate, RegisterSettings, decide, passes, select

A = Candidate("a", {"accuracy": 0.95, "log_loss": 0.30})
B = Candidate("b", {"accuracy": 0.97, "log_loss": 0.40})


def test_the_best_by_the_metric_and_its_direction() -> None:
    settings = RegisterSettings()
    assert select([A, B], settings, "accuracy", True).name == "b"
    assert select([A, B], settings, "log_loss", False).name == "a"


def test_a_gate_takes_the_better_one_out() -> None:
    assert select([A, B], RegisterSettings(gates=[Gate(metric="log_loss", max=0.35)]), "accuracy", True).name == "a"


def test_no_candidate_left_names_every_bound() -> None:
    with pytest.raises(GateError) as caught:
        select([A, B], RegisterSettings(gates=[Gate(metric="accuracy", min=0.99)]), "accuracy", True)
    assert "a: accuracy 0.9500 is below 0.99" in str(caught.value)
    assert "b: accuracy 0.9700 is below 0.99" in str(caught.value)
    assert caught.value.exit_code == 7


def test_a_metric_that_is_not_a_number_fails_its_gate() -> None:
    assert passes(Candidate("c", {"auc": float("nan")}), [Gate(metric="auc", min=0.5)])
    assert passes(Candidate("c", {}), [Gate(metric="auc", max=0.5)])


@pytest.mark.parametrize(
    ("difference", "greater", "outcome"),
    [
        (None, True, "champion"),
        ((0.02, 0.01, 0.03), True, "champion"),
        ((0.02, -0.01, 0.03), True, "challenger"),
        ((-0.02, -0.03, -0.01), True, "rejected"),
        ((-0.02, -0.03, -0.01), False, "champion"),
        ((0.0, 0.0, 0.0), True, "challenger"),
    ],
)
def test_only_a_difference_beyond_chance_moves_the_champion(difference, greater: bool, outcome: str) -> None:  # type: ignore[no-untyped-def]
    champion = None if difference is None else "m@1"
    assert decide("a", "accuracy", champion, difference, greater).outcome == outcome


def test_a_candidate_without_the_metric_never_wins() -> None:
    unknown = Candidate("svc", {"accuracy": 0.9, "log_loss": float("nan")})
    assert select([unknown, B, A], RegisterSettings(), "log_loss", False).name == "a"
    with pytest.raises(GateError, match="no candidate has a value of log_loss"):
        select([unknown], RegisterSettings(), "log_loss", False)
