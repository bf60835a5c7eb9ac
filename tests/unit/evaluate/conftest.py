"""The demo report and the browser, from the files beside this one."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def demo() -> dict[str, Any]:
    """The names of demo_report.py: `measured`, `scores`, `demo_report`."""
    return runpy.run_path(str(HERE / "demo_report.py"))


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    names = runpy.run_path(str(HERE / "browser.py"))
    if names["CHROMIUM"] is None:
        pytest.skip("the report page is checked in a real browser: install chromium (apt install chromium)")
    browser = names["Browser"](tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()
