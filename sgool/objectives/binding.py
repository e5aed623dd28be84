"""Checks of all pairs of a run before its first network call: whether an objective can be bound to each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from sgool.errors import ConfigError, SgoolError
from sgool.objectives.settings import SaliencySettings
from sgool.objectives.terms import Term
from sgool.types import PromptSeed

_MOST_PROBLEMS = 20


def binding_problems(
    terms: Mapping[str, Term], saliency: SaliencySettings | None, pairs: Sequence[PromptSeed]
) -> list[str]:
    """Returns a sentence for each pair that a term or the saliency detector cannot be bound to; each sentence once.

    A term or detector that has a method ``problems(pairs)`` is asked; any other is bound to each pair alone.
    """
    found: dict[str, None] = {}
    for term in terms.values():
        found |= dict.fromkeys(_problems(term, term.targets, pairs))
    bind = getattr(saliency and saliency.detector, "bind", None)
    if saliency is not None and bind is not None:
        found |= dict.fromkeys(_problems(saliency.detector, bind, pairs))
    return list(found)


def check_binding(terms: Mapping[str, Term], saliency: SaliencySettings | None, pairs: Sequence[PromptSeed]) -> None:
    """Refuses pairs that an objective cannot be bound to.

    Raises:
        ConfigError: All of them, a sentence each (of a long list the first twenty).
    """
    refuse(binding_problems(terms, saliency, pairs))


def refuse(problems: Sequence[str]) -> None:
    """Raises a ConfigError of problems, of a long list the first twenty, if there are any."""
    if problems:
        more = len(problems) - _MOST_PROBLEMS
        raise ConfigError([*problems[:_MOST_PROBLEMS], *([f"... and {more} more of this kind"] if more > 0 else [])])


def _problems(part: Any, bind: Callable[[Sequence[PromptSeed]], Any], pairs: Sequence[PromptSeed]) -> Iterator[str]:
    own = getattr(part, "problems", None)
    if callable(own):
        yield from own(pairs)
        return
    for pair in pairs:
        try:
            bind([pair])
        except SgoolError as error:
            yield str(error)
        except Exception:
            continue  # what is no SgoolError fails that pair alone, in its turn, and is recorded there
