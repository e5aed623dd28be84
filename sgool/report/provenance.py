"""Describes how a report's numbers were made, and what they do not say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from sgool.config.judges import saliency_judges
from sgool.report.format import number
from sgool.report.load import Run, writable
from sgool.report.metrics import Metric, judge_networks, objective_networks
from sgool.report.saliency import Maps, about
from sgool.report.stats import FEWEST_GROUPS
from sgool.results.compare import config_text, flatten
from sgool.types import PairRecord

_MAIN_SETTINGS = (
    "models.path", "models.config", "models.variant", "models.components.*", "models.scheduler.*", "models.loras",
    "models.quantization.*", "models.guide*", "models.judges.*", "models.scene_reader", "models.height", "models.dtype",
    "sampler.*", "engine.*", "optimization.*", "objective.terms.*", "objective.crops.num", "objective.crops.reduction",
    "saliency.detector.name", "saliency.threshold", "saliency.max_regions", "saliency.w_*", "data.prompts",
    "data.seeds",
)  # fmt: skip


@dataclass(frozen=True)
class Provenance:
    """A description of a run, as the page shows it.

    Attributes:
        name: The name of the run.
        path: The path of its folder, as given.
        settings: (dotted key, value) of the settings that matter most.
        config: The whole configuration as YAML.
        environments: Lists of (name, value), one for each environment that the run was made in.
        totals: (name, value) of the number of results, network calls and hours.
    """

    name: str
    path: str
    settings: tuple[tuple[str, str], ...]
    config: str
    environments: tuple[tuple[tuple[str, str], ...], ...]
    totals: tuple[tuple[str, str], ...]


_DREW_MAPS = " It drew the saliency maps (Grad-CAM), which decide where the objective looks: not wholly independent."


def describe_run(run: Run) -> Provenance:
    """Describe a run: its settings, environments and totals as text."""
    return Provenance(
        name=run.name,
        path=writable(str(run.folder.path)),
        settings=tuple(_settings(run.config)),
        config=writable(config_text(run.config)) if run.config else "",
        environments=tuple(tuple(_environment(environment)) for environment in run.environments),
        totals=(
            ("results", number(len(run.records), 0)),
            ("network calls", number(sum(map(_calls, run.records)), 0)),
            ("hours", number(_hours(run), 2)),
        ),
    )


def _calls(record: PairRecord) -> int:
    """A pair's network calls, backward passes included, as a budget counts them."""
    return record.network_evaluations + record.network_backward_passes


def _hours(run: Run) -> float:
    """Sum the pairs' seconds, which are shares of their batches' time, so parallel processes add up."""
    seconds = [record.seconds for record in run.records]
    return sum(value for value in seconds if value is not None and math.isfinite(value)) / 3600


def facts(run: Run) -> dict[str, str]:
    """Return device, commit and date of a run's first environment, for the page's head; unknown ones are left out."""
    first = run.environments[0] if run.environments else {}
    commit = str(first.get("git_commit") or "")
    known = {
        "Device": writable(str(first.get("device") or "")),
        "Commit": commit[:10] + ("+changes" if commit.endswith("+changes") else ""),
        "Date": str(first.get("date") or "")[:10],
    }
    return {name: value for name, value in known.items() if value}


