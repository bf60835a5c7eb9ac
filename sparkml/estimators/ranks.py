"""`OnRanks`: how an estimator has its work done by a gang of ranks in a Spark barrier stage, and shows their progress."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from pyspark.sql import SparkSession
from rich.console import Console

from sparkml.estimators.keras_params import HasGang
from sparkml.launch.barrier import BarrierGang, preflight, slots, task_profile
from sparkml.launch.gang import Report
from sparkml.launch.restart import Restart, run_with_restarts
from sparkml.launch.worker import Worker
from sparkml.observe.progress import Board


class OnRanks(HasGang):
    """`_on_report` gets every rank's progress, from another thread; None shows it on stderr if `_verbose`."""

    _on_report: Report | None = None
    _verbose = True

    def _sizes(self, spark: SparkSession, rows: int) -> tuple[int, int]:
        """Return how many ranks there should be, and how many there must be. Raises `LaunchError` for too few slots."""
        where = self.gang_options()
        profile = task_profile(spark, where.cpus_per_rank, where.gpus_per_rank)
        size = where.num_proc or max(1, min(slots(spark, profile), rows))
        least = min(size, where.min_proc or size)
        preflight(spark, least, profile)
        return size, least

    def _run(
        self, spark: SparkSession, fn: Callable[[Worker], bytes], sizes: tuple[int, int], report: Report
    ) -> tuple[bytes, list[Restart]]:
        """Return rank 0's answer. Raises what `run_with_restarts` raises."""
        where = self.gang_options()
        gang = BarrierGang(
            spark,
            log_dir=self._chosen("logDir"),
            on_report=report,
            stall_timeout=where.stall_timeout,
            cpus_per_rank=where.cpus_per_rank,
            gpus_per_rank=where.gpus_per_rank,
            env=where.rank_env,
        )

        def told(restart: Restart) -> None:
            report({"rank": 0, "restart": restart.attempt, "note": f"{restart.reason}; again with {restart.size} ranks"})

        size, least = sizes
        results, restarts = run_with_restarts(gang, fn, size, max_restarts=where.max_restarts, min_size=least, on_restart=told)
        return results[0], restarts

    @contextlib.contextmanager
    def _reports(self) -> Iterator[Report]:
        if self._on_report is not None or not self._verbose:
            yield self._on_report or (lambda _: None)
            return
        # one terminal has one live display: fits in threads (a tuner's) write lines
        own = threading.current_thread() is threading.main_thread()
        console = None if own else Console(stderr=True, force_terminal=False)
        with Board(console) as board, board.stage(type(self).__name__) as stage:
            yield stage.rank
