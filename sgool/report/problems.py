"""Finds what went wrong in runs, from their records: what a reader should know before trusting the numbers."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from sgool.report.history import Histories
from sgool.report.load import Run, writable
from sgool.report.metrics import Metric
from sgool.results.compare import NOT_COMPARED, changed_keys, flatten

_NON_FINITE = re.compile(r"non-?finite|\bnan\b|\binf(?:inity|inite)?\b", re.IGNORECASE)
_MOST_NAMED = 12
_MOST_REASONS = 40
_MOST_SETTINGS = 60


@dataclass(frozen=True)
class Problem:
    """One kind of problem: a heading, what it means, and a line for each case."""

    head: str
    text: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Setting:
    """A setting that differs between the compared runs: its value in each, an en dash where it is absent."""

    key: str
    values: tuple[str, ...]


def find_problems(
    runs: Sequence[Run],
    frame: pd.DataFrame,
    metrics: Sequence[Metric],
    histories: Histories,
    missing: Iterable[tuple[str, str, str]],
) -> list[Problem]:
    """Return all problems that the records show, the worst first; of a run in which all went well, none.

    What is usual and should only be known, such as a judge that was optimised against, is no problem: that stands in
    ``provenance.caveats``.
    """
    found = [
        _failed(frame),
        _non_finite(frame, metrics, histories),
        _changed_settings(runs),
        _unfinished(runs),
        _invalid(runs),
        _not_run(frame),
        _truncated(frame),
        _files(histories, missing),
    ]
    return [problem for problem in found if problem]


def differing_settings(runs: Sequence[Run]) -> list[Setting]:
    """Return the settings in which runs differ, without those that cannot change a result; empty for one run."""
    if len(runs) < 2:
        return []
    flat = [flatten(run.config) for run in runs]
    keys = sorted({key for config in flat for key in config})
    settings = []
    for key in keys:
        if any(key == name or key.startswith(f"{name}.") for name in NOT_COMPARED):
            continue
        values = tuple(writable(str(config[key])) if key in config else "–" for config in flat)
        if len(set(values)) > 1:
            settings.append(Setting(writable(key), tuple(_shorten(value) for value in values)))
    return settings[:_MOST_SETTINGS]


def _failed(frame: pd.DataFrame) -> Problem | None:
    failed = frame[frame["status"] == "failed"]
    if failed.empty:
        return None
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for label, pair, error in zip(failed["label"], failed["pair_id"], failed["error"], strict=True):
        groups[label, _shorten(str(error or "no reason given"), 400)].append(pair)
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    lines = [f"{label}: {error} ({_named(pairs)})" for (label, error), pairs in ordered[:_MOST_REASONS]]
    if len(ordered) > _MOST_REASONS:
        lines.append(f"and {len(ordered) - _MOST_REASONS} more reasons: see results.csv")
    head = f"{len(failed)} of {len(frame)} results failed"
    return Problem(head, "They are in no mean. In the gallery, choose Show: failed.", tuple(lines))


def _non_finite(frame: pd.DataFrame, metrics: Sequence[Metric], histories: Histories) -> Problem | None:
    errors = frame["error"].fillna("").astype(str)
    groups: dict[str, list[str]] = defaultdict(list)
    for label, pair in frame.loc[errors.str.contains(_NON_FINITE), ["label", "pair_id"]].itertuples(index=False):
        groups[f"{label}: stopped by a number that was not finite"].append(pair)
    for label, pair, text in histories.non_finite:
        groups[f"{label}: {text}"].append(pair)
    done = frame[frame["status"] == "done"]
    for metric in metrics:
        # A score has a value before and after. If one is missing it was NaN or infinite, which a record holds as null.
        if metric.initial in done and metric.key in done:
            bad = done[done[metric.key].isna() & done[metric.initial].notna()]
            for label, pair in zip(bad["label"], bad["pair_id"], strict=True):
                groups[f"{label}: no finite {metric.title} of the final image"].append(pair)
    if not groups:
        return None
    lines = tuple(f"{text} ({_named(pairs)})" for text, pairs in groups.items())
    return Problem("Numbers that were not finite", "NaN or infinite losses, gradients or scores.", lines)


def _changed_settings(runs: Sequence[Run]) -> Problem | None:
    lines = []
    for run in runs:
        for name, earlier in run.earlier_configs.items():
            changes = changed_keys(earlier, run.config)
            lines += [writable(f"{run.name}, since {name}: {change}") for change in changes]
    text = "The run was continued with other settings: its pairs were not all made in the same way."
    return Problem("Settings that changed within a run", text, tuple(lines[:_MOST_SETTINGS])) if lines else None


def _unfinished(runs: Sequence[Run]) -> Problem | None:
    lines = [
        f"{run.name}: {len(run.unfinished)} begun and not finished: {_named(run.unfinished)}"
        for run in runs
        if run.unfinished
    ]
    text = "The run is still at work there, or was interrupted; the same `sgool fit` goes on with them."
    return Problem("Interrupted pairs", text, tuple(lines)) if lines else None


def _invalid(runs: Sequence[Run]) -> Problem | None:
    lines = tuple(note for run in runs for note in run.notes)
    return Problem("Files that do not count", "These pairs are left out of everything.", lines) if lines else None


def _not_run(frame: pd.DataFrame) -> Problem | None:
    pairs = frame["pair_id"].nunique()
    counts = frame.groupby("label", sort=False)["pair_id"].nunique()
    short = counts[counts < pairs]
    lines = tuple(f"{label}: {count} of {pairs} pairs" for label, count in short.items())
    text = "Means of methods that ran on different pairs do not compare; the paired differences do."
    return Problem("Methods that did not run on every pair", text, lines) if lines else None


def _truncated(frame: pd.DataFrame) -> Problem | None:
    """Find prompts that a network did not read to their end (``NAME/truncated``, in characters)."""
    lines = []
    for name in map(str, frame.columns):
        reader, _, kind = name.rpartition("/")
        if kind != "truncated" or frame[name].dtype.kind != "f":
            continue
        lost = {prompt: count for prompt, count in zip(frame["prompt"], frame[name], strict=True) if count > 0}
        if lost:
            prompts = "1 prompt" if len(lost) == 1 else f"{len(lost)} prompts"
            longest = max(lost, key=lost.__getitem__)
            where = "beside" if reader == "negative_prompt" else "of"
            reader = "the diffusion model, of negative prompts" if reader == "negative_prompt" else reader
            who = f"the objective's term {reader.removeprefix('objective/')}" if "/" in reader else reader
            most = f"{lost[longest]:.0f} characters {where} {_shorten(longest, 60)}"
            lines.append(f"{who or 'the diffusion model'}: {prompts}, at most {most}")
    text = "Longer than the text encoder reads: the end of the prompt had no say."
    return Problem("Prompts that were cut off", text, tuple(lines)) if lines else None


def _files(histories: Histories, missing: Iterable[tuple[str, str, str]]) -> Problem | None:
    groups: dict[str, list[str]] = defaultdict(list)
    for label, pair, text in missing:
        groups[f"{label}: {text}"].append(pair)
    for label, pair in histories.unreadable:
        groups[f"{label}: history.csv cannot be read"].append(pair)
    lines = tuple(f"{text} ({_named(pairs)})" for text, pairs in groups.items())
    text = "The records count all the same; the picture or curve is left out."
    return Problem("Missing or unreadable files", text, lines) if lines else None


def _named(names: Mapping | Sequence[str]) -> str:
    listed = list(names)
    shown = ", ".join(_shorten(name, 120) for name in listed[:_MOST_NAMED])
    return shown if len(listed) <= _MOST_NAMED else f"{shown} and {len(listed) - _MOST_NAMED} more"


def _shorten(text: str, most: int = 160) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"
