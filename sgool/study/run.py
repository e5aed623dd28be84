"""``sgool study`` once the page is built: describes the study and serves it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from sgool.config.words import counted
from sgool.study.build import Study
from sgool.study.checks import SAME_IMAGE, WRONG_PROMPT
from sgool.study.key import COMPARISON
from sgool.study.server import StudyServer, is_loopback, serve_study

_ENOUGH = 5
"""Enough votes on a comparison for a majority; the number is odd, so that there is one."""


def run_study(study: Study, listen: tuple[str, int] | None, say: Callable[[str], object]) -> None:
    """Describe a study and, if there is an address, serve it until Ctrl-C.

    Args:
        study: From ``build_study``.
        listen: The host and port to serve at; None: do not serve.
        say: Called with each line for the user.
    """
    for line in describe(study):
        say(line)
    if listen is None:
        say(f"Give raters a copy of the folder {study.page}, and nothing else: {study.folder / 'key.json'} says whose")
        say("image is whose. They open its index.html and send back the file that it saves.")
        return

    def announce(server: StudyServer) -> None:
        say(f"Serving {server.url} (for one rater: {server.url}?rater=ID). Ctrl-C ends.")
        say(f"Votes go to {server.votes.path}.")
        if not is_loopback(server.host):
            say(
                f"Warning: {server.host} can be reached from other machines, without encryption or passwords: anyone "
                "who reaches it can vote under any ID. On a shared machine rather tunnel: ssh -L PORT:127.0.0.1:PORT."
            )

    serve_study(study, *listen, announce=announce)
    say(f"Ended. Score the votes with: sgool study-results {study.folder / 'votes.csv'}")


def describe(study: Study) -> list[str]:
    """Return lines that describe a study."""
    kinds = Counter(item.kind for item in study.key.items.values())
    checks = kinds[WRONG_PROMPT] + kinds[SAME_IMAGE]
    pairs = len({item.pair_id for item in study.key.items.values() if item.kind == COMPARISON})
    who = f"rater {study.rater}" if study.rater else "each rater"
    lines = [
        f"{study.page / 'index.html'}",
        f"Study {study.key.study}: {', '.join(study.key.methods)}; {counted(pairs, 'pair')}, "
        f"{counted(kinds[COMPARISON], 'comparison')}, of which {who} sees {study.per_rater}, and "
        f"{counted(checks, 'attention check')} ({kinds[WRONG_PROMPT]} with another prompt's image, {kinds[SAME_IMAGE]} "
        "with one image twice).",
    ]
    needed = -(-_ENOUGH * kinds[COMPARISON] // study.per_rater)
    lines.append(f"For {_ENOUGH} votes on every comparison it takes about {needed} raters; fewer --pairs take fewer.")
    if study.key.identical:
        lines.append(f"Not shown: {len(study.key.identical)} comparisons of images that are the same pixel for pixel.")
    lines += [f"Left out: {reason}" for reason in study.key.left_out[:10]]
    if len(study.key.left_out) > 10:
        lines.append(f"... and {len(study.key.left_out) - 10} more, see key.json.")
    return lines
