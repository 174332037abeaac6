"""What the SSH door counts, for Prometheus: plain numbers, read when somebody asks.

As in ``rshell.gateway.metrics``, labels are this program's own words and nothing of a peer's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

__all__ = ["SshMetrics"]

_Labelled = tuple[str, ...]


class SshMetrics(Collector):
    """The counters of one door.

    Args:
        gauges: Returns the numbers of now, by name and label: ``connections`` by state,
            ``channels`` by kind, ``sources_waiting``.

    Attributes:
        logins: By outcome (``ok``, ``refused``) and method (``key``, ``certificate``, ``other``).
        penalties: By reason: ``failed``, ``grace``, ``nothing``.
        turned_away: Connections from sources that have to wait.
        channels: Opened, by kind.
        channels_refused: Before anything was asked of a device.
        bytes_in, bytes_out: As they came, and packets' payloads as they went.
        handshakes: Connections that came as far as keys and a login.
        handshake_seconds: Processor time of all connections before their login.
    """

    def __init__(self, gauges: Callable[[], Mapping[str, Mapping[str, float]]]) -> None:
        self._gauges = gauges
        self.logins: Counter[_Labelled] = Counter()
        self.penalties: Counter[_Labelled] = Counter()
        self.turned_away = 0
        self.channels: Counter[_Labelled] = Counter()
        self.channels_refused = 0
        self.bytes_in = self.bytes_out = 0
        self.handshakes = 0
        self.handshake_seconds = 0.0

    def collect(self) -> Iterator[Metric]:
        now = self._gauges()
        for name, text, label in (
            ("connections", "SSH connections now", "state"),
            ("channels", "SSH channels open now", "kind"),
        ):
            gauge = GaugeMetricFamily(f"rshell_ssh_{name}", text, labels=[label])
            for value, number in now[name].items():
                gauge.add_metric([value], number)
            yield gauge
        waiting = sum(now["sources_waiting"].values())
        text = "Sources of SSH connections that owe time"
        yield GaugeMetricFamily("rshell_ssh_sources_waiting", text, value=waiting)
        yield _family("logins", "SSH logins", ("outcome", "method"), self.logins)
        yield _family("penalties", "Times added to sources", ("reason",), self.penalties)
        yield _family("channels_opened", "SSH channels opened", ("kind",), self.channels)
        for name, text, count in (
            ("turned_away", "Connections of sources that have to wait", self.turned_away),
            ("channels_refused", "SSH channels refused by the door", self.channels_refused),
            ("handshakes", "SSH connections that logged in", self.handshakes),
            (
                "handshake_cpu_seconds",
                "Processor time of connections before their login",
                self.handshake_seconds,
            ),
        ):
            yield _family(name, text, (), {(): count})
        moved: dict[_Labelled, float] = {("in",): self.bytes_in, ("out",): self.bytes_out}
        yield _family("bytes", "Bytes of SSH packets", ("direction",), moved)


def _family(
    name: str, text: str, labels: _Labelled, counts: Mapping[_Labelled, float]
) -> CounterMetricFamily:
    family = CounterMetricFamily(f"rshell_ssh_{name}", text, labels=labels)
    for values, count in sorted(counts.items()):
        family.add_metric(values, count)
    return family
