"""Whether anybody is there under a cluster's address, before Ray is asked.

In: `runtime.address`.  Out: nothing, or a `ValueError` of one line.
"""

from __future__ import annotations

import socket

_ANSWER_S = 30.0


def require_listener(address: str) -> None:
    """Where nothing listens, Ray itself goes on trying for more than ten minutes."""
    host, found, port = address.rpartition("://")[2].rpartition(":")
    if not found or not port.isdigit():
        return  # such as `auto`: Ray looks it up
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise no_cluster(address, str(error)) from error


def no_cluster(address: str, reason: str) -> ValueError:
    """One line for the user."""
    return ValueError(
        f"runtime.address: no Ray cluster answers at {address!r} ({reason}): start one, correct the address, or leave "
        "it unset for a private cluster"
    )
