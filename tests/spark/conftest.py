"""Fixtures of the tests on a real local Spark."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.spark.tiny import Tiny, make_tiny


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    """A pipeline of 600 rows and one MLlib candidate."""
    return make_tiny(tmp_path)


@pytest.fixture
def tiny_with_net(tmp_path: Path) -> Tiny:
    """The same with a Keras candidate on two Horovod ranks."""
    return make_tiny(tmp_path, net=True)
