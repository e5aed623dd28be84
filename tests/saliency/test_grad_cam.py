from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sgool.errors import ConfigError, SgoolError
from sgool.models.clip import ClipTower, load_clip
from sgool.saliency import GradCam
from sgool.saliency.grad_cam import _leaf_at, as_grid, plus_plus_weights
from sgool.types import PromptSeed
from tests.tiny import tiny_clip_folder

SEED = 5  # of texts for which all four maps are not zero
PAIRS = (
    PromptSeed("a red cat", metadata={"noun": "cat"}),
    PromptSeed("two green trees", metadata={"noun": "trees"}),
)


@pytest.fixture(scope="module")
def towers(clip64: ClipTower, wordpiece_folder: Path) -> dict[str, ClipTower]:
    """One of each kind in float64: a ResNet with attention pooling, a ViT with a class token."""
    return {"resnet": clip64, "vit": load_clip(str(wordpiece_folder), dtype=torch.float64)}


def images(number: int = 2, height: int = 32, width: int = 32) -> Tensor:
    return torch.rand(number, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def texts(tower: ClipTower, number: int = 2) -> Tensor:
    """Embeddings (number, D) that do not depend on the tokenizer, whose training is not the same in every run."""
    vectors = torch.randn(number, 16, generator=torch.Generator().manual_seed(SEED), dtype=torch.float64)
    return F.normalize(vectors[:, : tower.encode_text(["a"]).shape[1]], dim=1)


def looking_for(tower: ClipTower, embeddings: Tensor, plus_plus: bool = False) -> GradCam:
    detector = GradCam(tower, plus_plus=plus_plus)
    detector._texts = embeddings
    return detector


def logit(tower: ClipTower, square: Tensor, text: Tensor) -> Tensor:
    scale = tower.model.logit_scale.exp()  # type: ignore[operator, union-attr]
    return scale * (tower.encode_image(square) @ text.to(tower.dtype))


def squeezed(batch: Tensor, tower: ClipTower) -> Tensor:
    return F.interpolate(batch, (tower.input_size,) * 2, mode="bilinear", antialias=True)


def reference(
    tower: ClipTower, layer: nn.Module, image: Tensor, text: Tensor, tokens: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Activations and gradients (C, h, w) of one image, through the whole network's graph."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, arguments: object, output: Tensor) -> None:
        output.retain_grad()
        kept.append(output)

    handle = layer.register_forward_hook(keep)
    logit(tower, squeezed(image, tower).requires_grad_(), text).sum().backward()
    handle.remove()
    assert kept[0].grad is not None
    found = [kept[0].detach()[0].numpy(), kept[0].grad[0].numpy()]
    if tokens:  # one class token, then rows of the grid
        side = tower.input_size // 8
        found = [x[1:].T.reshape(-1, side, side) for x in found]
    return found[0], found[1]


def paper_weights(activations: np.ndarray, gradients: np.ndarray, plus_plus: bool) -> np.ndarray:
    """Channel by channel, cell by cell."""
    weights = np.zeros(len(activations))
    for c, (a, g) in enumerate(zip(activations, gradients, strict=True)):
        if not plus_plus:
            weights[c] = g.sum() / g.size
            continue
        for i, j in np.ndindex(*g.shape):
            if g[i, j] > 0:
                alpha = g[i, j] ** 2 / (2 * g[i, j] ** 2 + a.sum() * g[i, j] ** 3)
                weights[c] += alpha * g[i, j]
    return weights


@pytest.mark.parametrize("plus_plus", [False, True])
@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_agrees_with_the_papers_formulas(towers: dict[str, ClipTower], kind: str, plus_plus: bool) -> None:
    tower = towers[kind]
    detector = looking_for(tower, texts(tower), plus_plus)
    maps = detector(images())
    for index, text in enumerate(texts(tower)):
        found = reference(tower, detector.layer, images()[index : index + 1], text, tokens=kind == "vit")
        weights = paper_weights(*found, plus_plus)
        cells = np.maximum((weights[:, None, None] * found[0]).sum(0), 0)
        expected = F.interpolate(torch.from_numpy(cells)[None, None], (32, 32), mode="bilinear")[0, 0]
        assert expected.max() > expected.min(), "the example must have a map"
        expected = (expected - expected.min()) / (expected.max() - expected.min())
        # float64 through a network of some ten layers, batch of two against one.
        torch.testing.assert_close(maps[index, 0], expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_weights_are_the_slope_of_the_logit(towers: dict[str, ClipTower], kind: str) -> None:
    """Grad-CAM's weight of a channel, times the cells, is how the logit answers to a shift of the whole channel."""
    tower = towers[kind]
    (text,) = texts(tower, 1)
    detector = looking_for(tower, text[None])
    image = images(1)
    _, gradients = detector._explain(squeezed(image, tower), detector._targets(1))
    step = 1e-7  # small, so that no unit crosses a kink
    for channel in range(0, gradients.shape[1], 5):
        shifted = []
        for sign in (1, -1):

            def shift(module: nn.Module, arguments: object, output: Tensor, sign: int = sign) -> Tensor:
                output = output.clone()
                cells = output[:, channel] if kind == "resnet" else output[:, 1:, channel]  # noqa: B023
                cells += sign * step
                return output

            handle = detector.layer.register_forward_hook(shift)
            shifted.append(logit(tower, squeezed(image, tower), text))
            handle.remove()
        slope = (shifted[0] - shifted[1])[0] / (2 * step)
        # Rounding: logits of about 100, so 1e-14 / 1e-7.
        torch.testing.assert_close(gradients[0, channel].sum(), slope, rtol=1e-5, atol=1e-6)


def test_plus_plus_weights_where_the_formula_divides_by_zero() -> None:
    gradients = torch.tensor([[[[0.0, 2.0]]]], dtype=torch.float64)
    activations = torch.tensor([[[[0.0, -1.0]]]], dtype=torch.float64)
    # 2 * 4 + (-1) * 8 = 0 at the second cell, 0 / 0 at the first: both count nothing.
    assert plus_plus_weights(activations, gradients).tolist() == [[0.0]]


class _Logits(nn.Module):
    """The logit as an output of one class, for the grad-cam package; its input needs a gradient for its hooks."""

    def __init__(self, tower: ClipTower, text: Tensor) -> None:
        super().__init__()
        self.tower, self.text = tower, text

    def forward(self, square: Tensor) -> Tensor:
        return logit(self.tower, square.requires_grad_(), self.text)[:, None]


@pytest.mark.parametrize("plus_plus", [False, True])
@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_agrees_with_the_grad_cam_package(
    clip_tower: ClipTower, wordpiece_tower: ClipTower, kind: str, plus_plus: bool
) -> None:
    package = pytest.importorskip("pytorch_grad_cam", reason="pip install grad-cam (docs/saliency.md)")
    tower = copy.deepcopy(clip_tower if kind == "resnet" else wordpiece_tower)
    # The package adds 1e-6 to the quotient of Grad-CAM++: gradients must be large for that to be nothing.
    torch.nn.init.constant_(tower.model.logit_scale, math.log(1e4))  # type: ignore[arg-type]
    (text,) = texts(tower, 1)
    detector = looking_for(tower, text[None], plus_plus)
    square = squeezed(images().float(), tower)
    name = "GradCAMPlusPlus" if plus_plus else "GradCAM"
    reshape = None if kind == "resnet" else as_grid
    cam = getattr(package, name)(_Logits(tower, text), [detector.layer], reshape_transform=reshape)
    expected = cam(square, targets=[lambda output: output[0]] * 2)
    # float32, and the package adds 1e-7 to what it divides by when it normalises.
    np.testing.assert_allclose(detector(square)[:, 0].numpy(), expected, atol=1e-4)


def test_each_image_gets_its_own_pairs_text(towers: dict[str, ClipTower]) -> None:
    detector = GradCam(towers["resnet"])
    bound = detector.bind(PAIRS)(images())
    alone = [GradCam(towers["resnet"], query=pair.prompt)(images()[i : i + 1]) for i, pair in enumerate(PAIRS)]
    torch.testing.assert_close(bound, torch.cat(alone), rtol=1e-7, atol=1e-9)
    crossed = looking_for(towers["resnet"], texts(towers["resnet"]))(images())
    assert not torch.allclose(crossed, looking_for(towers["resnet"], texts(towers["resnet"]).flip(0))(images()))
    assert detector._texts is None, "binding changes nothing in the detector itself"


def test_queries_name_a_noun_of_each_prompt(towers: dict[str, ClipTower]) -> None:
    tower = towers["resnet"]
    bound = GradCam(tower, query="a {noun}").bind(PAIRS)(images())
    alone = [GradCam(tower, query=f"a {pair.metadata['noun']}")(images()[i : i + 1]) for i, pair in enumerate(PAIRS)]
    torch.testing.assert_close(bound, torch.cat(alone), rtol=1e-7, atol=1e-9)


def test_one_text_for_all_needs_no_binding_and_survives_it(towers: dict[str, ClipTower]) -> None:
    detector = GradCam(towers["resnet"], query="a cat")
    torch.testing.assert_close(detector.bind(PAIRS)(images()), detector(images()), rtol=1e-7, atol=1e-9)
    assert detector(images(3)).shape == (3, 1, 32, 32)


def test_works_without_grad_and_leaves_nothing_behind(clip_tower: ClipTower) -> None:
    detector = GradCam(clip_tower, query="a cat")
    batch = images().float().requires_grad_()
    with torch.no_grad():
        inside = detector(batch)
    assert torch.equal(inside, detector(batch)) and not detector(batch).requires_grad
    assert batch.grad is None and not detector.layer._forward_hooks
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in clip_tower.parameters())


@pytest.mark.parametrize("size", [(32, 32), (50, 20), (16, 64)])
def test_maps_have_the_images_size(clip_tower: ClipTower, size: tuple[int, int]) -> None:
    maps = GradCam(clip_tower, query="a cat")(images(2, *size).float())
    assert maps.shape == (2, 1, *size) and maps.dtype == torch.float32
    assert all(float(top) in (0, 1) for top in maps.amax((1, 2, 3))) and maps.min() >= 0


def test_a_text_that_no_cell_speaks_for_gives_zeros(clip_tower: ClipTower) -> None:
    detector = GradCam(clip_tower, query="a cat")
    detector._texts = torch.zeros_like(detector._texts)  # type: ignore[arg-type]
    assert not detector(images().float()).any()


def test_the_default_layer_has_enough_cells(clip_tower: ClipTower, wordpiece_tower: ClipTower) -> None:
    # 32 pixels: 8 cells after the first stage, 4 after the second.
    assert GradCam(clip_tower).layer is clip_tower.model.visual.layer1
    assert GradCam(wordpiece_tower).layer is wordpiece_tower.model.visual.transformer.resblocks[-1].ln_1
    assert GradCam(clip_tower, layer="layer3").layer is clip_tower.model.visual.layer3


def test_an_embedded_timm_tower_works() -> None:
    tower = load_clip("emoji_world/judge")
    detector = GradCam(tower, query="a cat")
    assert detector(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))).shape == (1, 1, 64, 64)


