"""Editing of real images: inverted exactly, then optimised from the latents that were found."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgool.config.rules import choice
from sgool.diffusion.options import SAMPLERS
from sgool.errors import ConfigError, SgoolError
from sgool.loggers import check_logger
from sgool.methods.base_options import method_budget
from sgool.methods.options import METHODS, method_optimization
from sgool.models.images import check_fit, open_photo
from sgool.objectives.options import TERMS
from sgool.results import NOT_COMPARED, RunFolder
from sgool.results.claims import announce_runner
from sgool.results.under_way import batches_under_way
from sgool.run.config import complete, to_plain
from sgool.run.fit import Run, device_name, limit_threads
from sgool.run.interrupt import Interrupt
from sgool.run.inversion import Edit, Inverted, NonFiniteInversion, describe, invert_image, too_far_off
from sgool.run.notes import model_line
from sgool.run.outcome import Outcome
from sgool.run.progress import Progress
from sgool.types import PairRecord, PromptSeed, Start

__all__ = ["Edit", "edit_image", "edit_images"]

if TYPE_CHECKING:
    from omegaconf import DictConfig

#: What may change between two edits in one folder; images and texts are told apart by their pair ids.
_MAY_CHANGE = (*NOT_COMPARED, "data", "edit.max_error")


def edit_image(config: DictConfig, edit: Edit, progress: Progress | None = None) -> Outcome:
    """Inverts one image and optimises it, see `edit_images`."""
    return edit_images(config, [edit], progress)


def edit_images(
    config: DictConfig, edits: Sequence[Edit], progress: Progress | None = None, *, accept_changes: bool = False
) -> Outcome:
    """Inverts images and runs ``config.methods`` from there; what the run folder has already is skipped.

    Each image is a pair that starts at the latents that were found; it goes the way of every pair, so an edit can be
    interrupted, continued and logged as any run. The objective, the sampler and the optimisation are the
    configuration's; ``experiment=edit`` has the settings that `sgool edit` starts from. Of ``config.data``, the first
    seed (of crops) and the negative prompt count, for edits without their own.

    Args:
        config: As `sgool.run.config.load_config` composes it.
        edits: At least one; they share ``prompt``, ``fit`` and ``max_error``. Equal ones are made once.
        progress: Is told what happens.
        accept_changes: Go on in a run folder of another configuration.

    Raises:
        SgoolError: Anything that the user can mend: before a network loads where it can be known, and before the
            optimisation starts where the inversion of a single image is too far off; among several images, such a one
            is recorded as failed and the others go on.
    """
    progress, plain = progress or Progress(), to_plain(config)
    _check(plain, edits)
    check_logger(plain["logger"])
    jobs = _jobs(plain, edits, progress)
    settings = {"fit": edits[0].fit, "prompt": edits[0].prompt, "max_error": edits[0].max_error}
    plain["trainer"] = {**plain["trainer"], "devices": _one(plain["trainer"]["devices"]), "num_nodes": 1}
    folder = RunFolder(plain["run_dir"]).open(
        plain | {"edit": settings},
        device=device_name(plain),
        not_compared=_MAY_CHANGE,
        accept_changes=accept_changes,
        complete=complete,
    )
    with Interrupt() as interrupt, announce_runner(folder.path):
        run = Run(plain, [pair for pair, _ in jobs], (1, 1), folder, progress, interrupt)
        failures: list[PairRecord] = []
        if run.number_left:
            limit_threads(plain["trainer"]["threads"])
            from sgool.run.parts import Parts

            progress.model(model_line(plain["models"]))
            run.parts = Parts(plain, judged=False)
            run.begin_with(list(_inverted(run, jobs, failures)))
        outcome = run.outcome()
        return replace(outcome, records=(*outcome.records, *failures))


def _jobs(config: Mapping[str, Any], edits: Sequence[Edit], progress: Progress) -> list[tuple[PromptSeed, Edit]]:
    """A pair for each edit; each image is read once, so that all that cannot be used are said together."""
    jobs: dict[str, tuple[PromptSeed, Edit]] = {}
    problems = []
    for edit in edits:
        try:
            open_photo(edit.image, on_note=progress.note)
        except SgoolError as error:
            problems.append(str(error))
            continue
        pair = _pair(config, edit)
        jobs.setdefault(pair.pair_id, (pair, edit))
    if len(problems) == 1:
        raise SgoolError(problems[0])
    if problems:
        raise ConfigError(problems)
    return list(jobs.values())


def _inverted(run: Run, jobs: Sequence[tuple[PromptSeed, Edit]], failures: list[PairRecord]) -> Iterator[PromptSeed]:
    """Yields the pairs with their first latents; where a signal asks to stop, the rest as they are: nobody begins them.

    Among several images, those whose inversion is too far off go into ``failures``.
    """
    assert run.parts is not None
    needed = _to_invert(run, [pair for pair, _ in jobs])
    for number, (pair, edit) in enumerate(jobs, start=1):
        if run.interrupt() or pair.pair_id not in needed:
            yield pair
            continue
        began = time.perf_counter()
        try:
            inverted = invert_image(run.parts, open_photo(edit.image), pair, edit)
        except NonFiniteInversion as error:
            trouble = str(error)
        else:
            whose = f"[{number}/{len(jobs)}] {Path(edit.image).name}: " if len(jobs) > 1 else ""
            run.progress.note(whose + describe(inverted.metrics, edit.max_error))
            # A photo that is finished stays so: only its batch, with others, goes on from here.
            trouble = too_far_off(inverted.metrics["inversion_error"], edit) if run.methods_left(pair) else ""
        if trouble and len(jobs) == 1:
            raise SgoolError(trouble)
        if trouble:
            from sgool.callbacks.run_writer import write_failure

            seconds = time.perf_counter() - began
            left = run.methods_left(pair)  # edits that are done stay
            failures += [write_failure(run.folder, method, pair, trouble, seconds) for method in left]
            continue
        yield replace(pair, start=_start(inverted, edit))


def _to_invert(run: Run, pairs: Sequence[PromptSeed]) -> set[str]:
    """Ids of the photos that have a method left, and of finished ones whose batch was interrupted: it goes on whole."""
    left = {(method, pair.pair_id) for pair in pairs for method in run.methods_left(pair)}
    needed = {pair_id for _, pair_id in left}
    for note in batches_under_way(run.folder.path):
        if any((note.method, pair_id) in left for pair_id in note.pair_ids):
            needed.update(note.pair_ids)
    return needed


def _one(devices: int | list[int]) -> int | list[int]:
    """One device: there is one pair."""
    return 1 if isinstance(devices, int) else devices[:1]


def _start(inverted: Inverted, edit: Edit) -> Start:
    images = {"input": inverted.image, "reconstruction": inverted.reconstruction}
    return Start(inverted.latents[:, 0], edit.prompt, inverted.calls, inverted.metrics, images)


def _pair(config: Mapping[str, Any], edit: Edit) -> PromptSeed:
    """A pair whose id has the file's name, a hash of its content, one of the text, and the seed."""
    seeds = config["data"]["seeds"]
    seed = (0 if isinstance(seeds, int) else seeds[0]) if edit.seed is None else edit.seed
    negative_prompt = config["data"]["negative_prompt"] if edit.negative_prompt is None else edit.negative_prompt
    try:
        digest = hashlib.sha256(Path(edit.image).expanduser().read_bytes()).hexdigest()[:8]
    except OSError:
        digest = ""  # open_photo says what is wrong
    dataset = f"{Path(edit.image).stem[:40]}-{digest}"
    text = edit.text or edit.prompt
    return PromptSeed(text, seed, dataset=dataset, negative_prompt=negative_prompt, phrases=edit.phrases)


