from __future__ import annotations

import copy
import json
import math
import warnings
from typing import Any

import pytest
import torch

from sgool.metrics import ClipScore, ImageSimilarity, JudgePanel, LatentNorm, Psnr
from sgool.metrics.panel import aggregate
from sgool.metrics.reader import Detection, SceneReading
from sgool.models.clip import ClipTower
from sgool.types import PromptSeed

CAT_SCENE = {"objects": [{"noun": "cat"}], "background": "white"}
PAIRS = [
    PromptSeed("a cat", 0, metadata={"scene": CAT_SCENE}),
    PromptSeed("two trees", 1, metadata={"scene": {}}),
    PromptSeed("a dog", 2, metadata={"scene": {"objects": [{"noun": "dog"}]}}),
]


class _AlwaysACat:
    def read(self, images: torch.Tensor) -> list[SceneReading]:
        return [SceneReading((Detection("cat", "natural", 32, 32, 0.9),), "white") for _ in images]


def images() -> torch.Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_every_judge_and_the_scene(clip_tower: ClipTower, wordpiece_tower: ClipTower) -> None:
    reader: Any = _AlwaysACat()
    rows = JudgePanel({"judge": clip_tower, "other": wordpiece_tower}, reader).judge(None, images(), PAIRS)
    prompts = [pair.prompt for pair in PAIRS]
    for name, tower in (("judge", clip_tower), ("other", wordpiece_tower)):
        expected = ClipScore(tower).score(images(), prompts).tolist()
        assert [row[f"{name}/clip_score"] for row in rows] == pytest.approx(expected, rel=1e-6)
    assert rows[0]["scene_accuracy"] == 1.0 and rows[0]["scene/background"] == 1.0
    assert not any(name.startswith("scene") for name in rows[1])  # no scene, no verdict
    assert rows[2]["scene_accuracy"] == 0.0 and rows[2]["scene/objects"] == 0.0 and "scene/background" not in rows[2]


@pytest.mark.parametrize("scene", ["in the park", 3, ["cat"], {"n": 1}, {"objects": ["cat"]}])
def test_a_scene_of_the_user_s_own_gets_no_verdict(scene: Any) -> None:
    reader: Any = _AlwaysACat()
    assert JudgePanel({}, reader).judge(None, images()[:1], [PromptSeed("a", 0, metadata={"scene": scene})]) == [{}]


def test_without_reader_or_judges(clip_tower: ClipTower) -> None:
    assert set(JudgePanel({"judge": clip_tower}).judge(None, images(), PAIRS)[0]) == {"judge/clip_score"}
    assert JudgePanel({}).judge(None, images(), PAIRS) == [{}, {}, {}]


def test_aggregate_is_the_mean_over_the_rows_that_have_it() -> None:
    rows = [{"a": 1.0, "b": 0.1}, {"a": 2.0}, {"a": 6.0, "b": 0.3}]
    assert aggregate(rows) == {"a": pytest.approx(3.0), "b": pytest.approx(0.2)}
    assert aggregate([]) == {} and aggregate([{}]) == {}


def test_aggregate_keeps_float64() -> None:
    assert aggregate([{"a": 100.123456789}])["a"] == pytest.approx(100.123456789, rel=1e-12)
    assert not math.isnan(aggregate([{"a": 0.0}])["a"])


# --- means ----------------------------------------------------------------------------------------------------------


def scored(clip_tower: ClipTower) -> JudgePanel:
    reader: Any = _AlwaysACat()
    return JudgePanel({"a.b": clip_tower, "change": [Psnr(), LatentNorm()]}, reader)


def latents(seed: int = 1) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [tuple(torch.randn(2, 1, 4, 4, 4, generator=generator)) for _ in PAIRS]  # type: ignore[misc]