def test_an_unknown_layer_names_those_there_are(clip_tower: ClipTower) -> None:
    with pytest.raises(SgoolError, match=r"saliency.detector.layer.*no module 'layer9'.*layer4"):
        GradCam(clip_tower, layer="layer9")


def test_a_layer_without_a_grid_is_refused(clip_tower: ClipTower) -> None:
    with pytest.raises(SgoolError, match=r"saliency.detector.layer.*feature map.*got \(2, 16\)"):
        GradCam(clip_tower, layer="attnpool", query="a cat")(images().float())


def test_a_tower_of_an_unknown_kind_asks_for_a_layer(tmp_path: Path) -> None:
    tower = load_clip(str(tiny_clip_folder(tmp_path / "clip")))
    tower.model.visual.layer3 = nn.Identity()  # type: ignore[union-attr, assignment]
    del tower.model.visual.layer3  # type: ignore[union-attr]
    with pytest.raises(SgoolError, match=r"saliency.detector.layer.*not known; give a module's name.*layer4"):
        GradCam(tower)


def test_without_a_text_there_is_nothing_to_look_for(clip_tower: ClipTower) -> None:
    with pytest.raises(SgoolError, match=r"bind the detector to the pairs, or set saliency.detector.query"):
        GradCam(clip_tower)(images().float())


