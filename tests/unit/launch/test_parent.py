from __future__ import annotations

import os
import subprocess
import sys

import pytest

from sparkml.launch.parent import ORPHANED


@pytest.mark.parametrize(("ancestor", "code"), [("None", 0), (str(os.getpid()), 0), ("4194305", ORPHANED)])
def test_a_process_whose_ancestor_is_gone_leaves_at_once(ancestor: str, code: int) -> None:
    words = f"from sparkml.launch.parent import die_with_parent; die_with_parent({ancestor})"
    assert subprocess.run([sys.executable, "-c", words], check=False).returncode == code
