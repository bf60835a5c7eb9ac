"""Which of its addresses and network interfaces a host is reached by."""

from __future__ import annotations

import socket

HERE = "127.0.0.1"
ANYWHERE = "192.0.2.1"  # of the documentation network: stands for wherever the outward route leads


def own_address(peer: str) -> tuple[str, str]:
    """Return this host's IPv4 address on the route to `peer`, and the interface that has it. Sends nothing.

    Raises `OSError` when there is no such route or name.
    """
    import psutil

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((peer, 9))
        address = probe.getsockname()[0]
    for name, entries in psutil.net_if_addrs().items():
        if any(entry.family == socket.AF_INET and entry.address == address for entry in entries):
            return address, name
    return address, "lo"


def interface_to(peer: str) -> str | None:
    """Return the interface by which the host named `peer`, which may be this one, is reached; None if that is not known."""
    try:
        address, interface = own_address(peer)
        if address.startswith("127.") and not peer.startswith("127."):  # Debian resolves a host's own name to 127.0.1.1
            interface = own_address(ANYWHERE)[1]
    except OSError:
        return None
    return interface