def test_a_row_has_all_names_in_their_order(clip_tower: ClipTower) -> None:
    scenes = ["scene_accuracy", "scene/objects", "scene/count", "scene/background"]
    first, final = images(), images().flip(-1)
    row = scored(clip_tower).judge(first, final, PAIRS, latents())[0]
    initial = [f"{name}_initial" for name in ("a.b/clip_score", *scenes)]
    assert list(row) == [*initial, "a.b/clip_score", "change/psnr", "change/latent_norm", *scenes]
    long = [PromptSeed("a red cat " * 40, 0)]
    (row,) = scored(clip_tower).judge(first[:1], final[:1], long)
    assert list(row) == ["a.b/clip_score_initial", "a.b/truncated", "a.b/clip_score", "change/psnr"]
    (row,) = scored(clip_tower).judge(None, final[:1], long)
    assert list(row) == ["a.b/truncated", "a.b/clip_score"]


def test_the_means_are_those_of_the_rows(clip_tower: ClipTower) -> None:
    panel = scored(clip_tower)
    first, final = images(), images().flip(-1)
    final[1] = first[1]  # its PSNR is infinite: it has none
    rows = panel.judge(first[:2], final[:2], PAIRS[:2], latents()[:2])
    rows += panel.judge(first[2:], final[2:], PAIRS[2:], latents()[2:])
    means = {name: float(metric.compute()) for name, metric in panel.named_metrics().items()}
    expected = aggregate(rows)
    assert "change/psnr" not in rows[1] and expected.keys() < means.keys()
    # Sums of three numbers in another order.
    assert {name: means[name] for name in expected} == pytest.approx(expected, rel=1e-15)
    # What no pair's scene states is known all the same, so that all ranks have the same metrics.
    never = {name for name, mean in means.items() if math.isnan(mean)}
    assert never == {f"scene/{part}{end}" for part in ("colours", "relation", "place") for end in ("", "_initial")}
    panel.reset()
    assert all(math.isnan(float(metric.compute())) for metric in panel.named_metrics().values())


