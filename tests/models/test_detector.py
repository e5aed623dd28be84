"""Detectors of transformers behind one call, on tiny random networks of the published classes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from PIL import Image
from torch import Tensor

from sgool.errors import SgoolError
from sgool.models.detector import FoundObject, ObjectDetector, _to_image, load_detector
from tests.tiny_detectors import KINDS, save_detector

NAMES = ["dog", "bench"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of all kinds, each made when it is first asked for."""

    class Made(dict[str, Path]):
        def __missing__(self, kind: str) -> Path:
            self[kind] = save_detector(tmp_path_factory.mktemp("detectors") / kind, kind)
            return self[kind]

    return Made()


def image(height: int = 40, width: int = 56, seed: int = 0) -> Tensor:
    return (torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed)) * 255).round() / 255


def picture(pixels: Tensor) -> Image.Image:
    return Image.fromarray((pixels * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())


def plain(folder: Path, loader: str, reader: str, pixels: Tensor, **texts: Any) -> tuple[Any, Any]:
    """The network's output, straight from transformers."""
    network = getattr(transformers, loader).from_pretrained(folder).eval()
    inputs = getattr(transformers, reader).from_pretrained(folder)(images=picture(pixels), return_tensors="pt", **texts)
    with torch.no_grad():
        return network(**inputs), inputs


def corners(boxes: Tensor, width: float, height: float) -> list[list[float]]:
    x, y, w, h = boxes.unbind(-1)
    return (torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1) * torch.tensor([width, height] * 2)).tolist()


def same(found: list[FoundObject], expected: list[tuple[float, list[float]]]) -> None:
    """Compares scores and boxes; float32 in another order of operations."""
    expected = sorted(expected, key=lambda one: -one[0])
    assert [one.score for one in found] == pytest.approx([score for score, _ in expected], rel=1e-4)
    assert [one.box for one in found] == [pytest.approx(tuple(box), abs=1e-2) for _, box in expected]


def test_masks_are_scored_as_by_mmdet(folders: dict[str, Path]) -> None:
    """The published evaluation's head, written as loops over queries and classes."""
    folder = folders["mask2former"]
    loader = "Mask2FormerForUniversalSegmentation"
    outputs, inputs = plain(folder, loader, "Mask2FormerImageProcessor", image())
    size = inputs["pixel_values"].shape[-2:]
    masks = F.interpolate(outputs.masks_queries_logits, size, mode="bilinear", align_corners=False)
    masks = F.interpolate(masks, (40, 56), mode="bilinear", align_corners=False)[0]
    assert any(0 < float((mask > 0).float().mean()) < 1 for mask in masks)  # else boxes and means prove nothing
    expected: dict[int, list[tuple[float, list[float]]]] = {0: [], 1: [], 2: []}
    for query, logits in enumerate(outputs.class_queries_logits[0]):
        *classes, _ = logits.softmax(dim=0).tolist()
        inside = masks[query] > 0
        mean = masks[query][inside].sigmoid().mean() if inside.any() else torch.tensor(0.0)
        rows, columns = torch.where(inside)
        edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if len(rows) else [torch.tensor(0)] * 4
        for label, chance in enumerate(classes):
            expected[label].append((chance * float(mean), [float(edge) for edge in edges]))
    detector = load_detector(str(folder))
    assert detector.kind == "masks"
    found = detector.detect(image(), ["bench", "dog", "computer mouse"], -1)
    for label, name in enumerate(found):
        same(found[name], expected[label])
    best = found["dog"][0]
    assert best.mask is not None and best.mask.shape == (40, 56) and best.mask.dtype == torch.bool
    assert [one.score for one in detector.detect(image(), ["dog"], best.score - 1e-6)["dog"]] == [best.score]


def test_a_border_is_cut_off_before_masks_are_resized() -> None:
    """A processor that keeps proportions adds a border; the image is what the pixel mask has."""
    ramp = torch.arange(32.0).view(1, 1, 1, 32).expand(1, 1, 16, 32) / 32
    pixel_mask = torch.zeros(1, 64, 128)
    pixel_mask[:, :48, :96] = 1
    inputs = {"pixel_values": torch.zeros(1, 3, 64, 128), "pixel_mask": pixel_mask}
    masks = _to_image(ramp, inputs, Image.new("RGB", (192, 96)))
    assert masks.shape == (1, 96, 192)
    # The image ends at 96 of 128 columns: 24 of the ramp's 32. Away from the borders a bilinear ramp stays one.
    columns = torch.arange(192.0)
    expected = ((columns + 0.5) / 192 * 24 - 0.5) / 32
    torch.testing.assert_close(masks[0, 50, 8:184], expected[8:184], atol=1e-5, rtol=0)


