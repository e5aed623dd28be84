"""What `sgool edit` says at its end."""

from __future__ import annotations

from sgool.run.outcome import Outcome
from sgool.types import PairRecord


def summary(outcome: Outcome) -> list[str]:
    """Returns a line per method and image, where its images lie, and what is left to do."""
    lines: list[str] = []
    several = len({record.pair_id for record in outcome.records}) > 1
    for record in outcome.records:
        if record.status != "done":
            lines.append(f"failed: {record.method} {record.pair_id}: {record.error}")
            continue
        whose = f"{record.method} {record.pair_id}" if several else record.method
        calls = record.network_evaluations + record.network_backward_passes
        cost = f"{calls} network calls, {record.seconds:.0f} s"
        changed = _what_changed(record)
        lines.append(f"{whose}: {changed} ({cost})" if changed else f"{whose}: {cost}")
        lines.append(f"images: {outcome.run_dir / 'pairs' / record.method / record.pair_id}")
    return [*lines, *filter(None, [outcome.what_is_left()])]


def _what_changed(record: PairRecord) -> str:
    """The objective before and after, or that no update was better; empty for a method of the user's without one."""
    before, after = record.metrics.get("objective_initial"), record.metrics.get("objective")
    if before is None or after is None:
        return ""
    if record.best_step == 0:
        return (
            f"objective {before:.4g}, which none of {record.num_optimization_steps} updates made lower, so final.png "
            "is the starting point, the photo as the model gives it back. Try a larger optimization.lr or "
            "optimization.grad_clip_value, or optimization.gradient_rms=0.006"
        )
    digits = next((digits for digits in range(4, 10) if f"{before:.{digits}g}" != f"{after:.{digits}g}"), 4)
    change = f"{before:.{digits}g} → {after:.{digits}g} (lower is better)"
    return f"objective {change} at update {record.best_step} of {record.num_optimization_steps}"