def test_a_network_looks_at_an_image_once(clip_tower: ClipTower, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    encode = ClipTower.encode_image
    monkeypatch.setattr(ClipTower, "encode_image", lambda self, x: (seen.append(len(x)), encode(self, x))[1])
    panel = JudgePanel({"judge": clip_tower})
    panel.judge(images(), images(), PAIRS)
    for metric in panel.named_metrics().values():
        metric.compute()
    assert seen == [3, 3]


def test_metrics_that_counted_nothing_are_nan_and_nobody_is_warned(clip_tower: ClipTower) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(math.isnan(float(metric.compute())) for metric in scored(clip_tower).named_metrics().values())


def test_pairs_that_failed_have_a_row_and_count_in_no_mean(clip_tower: ClipTower) -> None:
    panel, alone = scored(clip_tower), scored(clip_tower)
    first, final = images(), images().flip(-1)
    final[0] = float("nan")
    rows = panel.judge(first, final, PAIRS, latents(), counted=[False, True, True])
    assert rows[0]["scene_accuracy"] == 1.0 and math.isnan(rows[0]["a.b/clip_score"])
    for index in (1, 2):
        alone.judge(first[index : index + 1], final[index : index + 1], [PAIRS[index]], latents()[index : index + 1])
    means = [{name: float(metric.compute()) for name, metric in one.named_metrics().items()} for one in (panel, alone)]
    # float32 networks on batches of another size.
    assert means[0] == pytest.approx(means[1], rel=1e-5, nan_ok=True)


def test_what_breaks_counts_nothing(clip_tower: ClipTower) -> None:
    """Out of memory in the second judge: the caller tries again with fewer pairs."""

    class Greedy(ImageSimilarity):
        @torch.no_grad()
        def score(self, images: torch.Tensor) -> torch.Tensor:
            if len(images) > 1:
                raise torch.OutOfMemoryError("too many")
            return super().score(images)

    panel = JudgePanel({"judge": clip_tower, "greedy": [Greedy(clip_tower, [images()[0]])]})
    with pytest.raises(torch.OutOfMemoryError):
        panel.judge(images(), images(), PAIRS)
    assert all(math.isnan(float(metric.compute())) for metric in panel.named_metrics().values())
    rows = [panel.judge(image[None], image[None], [pair])[0] for image, pair in zip(images(), PAIRS, strict=True)]
    means = {name: float(metric.compute()) for name, metric in panel.named_metrics().items()}
    assert means == pytest.approx(aggregate(rows), rel=1e-15)


def test_two_metrics_of_one_name(clip_tower: ClipTower) -> None:
    with pytest.raises(ValueError, match="expected metrics of different names, got two called 'j/psnr'"):
        JudgePanel({"j": [Psnr(), Psnr()]})


def test_a_checkpoint_holds_the_sums_alone_and_a_resumed_panel_goes_on(clip_tower: ClipTower) -> None:
    whole, began, resumed = (scored(clip_tower) for _ in range(3))
    first, final = images(), images().flip(-1)
    for panel, parts in ((whole, (0, 1, 2)), (began, (0, 1))):
        for i in parts:
            panel.judge(first[i : i + 1], final[i : i + 1], [PAIRS[i]], latents()[i : i + 1])
    state = began.state_dict()
    assert sum(value.numel() for value in state.values()) < 100 and not list(began.parameters())
    assert {id(p) for p in clip_tower.parameters()}.isdisjoint(id(p) for p in began.parameters())
    for metric in resumed.named_metrics().values():
        metric.compute()  # torchmetrics keeps what it has computed
    kept = {name: value.clone() for name, value in state.items()}
    resumed.load_state_dict(state)
    resumed.judge(first[2:], final[2:], PAIRS[2:], latents()[2:])
    assert all(torch.equal(state[name], value) for name, value in kept.items())  # the checkpoint is not changed
    for name, metric in whole.named_metrics().items():
        mean, other = metric.compute(), resumed.named_metrics()[name].compute()
        assert torch.equal(mean, other) or (mean.isnan() and other.isnan())


def test_first_and_final_images_have_sums_of_their_own_over_one_network(clip_tower: ClipTower) -> None:
    metric = ClipScore(clip_tower)
    metric.update(images(), [pair.prompt for pair in PAIRS])
    fresh = metric.fresh_copy()
    assert fresh._clip[0] is metric._clip[0] is clip_tower
    assert float(metric.number) == 3 and float(fresh.number) == 0
    fresh.update(images()[:1], ["a cat"])
    assert float(metric.number) == 3 and float(fresh.number) == 1


def test_sums_stay_exact_and_on_the_cpu(clip_tower: ClipTower) -> None:
    """Whatever the order of the scores and the module's device and type."""
    generator = torch.Generator().manual_seed(0)
    norms = 1 + torch.rand(1000, generator=generator, dtype=torch.float64) / 10
    one, other = LatentNorm(), LatentNorm()
    for metric, values in ((one, norms), (other, norms.flip(0))):
        for value in values:
            metric.update([value.view(1, 1, 1, 1)], [torch.ones(1, 1, 1, 1)])
    assert torch.equal(one.compute(), other.compute())
    assert float(one.compute()) == pytest.approx(math.fsum(norms.tolist()) / 1000, rel=1e-15)
    panel = scored(clip_tower).to(torch.device("meta")).half()
    assert {(value.device.type, value.dtype) for value in panel.state_dict().values()} == {("cpu", torch.float64)}
    assert copy.deepcopy(panel).named_metrics().keys() == panel.named_metrics().keys()


def test_what_reports_need_to_know(clip_tower: ClipTower) -> None:
    panel = scored(clip_tower)
    told = panel.descriptions()
    assert json.loads(json.dumps(told)) == told and "a.b/clip_score_initial" not in told
    assert told["a.b/clip_score"]["title"] == "CLIP score" and told["a.b/clip_score"]["higher_is_better"] is True
    assert told["change/psnr"]["higher_is_better"] is None
    assert told["scene_accuracy"]["unit"] == " %" and told["scene_accuracy"]["scale"] == 100
    assert panel.fingerprints() == {"a.b": [clip_tower.fingerprint], "change": [], "scene_accuracy": []}