def _check(config: Mapping[str, Any], edits: Sequence[Edit]) -> None:
    """What needs no network and no image.

    Raises:
        ConfigError: All problems at once.
    """
    if not edits:
        raise SgoolError("IMAGE: expected at least one photo, got none")
    edit = edits[0]
    check_fit(edit.fit)
    problems = []
    if not (math.isfinite(edit.max_error) and edit.max_error > 0):
        problems.append(f"--max-error: expected a number above 0, got {edit.max_error}")
    if SAMPLERS.options(config["sampler"]).has_inverse is False:
        sampler, exact = config["sampler"]["name"], SAMPLERS.able("invertible")
        others = [name for name in SAMPLERS.able("has_inverse") if name not in exact]
        problems.append(
            f"`sampler`: {sampler} has no inverse; use {choice(*exact).expected} (exact), or {', '.join(others)} "
            "(approximate)"
        )
    able = [name for name, method in config["method"].items() if METHODS.options(method).starts_from_image]
    wrong = [name for name in config["methods"] if METHODS.options(config["method"][name]).starts_from_image is False]
    if wrong:
        problems.append(
            f"`methods`: {', '.join(wrong)} cannot start from an image; those of kind optimize can: {', '.join(able)}"
        )
    searching = [name for name in able if name in config["methods"] and _searches(config, name)]
    if searching:
        problems.append(
            f"`optimization.candidates`: expected 1, and null for `optimization.search_share`, for "
            f"{', '.join(searching)}: an edit starts from the photo, which has no other seeds to choose from"
        )
    terms = config["objective"]["terms"].items()
    blind = [name for name, term in terms if TERMS.options(term).needs_text and term["weight"]]
    mute = [str(edit.image) for edit in edits if not (edit.text or edit.prompt)]
    if blind and mute:
        whose = f" ({len(mute)} of {len(edits)} photos have none, such as {mute[0]!r})" if len(edits) > 1 else ""
        problems.append(
            f"`objective`: {', '.join(blind)} compares the image with a text: give one with --text, or one for each "
            f"photo with --captions{whose}, or choose another objective, such as objective=aesthetic, "
            "image_alignment, color or symmetry"
        )
    if problems:
        raise ConfigError(problems)


def _searches(config: Mapping[str, Any], name: str) -> bool:
    """Whether a method tries several first latents before its updates."""
    if METHODS.options(config["method"][name]).optimizes is not True:
        return False
    settings = method_optimization(config, name)
    by_share = settings["search_share"] is not None and any(method_budget(config, name).values())
    return by_share or settings["candidates"] > 1
