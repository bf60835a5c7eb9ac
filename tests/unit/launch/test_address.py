from __future__ import annotations

import pytest

from sparkml.launch import address
from sparkml.launch.address import ANYWHERE, HERE, interface_to, own_address

ROUTES = {HERE: (HERE, "lo"), "10.0.0.2": ("10.0.0.1", "eth1"), "this-host": (HERE, "lo"), ANYWHERE: ("192.168.0.1", "eth0")}


def test_the_loopback_is_found_by_its_own_address() -> None:
    assert own_address(HERE)[0] == HERE


@pytest.mark.parametrize(
    ("peer", "interface"),
    [
        (HERE, "lo"),  # all ranks are on this host
        ("10.0.0.2", "eth1"),
        ("this-host", "eth0"),  # resolved to 127.0.1.1 here, to something else by the others
        ("nobody", None),
    ],
)
def test_the_interface_is_that_of_the_route(peer: str, interface: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def route(name: str) -> tuple[str, str]:
        if name not in ROUTES:
            raise OSError("no such name")
        return ROUTES[name]

    monkeypatch.setattr(address, "own_address", route)
    assert interface_to(peer) == interface
