"""What the machine does while a stage runs: MLflow's own monitors, logged like every other metric.

In: where to log, and how often.  Out: metrics named `system/...`, which MLflow shows on a page of their own.

MLflow's monitoring thread asks the server before each sample and ends at the first failure; this one never talks to it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from pipeline.tracking.writer import SYSTEM


class SystemMetrics:
    """Samples until `finish`."""

    def __init__(self, log: Callable[[Mapping[str, float], int], None], *, interval_s: float, uri: str) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self._log, self._interval_s = log, interval_s
        self._monitors = SystemMetricsMonitor("", tracking_uri=uri).monitors  # without one it makes a store here
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="system-metrics", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """No sample after this."""
        self._ended.set()
        self._thread.join()

    def _work(self) -> None:
        step = 0
        while not self._ended.wait(self._interval_s):
            values: dict[str, float] = {}
            for monitor in self._monitors:
                monitor.collect_metrics()
                values |= monitor.aggregate_metrics()
                monitor.clear_metrics()
            self._log({SYSTEM + name: value for name, value in values.items()}, step)
            step += 1
