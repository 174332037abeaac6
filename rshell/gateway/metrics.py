"""Everything the gateway counts, in one place, for Prometheus.

Counters are incremented where things happen; gauges are read when somebody asks.  Nothing here is
labelled with what a peer chose: labels are this program's own words.
"""

from __future__ import annotations

import os
import resource
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from rshell.gateway.presence import State
from rshell.link.clock import TICK_SECONDS, TimerWheel, WheelTimer

if TYPE_CHECKING:
    from rshell.gateway.core import Gateway

__all__ = ["Metrics", "ReactorLag", "descriptor_limit", "descriptors_used"]

#: From "at once" to as long as anybody waits (rule P7).
_WAITS = (0.001, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
_LAG_EVERY_SECONDS = 1.0
#: How long the worst lag is shown: longer than any usual time between two scrapes.
_LAG_SHOWN_SECONDS = 60.0


def descriptor_limit() -> int:
    """Return how many files this process may have open (the soft RLIMIT_NOFILE)."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft != resource.RLIM_INFINITY else 1 << 20


def descriptors_used() -> int:
    """Count the open files; reads a directory, so not for every connection."""
    try:
        return len(os.listdir("/proc/self/fd")) - 1
    except OSError:
        return 0


class ReactorLag:
    """How late timers fire: what a turn of the reactor takes when it takes long.

    Args:
        wheel: The process's timers.
    """

    def __init__(self, wheel: TimerWheel) -> None:
        self._wheel = wheel
        self._due = 0.0
        self._timer: WheelTimer | None = None
        self._worst: list[tuple[float, float]] = []

    def start(self) -> None:
        """Begin to measure."""
        self._arm()

    def stop(self) -> None:
        """Measure no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def worst(self) -> float:
        """Return the longest lag, in seconds, of the last minute."""
        oldest = self._wheel.seconds() - _LAG_SHOWN_SECONDS
        self._worst = [(at, lag) for at, lag in self._worst if at >= oldest]
        return max((lag for _, lag in self._worst), default=0.0)

    def _arm(self) -> None:
        # The tick that the wheel will choose: being that late is no lag.
        wanted = self._wheel.seconds() + _LAG_EVERY_SECONDS
        self._due = (int(wanted / TICK_SECONDS) + 1) * TICK_SECONDS
        self._timer = self._wheel.call_later(_LAG_EVERY_SECONDS, self._fired)

    def _fired(self) -> None:
        now = self._wheel.seconds()
        self._worst.append((now, max(0.0, now - self._due)))
        self.worst()
        self._arm()


class Metrics:
    """The gateway's counters and gauges, on a registry of their own.

    Attributes:
        connections: Accepted TCP connections.
        connections_refused: By ``reason``: ``tls``, ``certificate``, ``timeout``, ``crowded``,
            ``descriptors``, ``admission``.
        strangers: Connections that are not known yet.
        handshakes: TLS handshakes that succeeded.
        admission_wait: Seconds that connections waited for their handshake to begin.
        links_refused: By ``code`` of the GOAWAY, of devices after TLS.
        displaced: Device links that a newer one replaced.
        clones: Alerts, by ``kind``.
        heartbeats_lost: Device links ended because nothing was heard.
        advices: Links that were told a new spread.
        streams_opened, streams_refused, streams_resumed, streams_parked: Of operators.
        sessions_limited: Ended by a limit of their operators' roles, by ``code``.
        sessions_watched: How often somebody began to watch one.
        joins: By ``result``: ``joined``, ``pending`` (asked first), ``polled`` (asked again),
            ``refused``, ``overload`` (too often), ``full`` (too many wait), ``accepted``,
            ``rejected``, ``expired``.
        bytes_relayed: Both directions, counted when a stream ends.
    """

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        counter = _Maker(registry)
        self.connections = counter("connections", "TCP connections accepted")
        self.connections_refused = counter(
            "connections_refused", "Connections dropped before they were known", "reason"
        )
        self.handshakes = counter("handshakes", "TLS handshakes completed")
        self.links_refused = counter("links_refused", "Device links refused or ended", "code")
        self.displaced = counter("links_displaced", "Device links replaced by a newer one")
        self.clones = counter("clone_alerts", "Suspected clones", "kind")
        self.heartbeats_lost = counter("heartbeats_lost", "Device links ended by silence")
        self.advices = counter("advices", "Links told a new reconnect spread")
        self.streams_opened = counter("streams_opened", "Streams opened on devices")
        self.streams_refused = counter("streams_refused", "Streams refused", "code")
        self.streams_resumed = counter("streams_resumed", "Streams opened to resume a session")
        self.streams_parked = counter("streams_parked", "Streams that waited for a device")
        self.sessions_limited = counter(
            "sessions_limited", "Sessions ended by a limit of a role", "code"
        )
        self.sessions_watched = counter("sessions_watched", "Times that a session was watched")
        self.joins = counter("joins", "What became of those that asked to join", "result")
        self.bytes_relayed = counter("bytes_relayed", "Bytes of finished streams, both ways")
        self.admission_wait = Histogram(
            "rshell_admission_wait_seconds",
            "How long connections waited for their handshake",
            buckets=_WAITS,
            registry=registry,
        )
        self.strangers = Gauge("rshell_strangers", "Connections not yet known", registry=registry)
        self._gauges: dict[str, Gauge] = {}

    def set(self, name: str, help_text: str, value: float) -> None:
        """Set a gauge, made at its first use."""
        gauge = self._gauges.get(name)
        if gauge is None:
            gauge = Gauge(f"rshell_{name}", help_text, registry=self.registry)
            self._gauges[name] = gauge
        gauge.set(value)

    def exposition(self, gateway: Gateway) -> str:
        """Return all of it in Prometheus' text format."""
        now = gateway.wheel.seconds()
        suspect = sum(live.state(now) is State.SUSPECT for live in gateway.presence)
        self.set("devices_live", "Devices with a link", len(gateway.presence))
        self.set("devices_suspect", "Of these, silent for too long", suspect)
        self.set("devices_pending", "Devices that wait to be accepted", gateway.pending.count)
        self.set("devices_expected", "Devices that may come back at once", gateway.fleet.size())
        self.set("admission_queue", "Connections that wait", len(gateway.admission))
        self.set("admission_rate", "Handshakes a second at most", gateway.admission.rate)
        self.set("admission_pace", "Of these it does, by the last storm", gateway.admission.pace)
        self.set("sessions", "Streams open to devices", len(gateway.switchboard))
        self.set("sessions_known", "Sessions that live on devices", len(gateway.sessions))
        self.set("store_writes_waiting", "Writes in the queue", gateway.store.writes_waiting)
        self.set("reactor_lag_seconds", "Worst of the last minute", gateway.lag.worst())
        self.set("descriptors_used", "Open files", descriptors_used())
        self.set("descriptors_limit", "Open files at most", descriptor_limit())
        certificates = gateway.certificates
        self.set(
            "certificate_seconds_left",
            "Until this gateway's certificate ends",
            certificates.seconds_left(),
        )
        self.set("revoked_gateways_list", "Number of the list told", certificates.revoked.number)
        return generate_latest(self.registry).decode()


class _Maker:
    """Makes counters of one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def __call__(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(f"rshell_{name}", help_text, labels, registry=self._registry)
