"""Shows the results of a study as text or JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from sgool.study.results import Rater, Results
from sgool.study.tally import Block, Estimate, QuestionResult

TITLES = {"match": "Which image matches the text better?", "prefer": "Which image would most people prefer?"}


def show_results(results: Results) -> str:
    """Return all results of a study as text for a terminal."""
    lines = [f"Study {results.study}: {_number(results.main.votes, 'vote')} counted.", *_facts(results), ""]
    if results.everyone is None:
        lines += ["ALL RATERS (none failed the attention checks)", *_block(results.main)]
    else:
        lines += ["WITHOUT EXCLUDED RATERS", *_block(results.main)]
        lines += ["", "WITH EVERYONE", *_block(results.everyone)]
    return "\n".join(lines)


def results_json(results: Results) -> str:
    """Return all results of a study as JSON, with null for a number that is not defined."""
    return json.dumps(asdict(results), indent=2, ensure_ascii=False, allow_nan=False)


def _facts(results: Results) -> list[str]:
    lines = [
        f"{_number(len(results.raters), 'rater')}; {results.lines} lines read, {results.repeated} of them replaced "
        "by a later answer of the same rater.",
    ]
    if results.identical:
        counts = ", ".join(f"{pair}: {count}" for pair, count in results.identical.items())
        lines.append(f"Not shown, being the same image twice (draws, if you count them): {counts}.")
    if results.left_out:
        lines.append(f"{_number(results.left_out, 'image')} missing when the study was made: key.json lists them.")
    excluded = [rater for rater in results.raters if rater.reason]
    lines += [f"Excluded: {rater.name}, {rater.reason}." for rater in excluded]
    unchecked = [rater.name for rater in results.raters if not rater.checks]
    lines += [f"Without an attention check so far, and counted: {', '.join(unchecked)}."] if unchecked else []
    return [*lines, "", *_table([("RATER", "COMPARISONS", "CHECKS RIGHT", ""), *map(_rater, results.raters)])]


def _rater(rater: Rater) -> tuple[str, ...]:
    right = f"{rater.right}/{rater.checks}" if rater.checks else "-"
    return (rater.name, str(rater.comparisons), right, "excluded" if rater.reason else "")


def _block(block: Block) -> list[str]:
    if not block.votes:
        return ["No vote is left."]
    shown = [_number(block.raters, "rater"), f"{block.items} comparisons", _number(block.prompts, "prompt")]
    lines = [f"{', '.join(shown)}, {_number(block.votes, 'vote')} per question."]
    if block.single:
        lines.append(
            f"{_number(block.single, 'comparison')} had one rater alone: no majority to speak of, no agreement."
        )
    for name, question in block.questions.items():
        lines += ["", TITLES[name], *_indent(_question(name, question))]
    return lines


def _question(name: str, question: QuestionResult) -> list[str]:
    rows = [("METHODS", "ITEMS", "VOTES", "WIN-DRAW-LOSS", "SHARE OF THE FIRST [95 %]", "KAPPA (ITEMS)")]
    success = [("METHODS", "ITEMS", "FIRST [95 %]", "SECOND [95 %]", "UNDECIDED")]
    for pair in question.pairs:
        methods = f"{pair.first} - {pair.second}"
        counts = f"{pair.wins}-{pair.ties}-{pair.losses}"
        kappa = f"{_kappa(pair.agreement.kappa)} ({pair.agreement.items})"
        rows.append((methods, str(pair.items), str(pair.votes), counts, _percent(pair.share), kappa))
        undecided = str(pair.items - pair.items_first - pair.items_second)
        rates = (_percent(pair.success_first), _percent(pair.success_second))
        success.append((methods, str(pair.items), *rates, undecided))
    title = "Prompt alignment success rate" if name == "match" else "Preferred"
    agreement = question.agreement
    note = f" ({agreement.note})" if agreement.note else ""
    observed = "" if agreement.observed is None else f"; raters agree in {100 * agreement.observed:.0f} % of couples"
    lines = [*_table(rows), "", f"{title}: items with more than half of their votes for a method", *_table(success)]
    lines += ["", "Strength (Davidson's model, log scale, mean 0)", *_table(_ranking(question))]
    if question.separated:
        lines.append("Some methods were never beaten or tied by the others: their strengths are finite only through")
        lines.append("the prior, and say who is ahead, not by how much.")
    lines += ["", f"Fleiss' kappa over all: {_kappa(agreement.kappa)}{note}, {agreement.items} items with two raters"
              f" or more{observed}."]  # fmt: skip
    if question.left is not None:
        lines.append(f"The left image has {100 * question.left:.0f} % of the votes that are no ties.")
    return lines


def _ranking(question: QuestionResult) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("RANK", "METHOD", "STRENGTH [95 %]")]
    for rank, (method, strength) in enumerate(question.strengths.items(), start=1):
        rows.append((str(rank), method, _signed(strength)))
    return rows


def _percent(estimate: Estimate) -> str:
    interval = "few prompts" if estimate.low is None else f"{100 * estimate.low:.1f}, {100 * (estimate.high or 0):.1f}"
    return f"{100 * estimate.value:.1f} % [{interval}]"


def _signed(estimate: Estimate) -> str:
    interval = "few prompts" if estimate.low is None else f"{estimate.low:+.2f}, {estimate.high or 0:+.2f}"
    return f"{estimate.value:+.2f} [{interval}]"


def _kappa(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _number(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _indent(lines: Sequence[str]) -> list[str]:
    return [f"  {line}" if line else line for line in lines]
