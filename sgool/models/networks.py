"""The networks of a run: each is loaded once, when it is first needed, and shared between terms, methods and judges."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from functools import cached_property
from typing import Any, TypeVar, cast

import torch

from sgool.errors import SgoolError
from sgool.models.clip import ClipTower, load_clip
from sgool.models.load import load_models
from sgool.models.stable_diffusion import StableDiffusion

T = TypeVar("T")


class Networks:
    """Frozen networks by what they were loaded from.

    Args:
        options: The configuration's ``models``.
        devices: The configuration's ``trainer.devices``.
        device: That of this process, where several share a run; None: by ``options`` and ``devices``.
    """

    def __init__(
        self, options: Mapping[str, Any], devices: int | list[int] = 1, device: torch.device | None = None
    ) -> None:
        self._options, self._devices, self._given = options, devices, device
        self._shared: dict[Hashable, Any] = {}

    @cached_property
    def device(self) -> torch.device:
        """The device of all networks."""
        if self._given is not None:
            return self._given
        wanted = str(self._options["device"])
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
    def models(self) -> StableDiffusion:
        """The frozen diffusion components."""
        options = self._options
        return load_models(
            options["path"],
            device=self.device,
            dtype=getattr(torch, options["dtype"]),
            channels_last=options["channels_last"],
            compile=options["compile"],
        )

    def clip(self, model: str, pretrained: str | None = None) -> ClipTower:
        """A frozen CLIP, loaded once however many terms and judges use it."""
        return self.shared(("clip", model, pretrained), lambda: load_clip(model, pretrained, device=str(self.device)))

    def shared(self, key: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` returned the first time that ``key`` was asked for.

        Args:
            key: Kind, file and every option that makes another network of it.
            make: Loads the network, frozen, onto `device`.
        """
        if key not in self._shared:
            self._shared[key] = make()
        return cast("T", self._shared[key])

    def fingerprints(self) -> frozenset[str]:
        """Empty: whoever keeps this to load networks does not use all of them; see `sgool.models.fingerprint`."""
        return frozenset()

    def _numbered(self, device: torch.device) -> torch.device:
        """A CUDA device without a number gets that of ``trainer.devices``, so that networks and trainer agree."""
        devices = self._devices
        if device.type == "cuda" and device.index is None and isinstance(devices, list):
            return torch.device("cuda", devices[0])
        return device
