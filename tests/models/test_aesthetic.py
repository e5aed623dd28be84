"""LAION's heads in their public layouts on tiny towers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sgool.errors import SgoolError
from sgool.models.aesthetic import layered_head, load_aesthetic
from sgool.models.clip import ClipTower


def linear_file(path: Path, width: int) -> Path:
    """The layout of sa_0_4_vit_*_linear.pth: the state dict of nn.Linear(width, 1)."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(nn.Linear(width, 1).state_dict(), path)
    return path


def layered_file(path: Path, width: int) -> Path:
    """The layout of sac+logos+ava1-l14-linearMSE.pth: linear layers with dropouts between them."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        layers = nn.Sequential(
            nn.Linear(width, 12), nn.Dropout(0.2), nn.Linear(12, 10), nn.Dropout(0.2), nn.Linear(10, 8),
            nn.Dropout(0.1), nn.Linear(8, 4), nn.Linear(4, 1),
        )  # fmt: skip
    torch.save({f"layers.{name}": value for name, value in layers.state_dict().items()}, path)
    return path


def images(size: int = 32) -> Tensor:
    return torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_linear_head_is_the_affine_map_of_the_normalised_embedding(clip_tower: ClipTower, tmp_path: Path) -> None:
    file = linear_file(tmp_path / "sa_0_4_vit_l_14_linear.pth", 16)
    predictor = load_aesthetic(clip_tower, str(file))
    state = torch.load(file, weights_only=True)
    features = clip_tower.encode_image(images())
    torch.testing.assert_close(features.norm(dim=1), torch.ones(3))
    expected = features @ state["weight"][0] + state["bias"]
    # float32 sums in another order.
    torch.testing.assert_close(predictor(images(), predictor.encode_prompts(["a"] * 3)), expected)


def test_layered_head_multiplies_without_activations_and_dropout(clip_tower: ClipTower, tmp_path: Path) -> None:
    file = layered_file(tmp_path / "sac+logos+ava1-l14-linearMSE.pth", 16)
    predictor = load_aesthetic(clip_tower, str(file))
    state = torch.load(file, weights_only=True)
    expected = clip_tower.encode_image(images())
    for layer in (0, 2, 4, 6, 7):
        expected = expected @ state[f"layers.{layer}.weight"].T + state[f"layers.{layer}.bias"]
    torch.testing.assert_close(predictor(images(), torch.zeros(3, 0)), expected[:, 0])


def test_gradient_reaches_the_pixels(clip64: ClipTower, tmp_path: Path) -> None:
    predictor = load_aesthetic(clip64, str(layered_file(tmp_path / "head.pth", 16))).double()
    batch = images().double().requires_grad_()
    (gradient,) = torch.autograd.grad(predictor(batch, torch.zeros(3, 0)).sum(), batch)
    probe = torch.randn(batch.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ends = [predictor(batch + sign * 1e-6 * probe, torch.zeros(3, 0)).sum() for sign in (1, -1)]
    # Central difference in float64: 1e-16 / 1e-6 of rounding; ReLU kinks within the step are unlikely.
    torch.testing.assert_close((gradient * probe).sum(), (ends[0] - ends[1]) / 2e-6, rtol=1e-4, atol=1e-8)
    assert float(gradient.abs().max()) > 0


def test_a_head_for_another_clip(clip_tower: ClipTower, tmp_path: Path) -> None:
    file = linear_file(tmp_path / "head.pth", 768)
    with pytest.raises(SgoolError, match=r"takes embeddings of 768 numbers, but the CLIP .* gives 16"):
        load_aesthetic(clip_tower, str(file))


def test_other_layouts(clip_tower: ClipTower, tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.ones(1, 16)}, tmp_path / "head.pth")
    with pytest.raises(SgoolError, match=r"is no aesthetic or reward head: expected layers.0.weight"):
        load_aesthetic(clip_tower, str(tmp_path / "head.pth"))
    state = torch.load(layered_file(tmp_path / "v2.pth", 16), weights_only=True)
    del state["layers.4.bias"]
    with pytest.raises(SgoolError, match=r"1 missing: layers.4.bias"):
        layered_head(state, "v2.pth")
