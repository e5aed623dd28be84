"""The memory of a run's updates, estimated before any weights are loaded, and what to switch where it does not fit."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from sgool.config.loading import Loading
from sgool.config.sources import described_by, is_single_file
from sgool.diffusion.estimate import Estimate, estimate
from sgool.errors import SgoolError
from sgool.models.assets import resolve_asset
from sgool.models.families import family_of
from sgool.models.hub import hub_access, not_cached
from sgool.models.memory import decode_in_tiles
from sgool.models.outline import Outline, outline
from sgool.models.schedule import other_scheduler, respaced
from sgool.results.compare import plain_config
from sgool.run.config.checks import engine_offload_problems
from sgool.run.parts import build_chain
from sgool.run.train import autocast_like

_GIB = 2**30
#: Share of a card that an update may take: the rest is the driver's, the allocator's and the objective's.
_USABLE = 0.9
#: Of a hub's repository, what outlines need.
_SMALL_FILES = ["*.json", "*/*.json", "*/*.txt", "*/*.model"]
#: Switches in the order in which they are tried: those that change no result come first.
_SWITCHES: tuple[tuple[str, Any], ...] = (
    ("trainer.pairs_per_fit", 1),
    ("models.offload_text_encoders", True),
    ("engine.name", "checkpoint"),
    ("engine.block_checkpointing", True),
    ("engine.split_guidance", True),
    ("models.offload", "model"),
    ("models.dtype", "bfloat16"),
    ("models.vae_tile_size", 512),
)


@dataclass(frozen=True)
class Switched:
    """What an update takes after one more switch.

    Attributes:
        override: The switch, as it is written on the command line.
        total: Bytes of the peak, with this switch and those before it.
    """

    override: str
    total: int


@dataclass
class MemoryReport:
    """The memory that a run's updates will take.

    Attributes:
        now: The estimate of the configuration as it is.
        pairs: Pairs of a batch.
        size: Height and width of the images in pixels.
        limit: Bytes of the card, or None.
        offloaded: Bytes of text encoders that wait in the memory of the CPU.
        in_turns: Whether the other networks wait there too, and one at a time is on the card.
        quantised: Whether weights are quantised, which the estimate does not know.
        switches: What makes it fit, one after the other; without a limit, all that save something.
    """

    now: Estimate
    pairs: int
    size: tuple[int, int]
    limit: int | None
    offloaded: int
    quantised: bool = False
    in_turns: bool = False
    switches: list[Switched] = field(default_factory=list)

    @property
    def fits(self) -> bool:
        """Whether the estimate stays below nine tenths of the card; True without a card."""
        return self.limit is None or self.now.total <= _USABLE * self.limit

    def rows(self) -> Iterator[tuple[str, str]]:
        """Yields what is printed: what, and how much or which."""
        call, decoder = self.now.call, self.now.decoder
        yield "images", f"{self.size[0]} x {self.size[1]} pixels, {self.pairs} pair{'s' * (self.pairs > 1)} a batch"
        for name, size in self.now.weights.items():
            yield f"weights of {name}", _gib(size)
        if self.in_turns:
            yield "of these", "one at a time on the card, the others in the memory of the CPU"
        if self.offloaded:
            yield "text encoders", f"{_gib(self.offloaded)} in the memory of the CPU"
        yield "network call", f"{_gib(call.kept)} of activations kept, {_gib(call.peak)} at its peak"
        yield "stored by the engine", f"{_gib(self.now.stored)} for {self.now.calls} network calls"
        yield "decoder", f"{_gib(decoder.kept)} kept, {_gib(decoder.peak)} at its peak"
        yield "an update", f"{_gib(self.now.total)} at its peak, without objective, judges and driver"
        if self.quantised:
            yield "not counted", "models.quantization: the estimate has whole weights, so less is needed"
        if self.limit is not None:
            yield "the card", f"{_gib(self.limit)}: {'it fits' if self.fits else 'it does not fit'}"
        for index, switched in enumerate(self.switches):
            yield ("and" if index else "switch", f"{switched.override}  {_gib(switched.total)}")
        if not self.fits and (not self.switches or self.switches[-1].total > _USABLE * (self.limit or 0)):
            yield "still too much", "take a smaller models.height and models.width, or quantised weights"


def memory_report(config: Mapping[str, Any], limit: int | None) -> MemoryReport:
    """Estimates the memory of a run's updates.

    Args:
        config: The validated configuration.
        limit: Bytes of the card; None: there is none to fit.

    Raises:
        SgoolError: The model's folder is not complete, or there is no outline of such a model.
    """
    config = plain_config(config)
    folder = _folder(described_by(config["models"]))
    now, size, offloaded = _estimate(config, folder)
    pairs, models = config["trainer"]["pairs_per_fit"], config["models"]
    report = MemoryReport(
        now, pairs, size, limit, offloaded, bool(models["quantization"]), in_turns=models["offload"] is not None
    )
    if limit is not None and report.fits:
        return report
    total = now.total
    for key, value in _SWITCHES:
        if limit is not None and total <= _USABLE * limit:
            break
        changed = _with(config, key, value)
        if changed is None:
            continue
        lower = _estimate(changed, folder)[0].total
        if lower < 0.98 * total:  # a switch that saves next to nothing is not worth its time
            config, total = changed, lower
            shown = f"{key.removesuffix('.name')}={str(value).lower()}"
            report.switches.append(Switched(shown, total))
    return report


def _with(config: Mapping[str, Any], key: str, value: Any) -> dict[str, Any] | None:
    """Returns the configuration with another value, or None where that makes no difference or no sense."""
    node, name = key.split(".")
    if config[node][name] == value or (key == "models.dtype" and config[node][name] == "float16"):
        return None
    changed = copy.deepcopy(dict(config))
    changed[node][name] = value
    if key == "engine.name":
        kept = ("gradient_steps", "split_guidance", "block_checkpointing")
        changed[node] = {"name": value, "memory_mib": 0, **{name: config[node][name] for name in kept}}
    if key == "models.offload" and any(engine_offload_problems(changed)):
        return None
    return changed


def _estimate(config: Mapping[str, Any], folder: Path) -> tuple[Estimate, tuple[int, int], int]:
    """Returns the estimate, the size of the images, and the bytes of text encoders that wait."""
    models = config["models"]
    vae_dtype = models["vae_dtype"] and getattr(torch, models["vae_dtype"])
    drawn = outline(folder, getattr(torch, models["dtype"]), vae_dtype, _replaced(models))
    pipeline = drawn.pipeline
    if models["scheduler"]:
        pipeline.scheduler = other_scheduler(pipeline.scheduler, models["scheduler"])
    pipeline.scheduler = respaced(pipeline.scheduler, models["steps_offset"], models["timestep_spacing"])
    if models["vae_tile_size"] is not None:
        decode_in_tiles(pipeline.vae, models["vae_tile_size"])
    chain = build_chain(config, family_of(pipeline, models["family"], models["call"], name=str(models["path"])))
    in_turns = models["offload"] is not None
    waiting = _text_encoders(drawn) if in_turns or models["offload_text_encoders"] else {}
    weights = {name: size for name, size in drawn.weights.items() if name not in waiting}
    with autocast_like(config["trainer"], torch.device("cpu")):
        found = estimate(chain, config["trainer"]["pairs_per_fit"], weights, drawn.computing(), in_turns=in_turns)
    if waiting:  # one after the other comes to the device before an update begins
        beside = 0 if in_turns else sum(weights.values())
        found = replace(found, total=max(found.total, beside + max(waiting.values())))
    *_, height, width = chain.latent_shape()
    factor = chain.family.vae_scale_factor
    return found, (height * factor, width * factor), sum(waiting.values())


def _replaced(models: Mapping[str, Any]) -> dict[str, Path]:
    """Returns the folders of parts that are not the pipeline's own; a file of weights fits the own configuration."""
    found = {}
    for name, part in Loading.of(models).components.items():
        if is_single_file(part.path) or part.path.endswith(".gguf") or part.file is not None:
            continue
        folder = _folder(part.path, f"models.components.{name}")
        below = folder / (part.subfolder or name)
        found[name] = below if (below / "config.json").is_file() else folder
    return found


def _text_encoders(drawn: Outline) -> dict[str, int]:
    return {name: size for name, size in drawn.weights.items() if name.startswith("text_encoder")}


def _folder(path: str, key: str = "models.path") -> Path:
    """Returns the folder of a model's configuration files; those of a hub id are fetched, without weights.

    Raises:
        SgoolError: The hub is out of reach, and they are not in the cache.
    """
    resolved = Path(resolve_asset(path))
    if resolved.is_dir():
        return resolved
    from huggingface_hub import snapshot_download

    with hub_access() as unreachable:
        try:
            return Path(snapshot_download(path, allow_patterns=_SMALL_FILES))
        except (OSError, ValueError) as error:
            mend = f"give a folder with {key}=PATH; its config.json files and tokenizers are enough"
            if unreachable:
                raise SgoolError(f"`{key}`: {not_cached(repr(path), unreachable, mend)}") from error
            raise SgoolError(f"`{key}`: {path!r} cannot be fetched ({error}); check the id, or {mend}") from error


def _gib(size: float) -> str:
    return f"{size / _GIB:.2f} GiB" if size >= 0.01 * _GIB else f"{size / 2**20:.1f} MiB"
