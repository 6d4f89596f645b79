"""Counting for Prometheus in plain integers: an observation costs a list access, and all else is
done when the figures are asked for. It knows no names but those it is given.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import (
    CollectorRegistry,
    CounterMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025),
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
ITEMS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)


class Histogram:
    """How often values fell between given bounds, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        """Begin with none; the last count is of what is above every bound."""
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def observe_all(self, values: list[float]) -> None:
        """Count many values at once, for less than one by one."""
        values.sort()
        below = 0
        for place, bound in enumerate(self.bounds):
            reached = bisect_right(values, bound)
            self.counts[place] += reached - below
            below = reached
        self.counts[-1] += len(values) - below
        self.total += sum(values)


class Histograms:
    """A family of histograms by the value of one label."""

    def __init__(self, name: str, what: str, label: str, bounds: Sequence[float] = SECONDS) -> None:
        """Begin with no label's."""
        self._name, self._what, self._label, self._bounds = name, what, label, bounds
        self._by_label: dict[str, Histogram] = {}

    def of(self, label: str) -> Histogram:
        """Give a label's histogram, the same one each time."""
        histogram = self._by_label.get(label)
        if histogram is None:
            histogram = self._by_label[label] = Histogram(self._bounds)
        return histogram

    def counts(self, prefix: str) -> list[int]:
        """Add up how often values fell between the bounds, where the label begins so."""
        found = [each.counts for label, each in self._by_label.items() if label.startswith(prefix)]
        return [sum(column) for column in zip([0] * (len(self._bounds) + 1), *found, strict=True)]

    def collect(self) -> Metric:
        """Describe all of them."""
        family = HistogramMetricFamily(self._name, self._what, labels=[self._label])
        names = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        for label, histogram in self._by_label.items():
            counts = [float(count) for count in accumulate(histogram.counts)]
            buckets = list(zip(names, counts, strict=True))
            family.add_metric([label], buckets, histogram.total)
        return family


class Counters:
    """A family of counters by the values of its labels."""

    def __init__(self, name: str, what: str, labels: Sequence[str]) -> None:
        """`name` is without the `_total` that it is exposed with."""
        self._name, self._what, self._labels = name, what, labels
        self._counts: dict[tuple[str, ...], int] = {}

    def add(self, labels: tuple[str, ...], count: int = 1) -> None:
        """Count."""
        self._counts[labels] = self._counts.get(labels, 0) + count

    def by_last_label(self) -> dict[str, int]:
        """Tell the counts by the last label, whatever the others are."""
        totals: dict[str, int] = {}
        for labels, count in self._counts.items():
            totals[labels[-1]] = totals.get(labels[-1], 0) + count
        return totals

    def collect(self) -> Metric:
        """Describe all of them."""
        family = CounterMetricFamily(self._name, self._what, labels=self._labels)
        for labels, count in self._counts.items():
            family.add_metric(labels, count)
        return family


class _Once(Collector):
    """Metrics as they are now."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """Yield each family once."""
        yield from self._metrics


def exposition(metrics: Iterable[Metric]) -> bytes:
    """Write metrics in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Once(list(metrics)))
    return generate_latest(registry)
