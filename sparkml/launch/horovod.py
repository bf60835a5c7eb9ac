"""`horovod`: a Horovod ring (Gloo) among the ranks of a gang, for as long as the block runs."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections import defaultdict
from collections.abc import Iterator

from sparkml.launch.address import ANYWHERE, HERE, own_address
from sparkml.launch.worker import Worker

# how long a rank may come late to the ring, and to a collective, before it counts as stalled
_CONNECT_SECONDS = 120
_STALL_SECONDS = 3600
CYCLE_MS = 1.0  # the collectives of one step are few, and the next step waits for them
_POLL_SECONDS = 0.05  # how soon the rendezvous server notices that it shall end; its default is half a second


@contextlib.contextmanager
def horovod(worker: Worker, timeline: str | None = None, cycle_ms: float = CYCLE_MS) -> Iterator[None]:
    """Initialise Horovod among all ranks, shut it down afterwards. Every rank must enter.

    Rank 0 writes Horovod's trace of all collectives (for chrome://tracing) to the local path `timeline`. Every `cycle_ms`
    Horovod's thread wakes and asks the other ranks whether there is something to do, which costs even when there is not.

    Rank 0 runs Horovod's rendezvous server on the one address that the other ranks reach it by.
    """
    hosts = [block.decode() for block in worker.all_gather(worker.host.encode())]
    address, interface = own_address(HERE if len(set(hosts)) == 1 else ANYWHERE)
    with _rendezvous(worker, hosts, address) as where:
        host, port = json.loads(worker.all_gather(where)[0])
        os.environ.update(_settings(worker, hosts, (host, port), interface, cycle_ms))
        if timeline and worker.rank == 0:
            os.environ["HOROVOD_TIMELINE"] = timeline
        import horovod.tensorflow as hvd

        hvd.init()
        try:
            yield
        finally:
            hvd.shutdown()


@contextlib.contextmanager
def _rendezvous(worker: Worker, hosts: list[str], address: str) -> Iterator[bytes]:
    if worker.rank != 0:
        yield b""
        return
    from horovod.runner.common.util.hosts import get_host_assignments, parse_hosts
    from horovod.runner.http.http_server import RendezvousHandler, RendezvousHTTPServer

    # Horovod's own RendezvousServer listens on every interface of the host; this listens on one
    server = RendezvousHTTPServer((address, 0), RendezvousHandler, 0)
    counts = ",".join(f"{host}:{hosts.count(host)}" for host in dict.fromkeys(hosts))
    server.init(get_host_assignments(parse_hosts(counts), worker.size))
    thread = threading.Thread(target=server.serve_forever, args=(_POLL_SECONDS,), daemon=True)
    thread.start()
    try:
        yield json.dumps([address, server.server_address[1]]).encode()
    finally:
        server.shutdown()
        server.server_close()


def _settings(worker: Worker, hosts: list[str], server: tuple[str, int], interface: str, cycle_ms: float) -> dict[str, str]:
    by_local_rank: dict[int, list[int]] = defaultdict(list)
    for rank, host in enumerate(hosts):
        by_local_rank[hosts[:rank].count(host)].append(rank)
    same = by_local_rank[worker.local_rank]
    values = {
        "HOSTNAME": worker.host,
        "RANK": worker.rank,
        "SIZE": worker.size,
        "LOCAL_RANK": worker.local_rank,
        "LOCAL_SIZE": worker.local_size,
        "CROSS_RANK": same.index(worker.rank),
        "CROSS_SIZE": len(same),
        "GLOO_RENDEZVOUS_ADDR": server[0],
        "GLOO_RENDEZVOUS_PORT": server[1],
        "GLOO_IFACE": interface,
        "GLOO_TIMEOUT_SECONDS": _CONNECT_SECONDS,
        "CONTROLLER": "gloo",
        "CPU_OPERATIONS": "gloo",
        "CYCLE_TIME": cycle_ms,
        "STALL_SHUTDOWN_TIME_SECONDS": _STALL_SECONDS,
        "LOG_LEVEL": "error",
    }
    return {f"HOROVOD_{name}": str(value) for name, value in values.items()}
