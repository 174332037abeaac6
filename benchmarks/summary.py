"""What repeated samples say: median, spread, quantiles, ratios.  Pure functions, no measuring."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import attrs

__all__ = ["Summary", "quantile", "ratio", "summarise"]


@attrs.frozen
class Summary:
    """Samples of one quantity, in its unit.

    Attributes:
        median: the middle one.
        low: the least.
        high: the greatest.
        quartile_low: a quarter of them are at most this, by nearest rank.
        quartile_high: three quarters of them are.
        count: how many samples there are.
    """

    median: float
    low: float
    high: float
    quartile_low: float
    quartile_high: float
    count: int


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which ``share`` (0 to 1) of ``values`` lie, by nearest rank.

    Raises:
        ValueError: There are no values.
    """
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def summarise(values: Sequence[float]) -> Summary:
    """Return the summary of at least one sample.

    Raises:
        ValueError: There are no values.
    """
    if not values:
        raise ValueError("no values")
    return Summary(
        median=statistics.median(values),
        low=min(values),
        high=max(values),
        quartile_low=quantile(values, 0.25),
        quartile_high=quantile(values, 0.75),
        count=len(values),
    )


def ratio(value: float, base: float) -> float | None:
    """Return how many times ``base`` ``value`` is; None where that means nothing."""
    return value / base if base > 0 else None
