"""Editing of a real image: inverted exactly, then optimised from the latents that were found."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgool.errors import ConfigError, SgoolError
from sgool.models.images import check_fit, fit_photo, open_photo, to_tensor
from sgool.results import NOT_COMPARED, RunFolder
from sgool.results.atomic import atomic_write, explain_os_errors
from sgool.run.config import to_plain
from sgool.run.fit import Outcome, device_name, limit_threads
from sgool.run.progress import Progress
from sgool.run.recording import write_result
from sgool.types import PairRecord, PromptSeed

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from PIL import Image
    from torch import Tensor

    from sgool.methods.base import PairResult
    from sgool.run.session import Session

#: Samplers with a way back, and whether it is exact.
_EXACT = {"edict": True, "belm": True, "bdia": True, "ddim": False}
#: Terms that compare the image with a text.
_OF_TEXT = ("text_alignment", "hps", "pickscore", "image_reward")
#: Fixed-point iterations a step where the way back is approximate: DDIM's, and the first step of two-step samplers.
_REFINEMENTS = 5
#: What may change between two edits in one folder; images and texts are told apart by their pair ids.
_MAY_CHANGE = (*NOT_COMPARED, "data", "edit.max_error")


@dataclass(frozen=True)
class Edit:
    """What is edited and how it is read.

    Attributes:
        image: The file.
        text: What the objective is told, where it compares with a text; empty: the prompt.
        prompt: What the denoising network is told, in inversion and after; usually nothing.
        fit: crop, squash or pad, see `sgool.models.images.fit_photo`.
        max_error: Largest relative error of the inverted latents at which the edit goes on.
    """

    image: Path
    text: str = ""
    prompt: str = ""
    fit: str = "crop"
    max_error: float = 0.05


@dataclass(frozen=True)
class Inverted:
    """An image, the latents that lead to it, and how well they do.

    Attributes:
        image: (3, H, W) in [0, 1], as the model gets it.
        reconstruction: (3, H, W) in [0, 1], denoised from ``latents`` and decoded.
        latents: (S, 1, C, h, w).
        metrics: ``inversion_error``: norm of the difference between the image's latents and the denoised ones, over the
            norm of the image's (the worse one of EDICT's two); ``vae_psnr`` and ``inversion_psnr``, in dB: of the
            autoencoder's own reconstruction and of ``reconstruction`` to the image.
        calls: Network calls that it took.
    """

    image: Tensor
    reconstruction: Tensor
    latents: Tensor
    metrics: Mapping[str, float]
    calls: int


def edit_image(config: DictConfig, edit: Edit, progress: Progress | None = None) -> Outcome:
    """Inverts an image and runs ``config.methods`` from there; what the run folder has already is skipped.

    The objective, the sampler and the optimisation are the configuration's; ``experiment=edit`` has the settings that
    `sgool edit` starts from. Of ``config.data``, the first seed (of crops) and the negative prompt count.

    Raises:
        SgoolError: Anything that the user can mend: before a network loads where it can be known, and before the
            optimisation starts where the inversion is too far off.
    """
    progress, plain = progress or Progress(), to_plain(config)
    _check(plain, edit)
    pair, photo = _pair(plain, edit), open_photo(edit.image)
    settings = {"fit": edit.fit, "prompt": edit.prompt, "max_error": edit.max_error}
    folder = RunFolder(plain["run_dir"]).open(
        plain | {"edit": settings}, device=device_name(plain), not_compared=_MAY_CHANGE
    )
    methods = list(plain["methods"])
    done = [m for m in methods if plain["resume"] and folder.is_done(m, pair.pair_id, retry_failed=True)]
    left = [method for method in methods if method not in done]
    progress.start(1, methods, len(left))
    if left:
        from sgool.run.session import Session

        limit_threads(plain["trainer"]["threads"])
        session = Session(plain)
        inverted = invert_image(session, photo, pair, edit)
        progress.note(describe(inverted.metrics, edit.max_error))
        _refuse_bad(inverted.metrics["inversion_error"], edit)
        for method in left:
            progress.batch(method, [pair])
            progress.done([_run(session, folder, method, pair, inverted, edit, progress)])
    folder.collate()
    records = tuple(r for method in methods if (r := folder.record(method, pair.pair_id)) is not None)
    return Outcome(folder.path, records, len(left))


def summary(outcome: Outcome) -> list[str]:
    """A line per method, then where the images lie."""
    lines = []
    for record in outcome.records:
        if record.status != "done":
            lines.append(f"failed: {record.method} {record.pair_id}: {record.error}")
            continue
        before, after = record.metrics["objective_initial"], record.metrics["objective"]
        lines.append(
            f"{record.method}: objective {before:.4g} → {after:.4g} at update {record.best_step} of "
            f"{record.num_optimization_steps} ({record.network_evaluations} network calls, {record.seconds:.0f} s)"
        )
        lines.append(f"images: {outcome.run_dir / 'pairs' / record.method / record.pair_id}")
    return lines


def describe(metrics: Mapping[str, float], max_error: float) -> str:
    """The inversion's quality in a sentence."""
    return (
        f"inversion error {metrics['inversion_error']:.2g} of the latents (limit {max_error:g}); PSNR to the image: "
        f"autoencoder alone {metrics['vae_psnr']:.1f} dB, with inversion {metrics['inversion_psnr']:.1f} dB"
    )


