"""Errors that a user can mend: shown as one paragraph, exit code 2, no traceback (unless ``--debug``)."""

from __future__ import annotations

from collections.abc import Sequence


class SgoolError(Exception):
    """A problem with what the user gave: what was expected, what was got, how to mend it."""


class ConfigError(SgoolError):
    """One or more problems of the configuration, all reported at once.

    Args:
        problems: One sentence or short paragraph per problem.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        head = "" if len(self.problems) == 1 else f"{len(self.problems)} problems in the configuration:\n"
        mark = "" if len(self.problems) == 1 else "- "
        super().__init__(head + "\n".join(mark + problem for problem in self.problems))


class Interrupted(SgoolError):
    """A fit that ended before its time because it was asked to; the same call goes on where it stopped."""
