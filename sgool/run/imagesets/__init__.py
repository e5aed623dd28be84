"""``sgool score RUN --distribution`` and ``--diversity``: scores of sets of a run's images."""

from __future__ import annotations

from sgool.run.imagesets.distribution import score_distribution
from sgool.run.imagesets.diversity import score_diversity
from sgool.run.imagesets.table import Table

__all__ = ["Table", "score_distribution", "score_diversity"]
