"""Families of samples for Prometheus, named and labelled in one way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)

from proxy.tallies import Histogram

namespace: Final = "moonhost"

Labels = tuple[str, ...]
Samples = Iterable[tuple[Labels, float]]


def gauge(name: str, text: str, labels: Labels, samples: Samples) -> GaugeMetricFamily:
    """Make a gauge; each sample has as many label values as there are `labels`."""
    family = GaugeMetricFamily(f"{namespace}_{name}", text, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def counter(name: str, text: str, labels: Labels, samples: Samples) -> CounterMetricFamily:
    """Make a counter; ``_total`` is added to its name."""
    family = CounterMetricFamily(f"{namespace}_{name}", text, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def histogram(
    name: str, text: str, labels: Labels, samples: Iterable[tuple[Labels, Histogram]]
) -> HistogramMetricFamily:
    """Make a histogram."""
    family = HistogramMetricFamily(f"{namespace}_{name}", text, labels=labels)
    for values, taken in samples:
        family.add_metric(values, taken.buckets(), taken.sum)
    return family


def info(name: str, text: str, labels: Labels, samples: Iterable[Labels]) -> InfoMetricFamily:
    """Make samples that are always 1 and whose labels tell something; ``_info`` is added."""
    family = InfoMetricFamily(f"{namespace}_{name}", text, labels=labels)
    for values in samples:
        family.add_metric(values, {})
    return family


def by_reason(counts: Mapping[Any, float], expected: Iterable[str] = ()) -> Samples:
    """Give a sample for each reason: those that are expected at least with 0."""
    values = dict.fromkeys(map(str, expected), 0.0) | {
        str(reason): float(count) for reason, count in counts.items()
    }
    return [((reason,), value) for reason, value in sorted(values.items())]


def unlabelled(value: float) -> Samples:
    """Give the one sample of a family without labels."""
    return [((), value)]
