"""WS-DAN checkpoints in both public layouts, against an independent forward pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models import Inception3

from sgool.errors import SgoolError
from sgool.models.checkpoints import read_state
from sgool.models.classifier import load_classifier
from sgool.models.wsdan import attention_pool

NAMES = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "Mixed_5b", "Mixed_5c",
         "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e")  # fmt: skip
#: Their places in the Sequential `features`, whose entries 3 and 6 are poolings.
PLACES = (0, 1, 2, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14)
MAPS, CLASSES = 3, 5


@pytest.fixture(scope="module")
def trunk() -> Inception3:
    """torchvision's Inception-v3 with batch statistics as after training."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Inception3(num_classes=4, aux_logits=False, init_weights=False).eval().requires_grad_(False)
        for name, value in network.named_buffers():
            if name.endswith("running_mean"):
                value.normal_(std=0.1)
            elif name.endswith("running_var"):
                value.uniform_(0.1, 0.3)
    return network


def _state(trunk: Inception3, layout: str, bias: bool) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    head = "fc" if layout == "features" else "fc_new"
    state = {f"{head}.weight": torch.randn(CLASSES, MAPS * 768, generator=generator) * 0.01}
    if bias:
        state[f"{head}.bias"] = torch.randn(CLASSES, generator=generator)
    if layout == "features":
        for name, place in zip(NAMES, PLACES, strict=True):
            state |= {f"features.{place}.{k}": v for k, v in trunk.get_submodule(name).state_dict().items()}
        attention = trunk.Mixed_7a.branch3x3_1.state_dict()
        state |= {f"attentions.{k}": (v[:MAPS] if v.ndim else v) for k, v in attention.items()}
        return state
    for name in (*NAMES, "Mixed_7a"):
        state |= {f"{name}.{k}": v for k, v in trunk.get_submodule(name).state_dict().items()}
    return state


def _reference(trunk: Inception3, state: dict[str, Tensor], images: Tensor, mean: Any, std: Any) -> Tensor:
    """Plain loops, as the papers write it."""
    x = (images - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    for name in NAMES:
        x = trunk.get_submodule(name)(x)
        if name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3"):
            x = F.max_pool2d(x, 3, 2)
    attention = trunk.Mixed_7a.branch3x3_1(x)[:, :MAPS]
    parts = [(x * attention[:, m : m + 1]).mean(dim=(2, 3)) for m in range(MAPS)]
    matrix = torch.cat(parts, dim=1)
    matrix = torch.sign(matrix) * torch.sqrt(matrix.abs() + 1e-12)
    matrix = matrix / matrix.norm(dim=1, keepdim=True)
    head = "fc" if "fc.weight" in state else "fc_new"
    return F.linear(100 * matrix, state[f"{head}.weight"], state.get(f"{head}.bias"))


@pytest.mark.parametrize(
    ("layout", "bias", "size", "mean", "std"),
    [
        ("features", True, 448, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("features", False, 448, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("torchvision", True, 512, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ],
)
def test_both_layouts_load_and_agree_with_plain_loops(
    trunk: Inception3, tmp_path: Path, layout: str, bias: bool, size: int, mean: Any, std: Any
) -> None:
    state = _state(trunk, layout, bias)
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "bird.pth.tar")
    classifier = load_classifier("wsdan", checkpoint=str(tmp_path / "bird.pth.tar"))
    assert (classifier.num_classes, classifier.input_size, classifier.name) == (CLASSES, size, "bird.pth.tar")
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(2))
    expected = _reference(trunk, state, images, mean, std)
    assert float(expected.std(dim=1).min()) > 0.1  # a head that tells classes apart, or the test says nothing
    with torch.no_grad():
        # float32 through 14 blocks in the same order; the pooling sums in another.
        torch.testing.assert_close(classifier(images), expected, rtol=1e-3, atol=1e-3)


def test_mean_and_std_one_half_is_what_transform_input_makes_of_imagenets() -> None:
    pixels = torch.rand(1, 3, 4, 4, dtype=torch.float64)
    mean = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64).view(1, 3, 1, 1)
    network = Inception3(num_classes=2, aux_logits=False, init_weights=False, transform_input=True)
    transformed = network._transform_input((pixels - mean) / std)
    torch.testing.assert_close(transformed, (pixels - 0.5) / 0.5, rtol=1e-12, atol=1e-12)


def test_attention_pool_gradient_matches_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(2, 3, 4, 4, dtype=torch.float64, generator=generator) + 0.1
    attentions = torch.rand(2, 2, 4, 4, dtype=torch.float64, generator=generator) + 0.1
    pooled = attention_pool(features, attentions)
    torch.testing.assert_close(pooled.norm(dim=1), torch.ones(2, dtype=torch.float64))
    assert torch.autograd.gradcheck(attention_pool, (features.requires_grad_(), attentions.requires_grad_()))


def test_a_checkpoint_with_holes_lists_them(trunk: Inception3, tmp_path: Path) -> None:
    state = _state(trunk, "features", True)
    del state["features.0.conv.weight"]
    state["extra.weight"] = torch.ones(1)
    torch.save(state, tmp_path / "bird.pth")
    with pytest.raises(SgoolError, match=r"1 missing: features.0.conv.weight; 1 unexpected: extra.weight"):
        load_classifier("wsdan", checkpoint=str(tmp_path / "bird.pth"))


def test_another_network_is_refused(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.ones(1, 1)}, tmp_path / "x.pth")
    assert read_state(tmp_path / "x.pth")
    with pytest.raises(SgoolError, match=r"is no WS-DAN checkpoint: expected fc_new.weight or fc.weight"):
        load_classifier("wsdan", checkpoint=str(tmp_path / "x.pth"))