def test_boxes_of_fixed_classes(folders: dict[str, Path]) -> None:
    folder = folders["detr"]
    outputs, _ = plain(folder, "DetrForObjectDetection", "DetrImageProcessor", image())
    chances = outputs.logits[0].softmax(dim=-1)[:, :-1]
    boxes = corners(outputs.pred_boxes[0], 56, 40)
    detector = load_detector(str(folder))
    assert detector.kind == "boxes"
    found = detector.detect(image(), ["bench", "dog", "mouse"], 0)
    total = 0
    for label, name in enumerate(found):
        same(found[name], [(float(c.max()), b) for c, b in zip(chances, boxes, strict=True) if c.argmax() == label])
        total += len(found[name])
    assert total == 6


def test_any_name_with_owl(folders: dict[str, Path]) -> None:
    detector = load_detector(str(folders["owlv2"]))
    found = detector.detect(image(), NAMES, 0)
    for name in NAMES:
        outputs, _ = plain(
            folders["owlv2"], "Owlv2ForObjectDetection", "Owlv2Processor", image(), text=[[f"a photo of a {name}"]]
        )
        scores = outputs.logits[0, :, 0].sigmoid().tolist()
        # OWLv2 makes the image square at its end, so that boxes are shares of the longer side.
        same(found[name], list(zip(scores, corners(outputs.pred_boxes[0], 56, 56), strict=True)))
    assert detector.kind == "names" and detector.unknown(["anything"]) == []


def test_any_name_with_grounding_dino(folders: dict[str, Path]) -> None:
    folder = folders["grounding-dino"]
    found = load_detector(str(folder)).detect(image(), ["Dog", "bench"], 0.5)
    for name in ("Dog", "bench"):
        loader, reader = "GroundingDinoForObjectDetection", "GroundingDinoProcessor"
        outputs, _ = plain(folder, loader, reader, image(), text=f"{name.lower()}.")
        scores = outputs.logits[0].sigmoid().amax(dim=-1).tolist()
        pairs = zip(scores, corners(outputs.pred_boxes[0], 56, 40), strict=True)
        same(found[name], [(score, box) for score, box in pairs if score > 0.5])


@pytest.mark.parametrize("kind", KINDS)
def test_an_object_does_not_depend_on_other_names(kind: str, folders: dict[str, Path]) -> None:
    detector = load_detector(str(folders[kind]))
    both, alone = detector.detect(image(), NAMES, 0.1), detector.detect(image(), ["bench"], 0.1)
    assert [(one.box, one.score) for one in both["bench"]] == [(one.box, one.score) for one in alone["bench"]]
    scores = [one.score for one in both["bench"]]
    assert scores == sorted(scores, reverse=True) and list(both) == NAMES


def test_classes_that_a_detector_does_not_know(folders: dict[str, Path]) -> None:
    detector = load_detector(str(folders["detr"]))
    assert detector.unknown(["Bench", "computer mouse", "zebra"]) == ["zebra"]
    with pytest.raises(
        SgoolError, match="expected classes of the detector, got 'zebra'; its 3 classes are bench, dog, mouse"
    ):
        detector.detect(image(), ["dog", "zebra"], 0.5)


def test_files_that_are_no_detector(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(SgoolError, match="The detector 'owner/none' is not complete in the cache"):
        load_detector("owner/none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SgoolError, match=r"Cannot load a detector from .*no config.json in it. Expected a detector in"):
        load_detector(str(tmp_path / "empty"))
    (tmp_path / "empty" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(SgoolError, match=r"is a bert model, which is no detector that sgool knows: .*Grounding DINO"):
        load_detector(str(tmp_path / "empty"))
    from safetensors.torch import load_file, save_file

    copy = Path(shutil.copytree(folders["detr"], tmp_path / "short"))
    state = load_file(copy / "model.safetensors")
    gone = next(name for name in state if "class_labels" in name)
    save_file({k: v for k, v in state.items() if k != gone}, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(SgoolError, match=r"lacks weights of a DetrForObjectDetection: class_labels"):
        load_detector(str(copy))


def test_it_stays_in_evaluation_mode(folders: dict[str, Path]) -> None:
    detector: ObjectDetector = load_detector(str(folders["detr"])).train()
    assert not detector.training and not detector.network.training
    assert not any(parameter.requires_grad for parameter in detector.parameters())
