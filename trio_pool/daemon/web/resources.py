"""What the system says of this process, by Prometheus' own names."""

from __future__ import annotations

from prometheus_client.process_collector import ProcessCollector

from trio_pool.daemon.seen import ResourceSeen


class Resources:
    """Of this process. `read` looks into files: call it in a thread."""

    def __init__(self) -> None:
        self._collector = ProcessCollector(registry=None)

    def read(self) -> list[ResourceSeen]:
        """One per metric; none where the system does not tell like Linux."""
        return [
            ResourceSeen(metric.name, metric.type, metric.documentation, metric.samples[0].value)
            for metric in self._collector.collect()
        ]
