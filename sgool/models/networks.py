"""The networks of a run, each loaded once, when it is first needed, and shared by terms, methods and judges."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Mapping
from functools import cached_property
from typing import Any, TypeVar, cast

import torch

from sgool.errors import SgoolError
from sgool.models.clip import ClipTower, load_clip
from sgool.models.family import Family
from sgool.models.load import load_models

T = TypeVar("T")


class Networks:
    """Loads frozen networks and keeps them, so that each is loaded only once.

    Args:
        options: The configuration's ``models``.
        devices: The configuration's ``trainer.devices``.
        device: Device of this process, if several processes share a run; None: ``options`` and ``devices`` decide.
    """

    def __init__(
        self, options: Mapping[str, Any], devices: int | list[int] = 1, device: torch.device | None = None
    ) -> None:
        self._options, self._devices, self._given = options, devices, device
        self._shared: dict[Hashable, Any] = {}

    @cached_property
    def device(self) -> torch.device:
        """Device of all networks."""
        if self._given is not None:
            return self._given
        wanted = str(self._options["device"])
        if wanted != "auto":
            if wanted.startswith("cuda") and not torch.cuda.is_available():
                raise SgoolError(f"`models.device`: got {wanted!r}, but torch sees no CUDA device; use auto or cpu")
            if wanted == "mps" and not torch.backends.mps.is_available():
                raise SgoolError("`models.device`: got 'mps', but torch sees no MPS device; use auto or cpu")
            return self._numbered(torch.device(wanted))
        if torch.cuda.is_available():
            return self._numbered(torch.device("cuda"))
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")

    @cached_property
    def models(self) -> Family:
        """Frozen components of the diffusion model."""
        options = self._options
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="`models.variant`")  # the run says it in a note
            models: Family = load_models(
                options["path"],
                device=self.device,
                dtype=getattr(torch, options["dtype"]),
                channels_last=options["channels_last"],
                compile=options["compile"],
                steps_offset=options.get("steps_offset"),
                timestep_spacing=options.get("timestep_spacing"),
                vae_dtype=options.get("vae_dtype") and getattr(torch, options["vae_dtype"]),
                vae_tile_size=options.get("vae_tile_size"),
                offload_text_encoders=bool(options.get("offload_text_encoders")),
                offload=options.get("offload"),
                family=options.get("family"),
                call=options.get("call"),
                loading=options,
            )
        return models

    def clip(self, model: str, pretrained: str | None = None) -> ClipTower:
        """Returns a frozen CLIP, which is loaded once for all terms and judges that use it."""
        return self.shared(("clip", model, pretrained), lambda: load_clip(model, pretrained, device=str(self.device)))

    def shared(self, key: Hashable, make: Callable[[], T]) -> T:
        """Returns the network of a key; it is made at the first call with that key.

        Args:
            key: Kind, file and all options that change the network.
            make: Loads the network, frozen, onto `device`.
        """
        if key not in self._shared:
            self._shared[key] = make()
        return cast("T", self._shared[key])

    def fingerprints(self) -> frozenset[str]:
        """Returns an empty set, because an object that keeps this one to load networks does not use all of them."""
        return frozenset()

    def _numbered(self, device: torch.device) -> torch.device:
        """Gives a CUDA device without a number that of ``trainer.devices``, so that networks and trainer agree."""
        devices = self._devices
        if device.type == "cuda" and device.index is None and isinstance(devices, list):
            return torch.device("cuda", devices[0])
        return device
