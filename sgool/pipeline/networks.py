"""The networks of a pipeline: a model that is loaded already, or once, and CLIPs that are shared by all calls."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from sgool.models.autoencoder import overflows_in_float16
from sgool.models.clip import ClipTower
from sgool.models.families import family_of
from sgool.models.networks import Networks
from sgool.models.schedule import respaced

#: CLIPs that are given as objects have names that begin so in the configuration.
GIVEN = "given/"


class PipelineNetworks(Networks):
    """Keeps a model and the CLIPs, detectors and judges of all calls.

    Args:
        options: The configuration's ``models``.
        pipeline: A loaded diffusers pipeline; None: ``options`` say what is loaded, at first use.
        family: Family of the pipeline.
        towers: CLIPs that are given as objects, by their names in the configuration.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        pipeline: Any = None,
        family: str | None = None,
        towers: Mapping[str, ClipTower] | None = None,
    ) -> None:
        # The offset and the spacing of timesteps may change from call to call; see `for_call`.
        super().__init__({**options, "steps_offset": None, "timestep_spacing": None})
        self._pipeline, self._family = pipeline, family
        self._towers = dict(towers or {})
        self._made: Any = None
        self._parts: dict[str, Any] = {}  # what the pipeline had when the family was made
        self._where: torch.device | None = None

    @property
    def model(self) -> Any:
        """The model's family, with its own scheduler; it is made anew where a part of the pipeline was exchanged."""
        if self._pipeline is None:
            if self._made is None:
                self._made = Networks(self._options, self._devices, self._given).models
            return self._made
        parts = dict(self._pipeline.components)
        # The user may have given the pipeline another scheduler or network since. Objects are compared, not their ids,
        # which a new object may have from one that is gone.
        same = parts.keys() == self._parts.keys() and all(part is self._parts[name] for name, part in parts.items())
        if self._made is None or not same:
            self._parts = parts
            self._made = family_of(self._pipeline, self._family, self._options.get("call"))
        return self._made

    def for_call(self, options: Mapping[str, Any]) -> Networks:
        """Returns these networks for the ``models`` of a call, with its spacing of timesteps.

        What one call loads is there for the next.
        """
        own = copy.copy(self)
        family: Any = self.model
        spacing = options.get("steps_offset"), options.get("timestep_spacing")
        if spacing != (None, None) and getattr(family, "scheduler", None) is not None:
            scheduler = respaced(family.scheduler, *spacing)
            if scheduler is not family.scheduler:
                family = copy.copy(family)
                object.__setattr__(family, "scheduler", scheduler)  # some families are frozen dataclasses
        if family.device != self._where:  # somebody has moved the pipeline
            self._shared.clear()
        self._where = own._where = family.device
        vars(own).update(models=family, device=family.device)
        return own

    @contextmanager
    def upcast_autoencoder(self) -> Iterator[None]:
        """Has the autoencoder of SDXL and its like in float32 meanwhile, where it overflows in float16.

        `StableDiffusionXLPipeline` does so too, but only while it decodes. Each weight of float16 is one of float32, so
        that the pipeline has the same weights afterwards. Only a pipeline object is meant; a model that is loaded has
        ``models.vae_dtype``.
        """
        vae = getattr(self._pipeline, "vae", None) if self._family in ("sdxl", "replay") else None
        if not overflows_in_float16(vae):
            yield
            return
        assert vae is not None
        vae.to(torch.float32)
        try:
            yield
        finally:
            vae.to(torch.float16)

    def clip(self, model: str, pretrained: str | None = None) -> ClipTower:
        """Returns a CLIP, which is loaded once; one that was given as an object is that object."""
        if model in self._towers:
            return self._towers[model].to(self.device)
        return super().clip(model, pretrained)

    def to(self, device: torch.device) -> None:
        """Moves the model; what else was loaded is loaded again, on that device, when it is needed."""
        self._given = device
        vars(self).pop("device", None)
        moved = self._made if self._pipeline is None else self._pipeline
        if moved is not None:
            moved.to(device)
