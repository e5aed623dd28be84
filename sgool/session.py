"""What a run needs once: networks, methods and judges, built from the configuration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import torch

from sgool.diffusion import build_engine, build_sampler
from sgool.errors import SgoolError
from sgool.methods import LatentOptimization, Method, Vanilla
from sgool.metrics import JudgePanel, SceneReader
from sgool.models.assets import resolve_asset
from sgool.models.clip import ClipTower, load_clip
from sgool.models.load import DiffusionModels, load_models
from sgool.objectives import CropSettings, Objective, SaliencySettings, TextAlignment
from sgool.saliency import SpectralResidual


class Session:
    """Builds each network once, when it is first needed, and shares it between terms, methods and judges.

    Args:
        config: The plain, validated configuration.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config
        self._clips: dict[tuple[str, str | None], ClipTower] = {}

    @cached_property
    def device(self) -> torch.device:
        """The device of all networks."""
        wanted = str(self._config["models"]["device"])
        if wanted != "auto":
            if wanted.startswith("cuda") and not torch.cuda.is_available():
                raise SgoolError(
                    f"`models.device`: {wanted!r} was asked for, but torch sees no CUDA device; use auto or cpu"
                )
            if wanted == "mps" and not torch.backends.mps.is_available():
                raise SgoolError("`models.device`: 'mps' was asked for, but torch sees no MPS device; use auto or cpu")
            return self._numbered(torch.device(wanted))
        if torch.cuda.is_available():
            return self._numbered(torch.device("cuda"))
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")

    @cached_property
    def models(self) -> DiffusionModels:
        """The frozen diffusion components."""
        options = self._config["models"]
        return load_models(
            options["path"],
            device=self.device,
            dtype=getattr(torch, options["dtype"]),
            channels_last=options["channels_last"],
            compile=options["compile"],
        )

    def clip(self, model: str, pretrained: str | None = None) -> ClipTower:
        """A frozen CLIP, loaded once however many terms and judges use it."""
        key = (model, pretrained)
        if key not in self._clips:
            self._clips[key] = load_clip(model, pretrained, device=str(self.device))
        return self._clips[key]

    @cached_property
    def towers(self) -> dict[str, ClipTower]:
        """The judges by name, and the guide under its own: what was optimised is shown beside them."""
        options = self._config["models"]
        towers = {name: self.clip(**reference) for name, reference in options["judges"].items()}
        return {**towers, "guide": self.clip(**options["guide"])}

    def truncations(self, prompts: Iterable[str]) -> list[str]:
        """One sentence per prompt that the pipeline's or a CLIP's tokenizer cuts off, with the text that is lost."""
        unique = list(dict.fromkeys(prompts))
        cuts = {"the pipeline": self.models.truncated(unique)}
        cuts |= {f"{name} CLIP": [cut or "" for cut in tower.truncated(unique)] for name, tower in self.towers.items()}
        return [
            f"over-long prompt {prompt!r}: {reader} does not see {cut!r}"
            for reader, texts in cuts.items()
            for prompt, cut in zip(unique, texts, strict=True)
            if cut
        ]

    @cached_property
    def judges(self) -> JudgePanel:
        """All judges of the run and the scene reader."""
        options = self._config["models"]
        reader = None
        if options["scene_reader"]:
            reader = SceneReader.from_pretrained(resolve_asset(options["scene_reader"])).to(self.device)
        return JudgePanel(self.towers, reader)

    def method(self, name: str) -> Method:
        """A method by its name in the configuration."""
        options = self._config["method"][name]
        if not options["optimize"]:
            return Vanilla(self.models)
        return LatentOptimization(name, self.models, self._objective(options), self._config["optimization"])

    def _objective(self, options: Mapping[str, Any]) -> Objective:
        described = self._config["objective"]
        terms = {name: TextAlignment(self.clip(**term["clip"]), name) for name, term in described["terms"].items()}
        weights = {name: float(term["weight"]) for name, term in described["terms"].items()}
        saliency = self._saliency() if options["use_saliency"] else None
        return Objective(terms, weights, CropSettings(**described["crops"]), saliency)

    def _saliency(self) -> SaliencySettings:
        options = dict(self._config["saliency"])
        detector = dict(options.pop("detector"))
        detector.pop("name")
        return SaliencySettings(SpectralResidual(**detector), **options)

    def module_options(self) -> dict[str, Any]:
        """Keyword arguments of LatentPairModule that all methods share."""
        sampler, engine = dict(self._config["sampler"]), dict(self._config["engine"])
        return {
            "num_inference_steps": sampler.pop("num_inference_steps"),
            "guidance_scale": sampler.pop("guidance_scale"),
            "decode_first_only": sampler.pop("decode", "both") == "x",
            "split_guidance": engine.pop("split_guidance"),
            "height": self._config["models"]["height"],
            "width": self._config["models"]["width"],
            "sampler": build_sampler(**sampler),
            "engine": build_engine(**engine),
        }

    def trainer_options(self) -> dict[str, Any]:
        """Keyword arguments of the Lightning Trainer."""
        options = self._config["trainer"]
        accelerator = {"cpu": "cpu", "cuda": "gpu", "mps": "mps"}[self.device.type]
        index = self.device.index if accelerator == "gpu" else None
        devices = 1 if index is None else [index]
        return {"accelerator": accelerator, "devices": devices, "precision": options["precision"]}

    def _numbered(self, device: torch.device) -> torch.device:
        """A CUDA device without a number gets that of ``trainer.devices``, so that networks and trainer agree."""
        devices = self._config["trainer"]["devices"]
        if device.type == "cuda" and device.index is None and isinstance(devices, list):
            return torch.device("cuda", devices[0])
        return device
