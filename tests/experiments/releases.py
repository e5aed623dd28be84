"""Marks of tests that an older release of a library cannot pass."""

from __future__ import annotations

from importlib.metadata import version

import pytest
from packaging.version import Version

zeros_in_place_of_t5 = pytest.mark.skipif(
    Version(version("diffusers")) < Version("0.36"),
    reason="diffusers 0.35 gives Stable Diffusion 3 without T5 zeros of a length of its own",
)
