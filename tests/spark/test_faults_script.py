"""`scripts/faults/deep.py` injects what it says, and its exit code tells. Every fault of it: see `docs/reliability.md`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_killed_rank_and_a_torn_checkpoint_are_survived(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "faults" / "deep.py"), "--quick", "--markdown", str(tmp_path / "table.md")]
    ended = subprocess.run(
        [*command, "--only", "kill-rank", "torn-checkpoint"],
        capture_output=True,
        text=True,
        timeout=540,
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr[-4000:]}"
    table = (tmp_path / "table.md").read_text()
    assert table.strip() == ended.stdout.strip()
    killed, torn = table.strip().splitlines()[2:]
    assert "(`kill-rank`)" in killed and "rank 1 on HOST was killed by signal 9 (SIGKILL)" in killed
    assert "(`torn-checkpoint`)" in torn and ".npz is not used: the checkpoint is torn" in torn
    assert killed.endswith("| yes |") and torn.endswith("| yes |")
    assert str(tmp_path) not in table
    assert [file.name for file in tmp_path.iterdir()] == ["table.md"], "the script cleans up after itself"
