"""What the kernel tells about a link's socket, and what it is told at run time.

Linux only; elsewhere nothing is known, and records keep their full size.
"""

from __future__ import annotations

import fcntl
import socket
import sys
from struct import Struct
from typing import Final, NamedTuple

__all__ = ["TcpFacts", "set_low_water", "tcp_facts", "unsent_bytes"]

#: struct tcp_info of linux/tcp.h, up to tcpi_delivery_rate (Linux 4.9).
_SIZE: Final = 168
_FLAGS_AT: Final = 7
_RTT: Final = Struct("=I")
_RTT_AT: Final = 68
_RATE: Final = Struct("=Q")
_RATE_AT: Final = 160
#: tcpi_delivery_rate_app_limited, a bit field: the compiler begins at the end that the CPU does.
_APP_LIMITED: Final = 0x01 if sys.byteorder == "little" else 0x80
#: SIOCOUTQNSD of linux/sockios.h: bytes in the send queue that were not sent even once.
_OUT_QUEUE_NOT_SENT: Final = 0x894B
_INT: Final = Struct("=i")
_ZERO: Final = _INT.pack(0)


class TcpFacts(NamedTuple):
    """What TCP measured.

    Attributes:
        rtt_seconds: The smoothed round trip.
        bits_per_second: How fast the newest data was acknowledged.
        limited_by_us: Whether we had nothing more to send then: the path can do at least that.
    """

    rtt_seconds: float
    bits_per_second: float
    limited_by_us: bool


def tcp_facts(sock: socket.socket | None) -> TcpFacts | None:
    """Ask the kernel; None where it does not tell (tcp(7), TCP_INFO)."""
    if sock is None or sys.platform != "linux":
        return None
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SIZE)
    except OSError:
        return None
    if len(info) < _SIZE:
        return None
    (rtt,) = _RTT.unpack_from(info, _RTT_AT)
    (rate,) = _RATE.unpack_from(info, _RATE_AT)
    return TcpFacts(rtt / 1e6, rate * 8.0, bool(info[_FLAGS_AT] & _APP_LIMITED))


def set_low_water(sock: socket.socket | None, size: int) -> None:
    """Let the kernel ask for more only when less than ``size`` bytes wait unsent in it."""
    if sock is None or sys.platform != "linux":
        return
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, size)
    except OSError:
        pass  # the connection is ending


def unsent_bytes(sock: socket.socket) -> int:
    """Return how much the kernel holds that it has not sent yet; 1 where it does not tell.

    What is sent and unacknowledged does not count (``SIOCOUTQNSD``, linux/net/ipv4/tcp.c).
    """
    if sys.platform != "linux":
        return 1
    try:
        answer = fcntl.ioctl(sock, _OUT_QUEUE_NOT_SENT, _ZERO)
    except OSError:
        return 1
    unsent: int = _INT.unpack(answer)[0]
    return unsent
