"""Counting for Prometheus."""

import random

from app.infra.telemetry import SECONDS, Counters, Histogram, Histograms, exposition


def test_a_value_counts_up_to_and_with_its_bound() -> None:
    histogram = Histogram((1, 2, 5))
    for value in (0, 1, 1.5, 2, 3, 5, 6):
        histogram.observe(value)
    assert histogram.counts == [2, 2, 2, 1]
    assert histogram.total == 18.5


def test_many_at_once_count_as_one_by_one_do() -> None:
    for seed in range(50):
        draw = random.Random(seed)
        values = [draw.choice((*SECONDS, draw.expovariate(10))) for _ in range(draw.randrange(40))]
        together, apart = Histogram(SECONDS), Histogram(SECONDS)
        for value in values:
            apart.observe(value)
        together.observe_all(values)
        assert together.counts == apart.counts, seed
        assert abs(together.total - apart.total) < 1e-9


def test_what_is_exposed_adds_up() -> None:
    histograms = Histograms("took_seconds", "How long", "step", (1, 2))
    for value in (0.5, 1.5, 9):
        histograms.of("admit").observe(value)
    counters = Counters("refused", "Why", ("code",))
    counters.add(("short",))
    counters.add(("short",), 2)
    text = exposition([histograms.collect(), counters.collect()]).decode()
    assert 'took_seconds_bucket{le="1.0",step="admit"} 1.0' in text
    assert 'took_seconds_bucket{le="2.0",step="admit"} 2.0' in text
    assert 'took_seconds_bucket{le="+Inf",step="admit"} 3.0' in text
    assert 'took_seconds_sum{step="admit"} 11.0' in text
    assert 'refused_total{code="short"} 3.0' in text
