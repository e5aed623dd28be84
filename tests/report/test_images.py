"""Images for the page, and the overlay."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from sgool.report.images import for_page, overlay
from tests.fake_run import blob


class TestImages:
    @pytest.mark.parametrize(
        ("size", "expected"),
        [((64, 64), (256, 256)), ((100, 50), (300, 150)), ((256, 256), (256, 256)), ((1536, 1024), (768, 512))],
    )
    def test_sizes(self, size: tuple[int, int], expected: tuple[int, int]) -> None:
        assert for_page(Image.new("L", size)).size == expected

    def test_overlay_lights_what_is_salient(self) -> None:
        image = Image.new("RGB", (64, 64), (100, 100, 100))
        saliency = Image.fromarray((blob()[0] * 255).astype(np.uint8))
        lit = np.asarray(overlay(image, saliency), dtype=np.float64).sum(axis=2)
        peak = np.unravel_index(blob()[0].argmax(), (64, 64))
        assert lit[peak] == lit.max()
        assert lit[peak] > 2 * lit[63, 0]
        assert overlay(image, saliency.resize((8, 8))).size == (64, 64)
