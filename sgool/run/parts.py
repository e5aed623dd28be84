"""The parts of a run, built from the configuration: the chain, methods, judges, and the Trainer's settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import lightning as L
import torch

from sgool.diffusion import Chain, build_engine, build_sampler
from sgool.diffusion.network import unread_negative_prompts
from sgool.diffusion.sampler import Sampler
from sgool.errors import ConfigError, SgoolError
from sgool.methods.base import PairModule
from sgool.methods.base_options import method_budget
from sgool.methods.budget import Budget
from sgool.methods.build import Ingredients, build_method, refusals
from sgool.methods.custom import check_custom, updates_latents
from sgool.methods.options import METHODS, method_optimization
from sgool.methods.starts import network_prompts
from sgool.methods.streams import checked_streams
from sgool.metrics import JudgePanel, SceneReader
from sgool.metrics.build import build_judges
from sgool.models.assets import resolve_asset
from sgool.models.clip import ClipTower
from sgool.models.family import Family
from sgool.models.networks import Networks
from sgool.objectives import Objective, SaliencySettings, Term, build_objective, build_term
from sgool.objectives.binding import binding_problems, refuse
from sgool.run.notes import cut_off
from sgool.run.world import World, accelerator_of
from sgool.saliency import SaliencyDetector, build_detector
from sgool.types import PromptSeed


@dataclass(frozen=True)
class Given:
    """Objects in place of what the configuration names, for callers that have them at hand.

    Attributes:
        networks: Loads and keeps the networks.
        sampler: The sampler.
        detector: The saliency detector.
        terms: Name -> term of the objective and its weight, beside those of the configuration.
    """

    networks: Networks | None = None
    sampler: Sampler | None = None
    detector: SaliencyDetector | None = None
    terms: Mapping[str, tuple[Term, float]] = field(default_factory=dict)


class Parts:
    """Makes the parts of a run over networks that are loaded once, when they are first needed.

    Args:
        config: The plain, validated configuration.
        world: The processes that share the pairs; by default this one alone.
        judged: Whether judges score the images.
        given: Objects in place of what the configuration names.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        world: World | None = None,
        *,
        judged: bool = True,
        given: Given | None = None,
    ) -> None:
        self._config, self._world, self._judged = config, world or World(), judged
        self._given = given or Given()

    @cached_property
    def networks(self) -> Networks:
        """All networks of the run."""
        if self._given.networks is not None:
            return self._given.networks
        return Networks(self._config["models"], self._config["trainer"]["devices"], self._world.device)

    @property
    def device(self) -> torch.device:
        """The device of all networks."""
        return self.networks.device

    @cached_property
    def chain(self) -> Chain:
        """The denoising chain that all methods share."""
        return build_chain(self._config, self.networks.models, self._given.sampler)

    @cached_property
    def towers(self) -> dict[str, ClipTower]:
        """The CLIP judges by their names, and the guide as "guide": its score is shown beside theirs."""
        options = self._config["models"]
        clips = {name: judge for name, judge in options["judges"].items() if judge.get("type", "clip") == "clip"}
        towers = {name: self.networks.clip(clip["model"], clip["pretrained"]) for name, clip in clips.items()}
        return {**towers, "guide": self.networks.clip(**options["guide"])}

    def check_pairs(self, pairs: Sequence[PromptSeed]) -> None:
        """Refuses pairs that the objective of any of the run's methods, or a judge, cannot be bound to.

        Raises:
            ConfigError: All of them, a sentence each (of a long list the first twenty).
        """
        problems: dict[str, None] = {}
        for name in self._config["methods"]:
            options = self._config["method"][name]
            kind = METHODS.options(options)
            if kind.needs_objective is False:
                continue
            held_out = self._held_out(name)
            objective = self._objective(options, held_out, clamp_images=False)
            terms = objective.terms | ({held_out: self._term(held_out)} if held_out else {})
            problems |= dict.fromkeys(binding_problems(terms, objective.saliency, pairs))
            if (choosing := self._choosing(name)) is not None:
                problems |= dict.fromkeys(binding_problems({}, choosing.saliency, pairs))
        problems |= dict.fromkeys(self.judges.problems(pairs) if self._judged else [])
        refuse(list(problems))

    def cut_off(self, pairs: Sequence[PromptSeed]) -> list[str]:
        """Returns a sentence for each prompt and negative prompt of these pairs of which something is not read."""
        negative = [pair.negative_prompt for pair in pairs] if self.chain.is_guided else []
        own = self.truncations([pair.prompt for pair in pairs], told=network_prompts(pairs))
        unique = list(dict.fromkeys(negative))
        return own + cut_off(unique, {"the pipeline": self.chain.truncated(unique)}, "negative prompt")

    def truncations(self, prompts: Iterable[str], told: Iterable[str] | None = None) -> list[str]:
        """Returns a sentence for each prompt that the pipeline, a CLIP or a term cuts off: who does not see what.

        Args:
            prompts: What objectives and judges are told.
            told: What the pipeline is told; None: ``prompts``.
        """
        read = list(dict.fromkeys(prompts))
        unique = list(dict.fromkeys(read if told is None else told))
        cuts: dict[str, dict[str, str | None]] = {}
        cuts["the pipeline"] = dict(zip(unique, self.chain.truncated(unique), strict=True))
        cuts |= {reader: dict(zip(read, texts, strict=True)) for reader, texts in self._readers(read).items()}
        all_prompts = list(dict.fromkeys([*read, *unique]))
        return cut_off(
            all_prompts, {reader: [own.get(prompt) or "" for prompt in all_prompts] for reader, own in cuts.items()}
        )

    def _readers(self, unique: list[str]) -> dict[str, Sequence[str | None]]:
        """Returns for each CLIP, other judge and term the text of each prompt that it does not read."""
        readers: dict[str, Sequence[str | None]] = {}
        readers |= {f"the {name} CLIP": tower.truncated(unique) for name, tower in self.towers.items()}
        others = {name: cut for name, cut in self.judges.truncated(unique).items() if name not in self.towers}
        readers |= {f"the judge {name}": cut for name, cut in others.items() if any(cut)}
        methods = [METHODS.options(self._config["method"][name]) for name in self._config["methods"]]
        if any(method.needs_objective is not False for method in methods):
            terms = build_objective(self._config["objective"], self.networks).truncated(unique)
            known = list(readers.values())
            # Most terms read with a CLIP that has spoken already.
            for name, cut in ((name, cut) for name, cut in terms.items() if cut not in known):
                readers[f"the objective's term {name}"] = cut
        return readers

    def unread_negative_prompts(self, negative_prompts: Iterable[str]) -> list[str]:
        """Returns a sentence if there are negative prompts and no guidance, so that the model does not read them."""
        unread = any(negative_prompts) and not self.chain.is_guided
        return [unread_negative_prompts(self.chain.guidance_scale)] if unread else []

    @cached_property
    def judges(self) -> JudgePanel:
        """All judges of the run and the scene reader."""
        options = self._config["models"]
        reader = None
        if options["scene_reader"]:
            reader = SceneReader.from_pretrained(resolve_asset(options["scene_reader"])).to(self.device)
        judges = build_judges(options["judges"], self._config["objective"]["terms"], self.networks)
        frames = self._config["objective"].get("frames", "all")
        looked_at = None if frames == "all" else int(frames)
        return JudgePanel({**judges, "guide": self.towers["guide"]}, reader, looked_at)

    def method(self, name: str, on_note: Callable[[str], None] | None = None) -> tuple[PairModule, list[L.Callback]]:
        """Builds a method by its name in the configuration: its module, and the callbacks that belong to it."""
        check_custom(self._config, [name])
        options, held_out = self._config["method"][name], self._held_out(name)
        settings = method_optimization(self._config, name)
        given = Ingredients(
            self.chain,
            self.judges if self._judged else None,
            lambda: self._objective(options, held_out, settings["clamp_images"]),
            lambda: self._term(held_out) if held_out else None,
            settings,
            on_note,
            lambda: self._choosing(name),
            Budget.of(method_budget(self._config, name), name),
        )
        return build_method(name, options, given)

    def check_methods(self) -> None:
        """Refuses budgets below what the run's methods take, and updates that do not fit their number or the latents.

        Raises:
            ConfigError: All of them, a sentence each.
        """
        problems = []
        check_custom(self._config, self._config["methods"])
        for name in self._config["methods"]:
            entry, early_stop = self._config["method"][name], method_optimization(self._config, name)["early_stop"]
            # What a function makes, and whether it can be stopped early, is known only once it is made.
            unknown = METHODS.options(entry).optimizes is None and early_stop["term"] is not None
            updates = unknown or updates_latents(entry, f"method.{name}")
            if not (updates or Budget.of(method_budget(self._config, name), name)):
                continue
            try:
                module, callbacks = self.method(name)
            except SgoolError as error:
                problems.append(str(error))
            else:
                problems += [f"`method.{name}`: {text}" for text in refusals(module, callbacks)]
        if problems:
            raise ConfigError(problems)

    def check_streams(self) -> None:
        """Refuses `optimization.streams: all` where the model's scheduler adds no noise, before any network call.

        Raises:
            SgoolError: It adds none.
        """
        for name in self._config["methods"]:
            if not METHODS.options(self._config["method"][name]).works_on_streams:
                continue
            streams = method_optimization(self._config, name)["streams"]
            if streams != "first":  # which every chain has: no network is loaded to find that out
                checked_streams(streams, self.chain)

    def _choosing(self, name: str) -> Objective | None:
        """The objective that a method chooses by, where it is not that of its updates."""
        options, settings = self._config["method"][name], method_optimization(self._config, name)
        own = bool(options.get("use_saliency"))
        if METHODS.options(options).optimizes is False:
            return None
        if settings["choose_by"] == "own" or (settings["choose_by"] == "salient") == own:
            return None
        return self._objective({**options, "use_saliency": not own}, self._held_out(name), settings["clamp_images"])

    def _held_out(self, name: str) -> str | None:
        """The term that stops a method's pairs: measured apart, since in the objective it would only cost time."""
        if not updates_latents(self._config["method"][name], f"method.{name}"):
            return None
        term: str | None = method_optimization(self._config, name)["early_stop"]["term"]
        return term

    def _objective(self, options: Mapping[str, Any], held_out: str | None, clamp_images: bool) -> Objective:
        objective = dict(self._config["objective"])
        objective["terms"] = {name: term for name, term in objective["terms"].items() if name != held_out}
        if not options.get("use_crops", True):
            objective["crops"] = {**objective["crops"], "num": 0}
        saliency = self._saliency(options) if options.get("use_saliency") else None
        own = options.get("clamp_images")
        clamp_images = clamp_images if own is None else own
        given = self._given.terms
        return build_objective(objective, self.networks, saliency, clamp_images=clamp_images, further=given)

    def _term(self, name: str) -> Term:
        return build_term(name, self._config["objective"]["terms"][name], self.networks)

    def _saliency(self, method: Mapping[str, Any]) -> SaliencySettings:
        options = {**self._config["saliency"], **method.get("saliency", {})}
        detector = options.pop("detector")
        return SaliencySettings(self._given.detector or build_detector(detector, self.networks), **options)

    def trainer_options(self) -> dict[str, Any]:
        """Returns the keyword arguments of the Lightning Trainer that the configuration decides on."""
        precision = {"precision": self._config["trainer"]["precision"]}
        if self._world.size > 1:
            return precision | self._world.trainer_options()
        accelerator = accelerator_of(self.device)
        index = self.device.index if accelerator == "gpu" else None
        return precision | {"accelerator": accelerator, "devices": 1 if index is None else [index]}


def build_chain(config: Mapping[str, Any], models: Family, given: Sampler | None = None) -> Chain:
    """Builds the chain of a plain, validated configuration over the networks of a model.

    Args:
        config: The configuration.
        models: The networks.
        given: A sampler in place of the configuration's.
    """
    sampler, engine, options = (dict(config[key]) for key in ("sampler", "engine", "models"))
    return Chain(
        models,
        num_inference_steps=sampler.pop("num_inference_steps"),
        guidance_scale=sampler.pop("guidance_scale"),
        decode=sampler.pop("decode", "both"),
        split_guidance=engine.pop("split_guidance"),
        block_checkpointing=engine.pop("block_checkpointing"),
        sampler=given or build_sampler(**sampler),
        engine=build_engine(**engine),
        height=options["height"],
        width=options["width"],
    )