def caveats(runs: Sequence[Run], metrics: Sequence[Metric], maps: Sequence[Maps] = ()) -> list[tuple[str, str]]:
    """Return (heading, text) of everything that a reader must know before believing the numbers.

    Args:
        runs: The report's runs.
        metrics: The metrics that it shows.
        maps: What the saliency overlays show that stand in the report; empty: it has none.
    """
    notes = [_judge_note(runs, metric) for metric in metrics if metric.key != "scene_accuracy"]
    if any(metric.key == "scene_accuracy" for metric in metrics):
        notes.append(
            (
                "Scene accuracy is a network's answer",
                "A scene reader checks the objects, counts, colours, relation and background that the prompt states. "
                "An image is right only if all of them are; the accuracy is the share of right images. The reader "
                "makes mistakes of its own: its model card says how many. Prompts without a known scene do not count.",
            )
        )
    notes.append(
        (
            "Differences are paired",
            "Each method starts from the same prompt, seed and first latents as the one it is compared with. The 95 % "
            "intervals are percentile bootstraps over prompts and speak only of prompts like these; with fewer than "
            f"{FEWEST_GROUPS} prompts there is none. A difference is called clear, and coloured, where the interval "
            f"leaves out zero and at least {FEWEST_GROUPS} pairs differ. p is that of the two-sided Wilcoxon "
            "signed-rank test on the prompts' mean differences, draws left out. No correction is made for looking at "
            "several methods and metrics. Pairs that failed are counted and shown, but are in no mean.",
        )
    )
    notes.append(_choice_note(runs))
    notes += [about(kind) for kind in dict.fromkeys(maps)]
    notes += _environments_note(runs)
    return notes


def _environments_note(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Name the runs that were made in several environments: nothing went wrong there, but it should be known."""
    lines = []
    for run in runs:
        if len(run.environments) > 1:
            devices = dict.fromkeys(str(environment.get("device")) for environment in run.environments)
            lines.append(writable(f"{run.name}: {len(run.environments)} environments, on {', '.join(devices)}."))
    text = "Other kernels give other last digits. The seconds of pairs made on different machines do not compare."
    return [("A run made in several environments", " ".join([text, *lines]))] if lines else []


def _choice_note(runs: Sequence[Run]) -> tuple[str, str]:
    kept = {flatten(run.config).get("optimization.keep", "best") for run in runs}
    if kept == {"last"}:
        return "The final image is that of the last update", "No judge chose it."
    return (
        "The final image is the one with the lowest selection score",
        "The selection score is the objective on the whole image, at each update or candidate. So the objective "
        "chose the image, never a judge.",
    )


def _judge_note(runs: Sequence[Run], metric: Metric) -> tuple[str, str]:
    judge = metric.key.rpartition("/")[0] or metric.key
    configs = [config for run in runs for config in run.configs]
    networks = sorted({judge_networks(config).get(judge, "") for config in configs} - {""})
    if metric.optimised and not networks:
        networks = sorted(map(writable, set().union(*(objective_networks(config) for config in configs))))
    which = f" ({', '.join(networks)})" if networks else ""
    if metric.optimised:
        return (
            f"{metric.title} was optimised against",
            f"The objective used this network{which}. Its score shows how far the optimiser got, not whether the "
            "images are better: expect it to rise in any case, also by tricks that fool it alone. It is marked "
            "“optimised against” wherever it appears.",
        )
    if metric.direction == 0:
        return (
            f"{metric.title} is no judgement",
            "It says how much changed, not whether for the better: it is shown without colours and without winners.",
        )
    kind = "100 times the cosine between image and prompt in a CLIP network" if "CLIP" in metric.title else "A network"
    return (
        f"{metric.title} comes from a judge",
        f"{kind}{which} that no objective of the run used. It is a stand-in for people's opinion, blind to much that "
        "they see." + (_DREW_MAPS if any(judge in saliency_judges(config) for config in configs) else ""),
    )


def _settings(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (writable(key), _text(value))
        for key, value in flatten(config).items()
        if value is not None and any(fnmatchcase(key, pattern) for pattern in _MAIN_SETTINGS)
    ]


def _environment(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for key, value in environment.items():
        if isinstance(value, Mapping):
            rows += [(_text(name), _text(version)) for name, version in value.items()]
        else:
            rows.append((_text(key).replace("_", " "), _text(value)))
    return rows


def _text(value: Any) -> str:
    if value is None:
        return "none"
    return ", ".join(_text(entry) for entry in value) if isinstance(value, (list, tuple)) else writable(str(value))