def invert_image(session: Session, photo: Image.Image, pair: PromptSeed, edit: Edit) -> Inverted:
    """Photo -> the model's size -> latents -> first latents, and back again for the error."""
    import torch

    from sgool.diffusion import decode_latents, encode_images
    from sgool.diffusion.invert import invert
    from sgool.methods.latent_pairs import LatentPairModule
    from sgool.methods.trainer import autocast_like

    options = session.module_options()
    module = LatentPairModule(session.models, [pair], network_prompts=[edit.prompt], **options)
    factor = session.models.vae_scale_factor
    height, width = (side * factor for side in module.latents.shape[-2:])
    image = to_tensor(fit_photo(photo, height, width, edit.fit))
    vae = session.models.vae
    with torch.no_grad(), autocast_like(session.trainer_options(), session.device):
        latents = encode_images(vae, image[None].to(session.device)).to(module.latents.dtype)
        inversion = invert(
            latents[None], module.schedule, module.sampler, module.guided_model, refinements=_REFINEMENTS
        )
        denoised = module(inversion.latents)
        alone = decode_latents(vae, latents.to(session.models.dtype))[0].float().clamp(0, 1).cpu()
    back = denoised.images[0, 0].float().clamp(0, 1).cpu()
    error = max(float((stream - latents).norm() / latents.norm()) for stream in denoised.latents)
    metrics = {"inversion_error": error, "vae_psnr": _psnr(alone, image), "inversion_psnr": _psnr(back, image)}
    return Inverted(image, back, inversion.latents, metrics, module.guided_model.calls)


def _run(
    session: Session,
    folder: RunFolder,
    name: str,
    pair: PromptSeed,
    inverted: Inverted,
    edit: Edit,
    progress: Progress,
) -> PairRecord:
    from sgool.methods.base import FitSettings

    start = {"initial_latents": inverted.latents, "network_prompts": [edit.prompt]}
    settings = FitSettings(session.module_options() | start, session.trainer_options(), (), progress.update)
    started = time.perf_counter()
    (result,) = session.method(name).run([pair], settings)
    result = replace(result, network_evaluations=result.network_evaluations + inverted.calls)
    metrics = dict(inverted.metrics)
    if result.history:
        metrics["objective_initial"] = result.history[0]["selection"]
        metrics["objective"] = result.history[result.best_step]["selection"]
    _write_images(folder, name, result, inverted)
    return write_result(folder, name, result, metrics, time.perf_counter() - started)


def _write_images(folder: RunFolder, name: str, result: PairResult, inverted: Inverted) -> None:
    """What an edit has beside the files of every pair; the record comes after it, so a crash leaves no half edit."""
    from sgool.results.artifacts import encode_image

    path = folder.pair_folder(name, result.pair.pair_id)
    images = {"input": inverted.image, "reconstruction": inverted.reconstruction}
    if bool(result.final_image.isfinite().all()):
        images["before_after"] = _side_by_side(inverted.image, result.final_image)
    with explain_os_errors(f"write the images of {path}", "Mend that and run the same command again."):
        path.mkdir(parents=True, exist_ok=True)
        (path / "record.json").unlink(missing_ok=True)
        for file, image in images.items():
            atomic_write(path / f"{file}.png", encode_image(image))


def _side_by_side(before: Tensor, after: Tensor) -> Tensor:
    """Both with a white stripe between them."""
    import torch

    stripe = torch.ones(3, before.shape[1], max(2, before.shape[2] // 32))
    return torch.cat([before, stripe, after.to(before)], dim=2)


def _psnr(image: Tensor, reference: Tensor) -> float:
    """In dB; infinite for equal images."""
    error = float((image - reference).square().mean())
    return -10 * math.log10(error) if error else math.inf


def _pair(config: Mapping[str, Any], edit: Edit) -> PromptSeed:
    """A pair whose id has the file's name, a hash of its content, one of the text, and the seed."""
    seeds = config["data"]["seeds"]
    seed = 0 if isinstance(seeds, int) else seeds[0]
    try:
        digest = hashlib.sha256(Path(edit.image).expanduser().read_bytes()).hexdigest()[:8]
    except OSError:
        digest = ""  # open_photo says what is wrong
    dataset = f"{Path(edit.image).stem[:40]}-{digest}"
    return PromptSeed(
        edit.text or edit.prompt, seed, dataset=dataset, negative_prompt=config["data"]["negative_prompt"]
    )


def _check(config: Mapping[str, Any], edit: Edit) -> None:
    """What needs no network and no image.

    Raises:
        ConfigError: All problems at once.
    """
    check_fit(edit.fit)
    problems = []
    if not (math.isfinite(edit.max_error) and edit.max_error > 0):
        problems.append(f"--max-error: expected a number above 0, got {edit.max_error}")
    sampler = config["sampler"]["name"]
    if sampler not in _EXACT:
        problems.append(f"`sampler`: {sampler} has no inverse; use edict, belm or bdia (exact), or ddim (approximate)")
    wrong = [name for name in config["methods"] if config["method"][name]["kind"] != "optimize"]
    if wrong:
        problems.append(
            f"`methods`: {', '.join(wrong)} cannot start from an image; those of kind optimize can: "
            f"{', '.join(name for name, method in config['method'].items() if method['kind'] == 'optimize')}"
        )
    terms = config["objective"]["terms"].items()
    blind = [name for name, term in terms if term["type"] in _OF_TEXT and term["weight"]]
    if blind and not (edit.text or edit.prompt):
        problems.append(
            f"`objective`: {', '.join(blind)} compares the image with a text: give one with --text, or choose another "
            "objective, such as objective=aesthetic, image_alignment, color or symmetry"
        )
    if problems:
        raise ConfigError(problems)


def _refuse_bad(error: float, edit: Edit) -> None:
    if not error <= edit.max_error:
        raise SgoolError(
            f"IMAGE: the inversion of {str(edit.image)!r} does not lead back to it: relative error {error:.2g}, limit "
            f"{edit.max_error:g}. Use sampler=edict or sampler=belm, sampler.guidance_scale=1, "
            "trainer.precision=32-true, or more sampler.num_inference_steps; or raise --max-error"
        )
