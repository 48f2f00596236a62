"""Imported by every Python that has this folder on its path: nothing but this machine is reached.

Connections are refused, and written down as well: code that takes the refusal for a bad network
would hide it. Unix sockets are fine. What connects without Python's sockets isn't seen.
"""

import ipaddress
import os
import sys
from typing import Any

#: Names the file that refused connections are appended to.
LOG = "OFFLINE_LOG"

_EVENTS = {
    "socket.connect": 1,
    "socket.sendto": 1,
    "socket.sendmsg": 1,
    "socket.getaddrinfo": 0,
    "socket.gethostbyname": 0,
}


def _here(host: Any) -> bool:
    """Whether a host is this machine; None is what sockets without one have."""
    text = host.decode() if isinstance(host, bytes) else host
    if text in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(text.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    place = _EVENTS.get(event)
    if place is None:
        return
    target = arguments[place]
    # The address of an Internet socket is a tuple, of a Unix socket a path.
    if event not in ("socket.getaddrinfo", "socket.gethostbyname"):
        target = target[0] if isinstance(target, tuple) else None
    if _here(target):
        return
    if LOG in os.environ:
        with open(os.environ[LOG], "a", encoding="utf-8") as log:  # noqa: PTH123 - at start-up
            log.write(f"{event} {target!r} in {' '.join(sys.argv)[:200]!r}\n")
    raise ConnectionRefusedError(f"tests have no network: {event} {target!r}")


sys.addaudithook(_watch)
