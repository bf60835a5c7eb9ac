"""`ProcessGang`: ranks as child processes of this one, without Spark."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

import cloudpickle

from sparkml.errors import LaunchError
from sparkml.launch.child import Place
from sparkml.launch.gang import Gang, Hub
from sparkml.launch.supervise import RankAbortedError, cores_of, run_rank
from sparkml.launch.worker import Worker


class ProcessGang(Gang):
    """All ranks on this host. The same child processes as under Spark, for unit tests and for one machine."""

    def run(self, fn: Callable[[Worker], bytes], size: int) -> list[bytes]:
        if size < 1:
            raise LaunchError(f"a gang needs at least one rank, {size} were asked for")
        code = cloudpickle.dumps(fn)
        hub = Hub(size, self.log_dir, self.on_report, self.stall_timeout)
        host = socket.gethostname()
        results: dict[int, bytes] = {}

        def rank(number: int) -> None:
            cores, share = cores_of(number, size, pin=self.pin)
            place = Place(number, size, number, size, host, cores, share)
            hub.joined(number, host)
            with contextlib.suppress(RankAbortedError):
                results[number] = run_rank(code, place, hub, self.stall_timeout, self.env)

        threads = [threading.Thread(target=rank, args=(number,), daemon=True) for number in range(size)]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            hub.abort()  # nothing is left to stop unless we were interrupted
            for thread in threads:
                thread.join()
            hub.close()
        failure = hub.failure
        if failure is not None:
            raise failure.as_error()
        return [results[number] for number in range(size)]
