from __future__ import annotations

import io
import time

from rich.console import Console

from sparkml.observe.progress import Board

EPOCH = {
    "epochs": 8,
    "epoch": 3,
    "loss": 0.25,
    "rows_per_second": 12345.6,
    "step_ms": 25.04,
    "data_share": 0.01,
    "wait_share": 0.2,
}


def shown(*reports: dict[str, object], live: bool = False) -> str:
    out = io.StringIO()
    with Board(Console(file=out, force_terminal=live, width=150)) as board, board.stage("train.net") as stage:
        for report in reports:
            stage.rank({"rank": 0, **report})
    return out.getvalue()


def test_an_epoch_is_one_line_for_a_person() -> None:
    text = shown(EPOCH)
    assert "train.net epoch 3/8  loss 0.25  12,346 rows/s  25.0 ms/step  waits 20%" in text
    assert "data" not in text  # one per cent is not worth a look


def test_only_the_first_rank_writes_lines_and_steps_write_none() -> None:
    text = shown({**EPOCH, "rank": 1}, {**EPOCH, "step": 5, "steps": 10})
    assert "loss" not in text


def test_stragglers_and_restarts_are_told() -> None:
    slow = "rank 1 on b computes 1.6 times as long as the median rank"
    text = shown({**EPOCH, "stragglers": [slow]}, {"note": "rank 1 was killed; again with 2 ranks", "restart": 1})
    assert f"train.net straggler: {slow}" in text and "train.net: rank 1 was killed; again with 2 ranks" in text


def test_on_a_terminal_every_rank_has_its_bar() -> None:
    text = shown({**EPOCH, "step": 5, "steps": 10}, {**EPOCH, "rank": 1, "step": 4, "steps": 10}, live=True)
    assert "train.net rank 0" in text and "train.net rank 1" in text and "epoch 4/8" in text


def test_what_spark_lost_is_told_while_a_stage_runs_and_at_its_end() -> None:
    out, news = io.StringIO(), [["executor 1 was lost: exit code 137"]]
    with Board(Console(file=out, force_terminal=False, width=150)) as board:
        board.watch_spark(lambda: (0, 0), lambda: news.pop() if news else [])
        with board.stage("features"):
            time.sleep(0.7)
            assert "warning: executor 1 was lost: exit code 137" in out.getvalue()
            news.append(["executor 2 was lost: preempted"])
        with board.stage("train"):
            pass
    text = out.getvalue()
    assert text.index("executor 2 was lost") < text.index("train ...")


def test_a_dead_jvm_ends_no_stage() -> None:
    def gone() -> list[str]:
        raise ConnectionError("Answer from Java side is empty")

    out = io.StringIO()
    with Board(Console(file=out, force_terminal=False)) as board:
        board.watch_spark(lambda: (0, 0), gone)
        with board.stage("features"):
            pass
    assert "features done" in out.getvalue()