def test_images_and_bound_pairs_must_match(clip_tower: ClipTower) -> None:
    with pytest.raises(ValueError, match="expected 2 images, one per bound pair, got 3"):
        GradCam(clip_tower).bind(PAIRS)(images(3).float())


def test_a_missing_column_is_named(clip_tower: ClipTower) -> None:
    with pytest.raises(SgoolError, match=r"\{animal\} is no column of the prompt 'a red cat'; it has category, noun"):
        GradCam(clip_tower, query="an {animal}").bind(PAIRS)


@pytest.mark.parametrize(
    ("query", "message"), [("a {noun", "expected '}'"), (" ", "null or a text"), ("a {0}", "null or a text")]
)
def test_wrong_queries(clip_tower: ClipTower, query: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"saliency.detector.query.*{message}"):
        GradCam(clip_tower, query=query)


def test_images_that_are_not_finite_are_refused(clip_tower: ClipTower) -> None:
    batch = images().float()
    batch[0, 0, 0, 0] = float("nan")
    with pytest.raises(SgoolError, match="image 0 of 2 holds NaN"):
        GradCam(clip_tower, query="a cat")(batch)


def test_tokens_before_the_grid_are_left_out() -> None:
    tokens = torch.arange(2 * 11 * 3, dtype=torch.float32).view(2, 11, 3)  # two registers, 3 x 3 cells
    grid = as_grid(tokens)
    assert grid.shape == (2, 3, 3, 3)
    assert torch.equal(grid[1, 2, 1], tokens[1, 5:8, 2])


def test_a_layer_with_several_outputs_is_refused() -> None:
    layer, tokens = nn.MultiheadAttention(8, 2), torch.zeros(4, 1, 8)
    with _leaf_at(layer), pytest.raises(SgoolError, match=r"expected a layer whose output is .*, got a tuple"):
        layer(tokens, tokens, tokens)
