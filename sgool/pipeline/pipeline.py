"""The pipeline: a diffusion model whose images are optimised for what the prompt asks for."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Generator, Tensor

from sgool.errors import ConfigError, SgoolError
from sgool.methods.options import METHODS
from sgool.objectives.build import taken_names
from sgool.pipeline.arguments import Arguments, StepEnd
from sgool.pipeline.callbacks import Bar, OnStepEnd, Results
from sgool.pipeline.checks import changed_models, unreachable_latents
from sgool.pipeline.clips import Clips, checked_clips
from sgool.pipeline.finish import check_results, denoised_latents, explained_memory
from sgool.pipeline.networks import PipelineNetworks
from sgool.pipeline.noise import make_pairs
from sgool.pipeline.output import SGOOLPipelineOutput, make_output
from sgool.pipeline.settings import Settings, as_hydra, described, joined, of_loading, of_path, of_pipeline, together
from sgool.prompts.datamodule import PromptDataModule
from sgool.run.config import load_config, to_plain
from sgool.run.parts import Given, Parts
from sgool.run.train import train


class SGOOLPipeline:
    """A text-to-image pipeline that optimises its first latents, called like a pipeline of diffusers.

    It brings a prompt to the same chain, method, callbacks and Lightning Trainer as ``sgool fit``, with the settings of
    the model's configuration, and keeps the results in memory. The networks of the pipeline are frozen in place.

    Args:
        pipeline: A loaded diffusers pipeline of a class that a family is for (docs/models.md). Its safety checker, if
            any, is not run. SDXL's autoencoder is in float32 during a call if it is in float16 and its
            ``force_upcast`` is set, as in diffusers. `from_pretrained` takes a name, a folder or a hub id instead.
        models: Name of the configuration whose settings are taken (configs/models); None: the one that fits the name
            that the pipeline was loaded from, else the defaults of the pipeline's ``__call__`` with its own scheduler.
        family: Name of the model's family; None: that of the pipeline's class. "replay" takes any pipeline.
        call: Further arguments of the pipeline's own ``__call__``, such as ``{"max_sequence_length": 77}``.
        guide: The CLIP that objectives use: a name of open_clip's registry as ``(name, pretrained)``, a folder in
            open_clip's layout, an embedded tower such as "emoji_world/guide", or an open_clip model as
            ``(model, tokenizer)`` or `sgool.models.clip.ClipTower`. None: the configuration's, which may be downloaded.
        judges: Name -> CLIP in the same forms, to score the images; {}: the guide alone scores; False: nothing is
            scored. None: the configuration's, which may be downloaded.
        config_dir: A folder with configurations and components of your own, as for ``sgool fit --config-dir``.

    Raises:
        ConfigError: All that is wrong with these arguments.

    Examples:
        >>> import torch
        >>> from sgool import SGOOLPipeline
        >>> pipe = SGOOLPipeline.from_pretrained("emoji_world_turbo", device="cpu")
        >>> pipe.set_progress_bar_config(disable=True)
        >>> generator = torch.Generator().manual_seed(0)
        >>> result = pipe("a green cat", method="doodl", num_optimization_steps=1, generator=generator)
        >>> result.images[0].size
        (64, 64)
        >>> list(result.history["update"])
        [0, 1]
    """

    def __init__(
        self,
        pipeline: Any,
        *,
        models: str | None = None,
        family: str | None = None,
        call: Mapping[str, Any] | None = None,
        guide: Any = None,
        judges: Mapping[str, Any] | Literal[False] | None = None,
        config_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        own_dir = None if config_dir is None else Path(config_dir)
        clips, problems = checked_clips(guide, judges)
        if isinstance(pipeline, (str, os.PathLike)):
            raise ConfigError([f"`pipeline`: expected a loaded pipeline, got {os.fspath(pipeline)!r}; use "
                               "SGOOLPipeline.from_pretrained", *problems])  # fmt: skip
        settings = together(problems, lambda: of_pipeline(pipeline, models, family, own_dir))
        more = [] if call is None else [f"models.call={as_hydra(call)}"]
        self._set(settings, clips, own_dir, more, pipeline)

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        *,
        models: str | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        torch_dtype: torch.dtype | None = None,
        variant: str | None = None,
        guide: Any = None,
        judges: Mapping[str, Any] | Literal[False] | None = None,
        overrides: Sequence[str] = (),
        config_dir: str | os.PathLike[str] | None = None,
    ) -> SGOOLPipeline:
        """Loads a model as ``sgool fit models=NAME`` does, when it is first called.

        Args:
            path: A model's name among the configurations ("emoji_world" needs no download), a folder that diffusers
                saved, a single file of weights, or a hub id.
            models: Name of the configuration; None: the one whose model has this id or this folder's name, else the
                pipeline's own defaults.
            device: "cpu", "mps", "cuda" or "cuda:1"; None: an accelerator if there is one.
            dtype: Data type of the weights; None: the configuration's.
            torch_dtype: diffusers' older name for ``dtype``.
            variant: Variant of the weights' files, such as "fp16"; None: the configuration's.
            guide: As for the class.
            judges: As for the class.
            overrides: Further settings, also of how the model is loaded: ``["models.vae_tile_size=512"]``.
            config_dir: As for the class.

        Raises:
            ConfigError: All that is wrong with these arguments.
        """
        own_dir = None if config_dir is None else Path(config_dir)
        clips, problems = checked_clips(guide, judges)
        more, wrong = of_loading(device and torch.device(device), dtype, torch_dtype, variant)
        settings = together([*problems, *wrong], lambda: of_path(os.fspath(path), models, own_dir))
        made = cls.__new__(cls)
        made._set(settings, clips, own_dir, [*overrides, *more], None)
        return made

    def _set(self, settings: Settings, clips: Clips, config_dir: Path | None, more: list[str], pipeline: Any) -> None:
        self._settings, self._clips, self._config_dir = settings, clips, config_dir
        self._own = [*more, *clips.overrides]
        self._bar: dict[str, Any] = {}
        self._configs: dict[tuple[str, ...], dict[str, Any]] = {}
        self._start = self._composed(["methods=[vanilla]"])
        self._networks = PipelineNetworks(self._start["models"], pipeline, settings.family, clips.towers)
        self.pipeline = pipeline

    def __call__(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        *,
        method: str = "sgool",
        objective: Any = None,
        budget: int | Mapping[str, float] | None = None,
        candidates: int | None = None,
        num_optimization_steps: int | None = None,
        saliency: Any = None,
        sampler: Any = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        height: int | None = None,
        width: int | None = None,
        num_images_per_prompt: int = 1,
        generator: Generator | Sequence[Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepEnd | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        overrides: Sequence[str] = (),
    ) -> SGOOLPipelineOutput:
        """Makes images and optimises them. N is the number of prompts times ``num_images_per_prompt``.

        Args:
            prompt: A text, or a list of texts.
            negative_prompt: A text for all prompts, or a list with one each.
            method: "sgool", "doodl", "reno", "best_of_n", "vanilla", ... (docs/methods.md).
            objective: What to minimise: a name of configs/objective; a function of images (n, 3, H, W) in [0, 1] that
                returns losses (n,) by torch operations; a `sgool.objectives.Term`; or several of them, with weights:
                ``["text_alignment", function, (term, 0.5)]`` adds up, ``{"mine": function}`` gives a name of its own
                to a function or term. Without a name of configs/objective, the configuration's objective is left out.
            budget: The most network calls an image may cost, backward passes included, or ``{"seconds": 30}``.
            candidates: How many first latents are tried, before the updates or instead of them.
            num_optimization_steps: Updates.
            saliency: A name of configs/saliency, or a detector: it is called with images (n, 3, H, W) in [0, 1] and
                returns maps (n, 1, H, W) in [0, 1]. Methods without saliency do not look at it.
            sampler: A name of configs/sampler, or a sampler (`sgool.diffusion.sampler.Sampler`).
            num_inference_steps: Denoising steps.
            guidance_scale: Weight of guidance, as in diffusers.
            height: Height of the images in pixels; None: the configuration's, else the model's own.
            width: Their width, in the same way.
            num_images_per_prompt: Images of each prompt.
            generator: Draws the first latents as in diffusers: one for all images, or a list with one an image. None:
                each image's seed is drawn from torch's global generator.
            latents: First latents (N, C, h, w), or all streams (S, N, C, h, w), in place of drawn ones.
            output_type: "pil", "np", "pt" or "latent"; see `SGOOLPipelineOutput`.
            return_dict: False returns the tuple ``(images,)`` instead.
            callback_on_step_end: Called after each *update* as ``callback(pipe, update, updates, tensors)``, where
                ``updates`` is how many there will be at most. It may return a mapping with other "latents". A method
                without updates calls it after each candidate, without tensors.
            callback_on_step_end_tensor_inputs: Which tensors it gets of the batch of n images under way: "latents"
                (n, C, h, w) after the update; and what the update saw: "images" (n, 3, H, W), "loss" (n,), "selection"
                (n,), "saliency_map" (n, 1, H, W) or None.
            overrides: Any setting of ``sgool fit``: ``["optimization.lr=2", "engine=reversible"]``.

        Raises:
            ConfigError: All that is wrong with the arguments, before anything loads.
            SgoolError: The model or a CLIP cannot be loaded, or no image was made well.
        """
        given = dict(locals())
        asked = Arguments(**{name: value for name, value in given.items() if name not in ("self", "return_dict")})
        config = self._config(asked)
        try:
            with self._networks.upcast_autoencoder():
                output = self._run(asked, config, self._parts(config, asked))
        except SgoolError as error:
            self._clips.explain(error)
            raise
        return output if return_dict else cast("SGOOLPipelineOutput", (output.images,))

    def _run(self, asked: Arguments, config: Mapping[str, Any], parts: Parts) -> SGOOLPipelineOutput:
        parts.check_streams()
        pairs = make_pairs(parts.chain, asked.prompts, asked.negatives, asked.generator, asked.latents)
        parts.check_pairs(pairs)
        module, rules = parts.method(asked.method, lambda note: warnings.warn(note, stacklevel=2))
        kept, bar = Results(), Bar(self._bar)
        names = asked.callback_on_step_end_tensor_inputs
        names = [names] if isinstance(names, str) else list(names or ())
        told = [OnStepEnd(self, asked.callback_on_step_end, names)] if asked.callback_on_step_end else []
        data = PromptDataModule(pairs, pairs_per_fit=config["trainer"]["pairs_per_fit"])
        with explained_memory(min(data.pairs_per_fit, len(pairs))):
            try:
                train(module, data, callbacks=[*rules, kept, bar, *told], logger=False, **parts.trainer_options())
            finally:
                bar.close()
            check_results(kept.results)
            latent = asked.output_type == "latent"
            denoised = denoised_latents(parts, kept.results, data.pairs_per_fit) if latent else None
        return make_output(kept.results, config, asked.output_type, denoised)

    def _parts(self, config: dict[str, Any], asked: Arguments) -> Parts:
        networks = self._networks.for_call(config["models"])
        sampler, detector = (None if isinstance(one, str) else one for one in (asked.sampler, asked.saliency))
        given = Given(networks, sampler, detector, asked.terms)
        return Parts(config, judged=self._clips.judged, given=given)

    def _config(self, asked: Arguments) -> dict[str, Any]:
        """Returns the plain configuration of a call."""
        lines = asked.config_overrides()
        config = self._composed(lines)
        entry = config["method"][asked.method]
        if own := asked.method_overrides(entry, bool(METHODS.options(entry).optimizes)):
            config = self._composed([*own, *lines])
        if asked.replaces_objective:
            config = {**config, "objective": {**config["objective"], "terms": {}}}
        problems = changed_models(config, self._start, self.pipeline is not None)
        problems += taken_names(config["objective"]["terms"], asked.terms)
        problems += unreachable_latents(config, asked.method, asked.output_type)
        if problems:
            raise ConfigError(problems)
        return config

    def _composed(self, lines: Sequence[str]) -> dict[str, Any]:
        overrides = tuple(joined([*self._settings.overrides, "logger=none", *self._own], lines))
        if overrides not in self._configs:
            self._configs[overrides] = to_plain(load_config(overrides, self._config_dir))
        return self._configs[overrides]

    def set_progress_bar_config(self, **options: Any) -> None:
        """Sets arguments of the tqdm bar, as in diffusers: ``set_progress_bar_config(disable=True)`` shows none."""
        self._bar = dict(options)

    def to(self, device: str | torch.device) -> SGOOLPipeline:
        """Moves the networks to a device and returns the pipeline itself. CLIPs are loaded there when needed.

        Raises:
            ConfigError: A data type is given: the weights keep theirs.
        """
        if isinstance(device, torch.dtype):
            raise ConfigError([f"`to`: expected a device, got {device}; give dtype= when the model is loaded"])
        self._networks.to(torch.device(device))
        return self

    @property
    def device(self) -> torch.device:
        """Device of the denoising network."""
        return torch.device(self._networks.model.device)

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the denoising network's weights."""
        dtype: torch.dtype = self._networks.model.dtype
        return dtype

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration of a call without arguments, with all methods (docs/configuration.md), as a copy."""
        return copy.deepcopy(self._start)

    def __repr__(self) -> str:
        what = self._start["models"]["path"] if self.pipeline is None else type(self.pipeline).__name__
        return f"SGOOLPipeline({what}\n{described(self._start, self._settings, judged=self._clips.judged)}\n)"
