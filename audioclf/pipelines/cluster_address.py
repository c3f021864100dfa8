"""Where the Ray cluster is that jobs run on; without Ray, which waits for minutes for one that is not there."""

import os
import socket

from audioclf.errors import ClusterError

VARIABLE = "RAY_ADDRESS"
KNOCK_S = 5
"""The longest that something may take to answer at the address."""

UNREACHABLE = (
    f"check that the cluster runs, that {VARIABLE} is its HOST:6379 (auto: the one on this machine) and that this is a "
    f"node of it; from elsewhere use ray job submit; without {VARIABLE} jobs start a cluster of their own"
)


def named() -> str | None:
    """The address of the cluster that a job was submitted to; None: each job starts one of its own."""
    address = os.environ.get(VARIABLE, "")
    return None if address in ("", "local") else address


def require(address: str) -> None:
    """Raise ClusterError where nothing answers at an address."""
    if fault := knock(address):
        raise unreachable(address, fault)


def unreachable(address: str, fault: str) -> ClusterError:
    """The error that says what a user may do about it."""
    return ClusterError(f"no connection to the Ray cluster at {VARIABLE}={address}: {fault}; {UNREACHABLE}")


def knock(address: str) -> str:
    """Why nothing answers at HOST:PORT; "" where something does, or the address is another."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdigit():
        return ""
    try:
        socket.create_connection((host.strip("[]"), int(port)), KNOCK_S).close()
    except (OSError, OverflowError) as error:
        return str(error)
    return ""
