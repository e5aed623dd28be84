"""Resampling of weighted particles: which of k particles go on, and how often each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def systematic(weights: Tensor, generator: torch.Generator) -> Tensor:
    """One uniform number u places k points (i + u) / k on the weights laid end to end (Carpenter et al. 1999).

    Particle i is taken floor(k w_i) or floor(k w_i) + 1 times, k w_i on average.

    Args:
        weights: (k,), float64 on the CPU, not negative, with the sum 1.
        generator: On the CPU.

    Returns:
        (k,), numbers of particles in ascending order.
    """
    number = len(weights)
    points = (torch.arange(number) + torch.rand((), generator=generator, dtype=torch.float64)) / number
    return torch.searchsorted(weights.cumsum(0), points, right=True).clamp(max=number - 1)


def ssp(weights: Tensor, generator: torch.Generator) -> Tensor:
    """Srinivasan's sampling process (Gerber, Chopin and Whiteley 2019, algorithm 1).

    Particle i is taken floor(k w_i) times at least. Of the fractions that are left, two at a time exchange mass at
    random until one of them is 0 or 1, so that again each count is k w_i on average and never off by 1 or more.

    Args:
        weights: (k,), float64 on the CPU, not negative, with the sum 1.
        generator: On the CPU.

    Returns:
        (k,), numbers of particles in ascending order.
    """
    number = len(weights)
    expected = (number * weights).tolist()
    counts = [int(value) for value in expected]
    parts = [value - count for value, count in zip(expected, counts, strict=True)]
    draws = torch.rand(number, generator=generator, dtype=torch.float64).tolist()
    held, part = 0, parts[0]
    for other in range(1, number):
        a, b = part, parts[other]
        gain, loss = min(1 - a, b), min(a, 1 - b)
        if draws[other] * (gain + loss) < loss:  # the held one gains, with the chance that leaves both means alone
            settled, count, kept = (held, 1, b - gain) if 1 - a <= b else (other, 0, a + gain)
        else:
            settled, count, kept = (held, 0, b + loss) if a <= 1 - b else (other, 1, a - loss)
        counts[settled] += count
        held, part = (other if settled == held else held), kept
    # It is a whole number but for rounding.
    counts[held] += number - sum(counts)
    return torch.repeat_interleave(torch.arange(number), torch.tensor(counts))


def multinomial(weights: Tensor, generator: torch.Generator) -> Tensor:
    """K independent draws, as in the published code of FK steering; the counts vary most.

    Args:
        weights: (k,), float64 on the CPU, not negative, with the sum 1.
        generator: On the CPU.

    Returns:
        (k,), numbers of particles in ascending order.
    """
    return torch.multinomial(weights, len(weights), replacement=True, generator=generator).sort().values


RESAMPLERS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "systematic": systematic,
    "ssp": ssp,
    "multinomial": multinomial,
}


def normalised(log_weights: Sequence[float]) -> Tensor:
    """Returns weights (k,) with the sum 1, in float64, from their logarithms; all equal where none is finite.

    A particle with the logarithm minus infinity has the weight 0.
    """
    logs = torch.tensor(log_weights, dtype=torch.float64)
    if not bool(logs.isfinite().any()):
        return torch.full_like(logs, 1 / len(logs))
    return torch.softmax(logs, dim=0)


def effective_share(weights: Tensor) -> float:
    """Returns the effective sample size 1 / sum w_i^2 of normalised weights (k,), as a share of k, in [1/k, 1]."""
    return float(1 / weights.square().sum() / len(weights))
