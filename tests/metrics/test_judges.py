"""Judges of every type, built from the configuration over tiny networks in the published layouts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import correlate1d
from torch import Tensor

from sgool.errors import ConfigError, SgoolError
from sgool.metrics import Diversity, ImageSimilarity, JudgePanel, LatentNorm, Lpips, PerceptualDistance, Psnr
from sgool.metrics.build import build_judges
from sgool.metrics.change import classifier_maps, load_lpips
from sgool.metrics.preference import PreferenceScore
from sgool.metrics.similarity import ImageSimilarity as Similarity
from sgool.models.classifier import load_classifier
from sgool.models.clip import ClipTower
from sgool.models.networks import Networks
from sgool.objectives import Score, build_term
from sgool.types import PromptSeed
from tests.models import test_aesthetic, test_image_reward, test_preference

pick_folder, hps_file, reward_folder = (
    test_preference.pick_folder, test_preference.hps_file, test_image_reward.folder
)  # fmt: skip
PROMPTS = ["a red cat", "two green trees"]
PAIRS = [PromptSeed(prompt, seed) for seed, prompt in enumerate(PROMPTS)]
PANDA, ROCKET = "emoji_world/references/panda.png", "emoji_world/references/red_rocket.png"


def images(seed: int = 0, number: int = 2, size: int = 32) -> Tensor:
    """Images with levels of 8 bits, as a run hands them to its judges."""
    return (torch.rand(number, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 255).round() / 255


@pytest.fixture
def networks() -> Networks:
    return Networks({"device": "cpu"})


@pytest.fixture
def scorers(
    clip_folder: Path, pick_folder: Path, hps_file: Path, reward_folder: Path, tmp_path: Path
) -> dict[str, dict[str, Any]]:
    """The keys of a scorer, as a judge has them and as a term has them."""
    clip = {"model": str(clip_folder), "pretrained": None}
    head = test_aesthetic.linear_file(tmp_path / "head.pth", 16)
    return {
        "hps": {"clip": {"model": test_preference.ARCHITECTURE, "pretrained": str(hps_file)}},
        "pickscore": {"model": str(pick_folder), "processor": str(pick_folder)},
        "image_reward": {
            "checkpoint": str(reward_folder / "ImageReward.pt"),
            "med_config": str(reward_folder / "med_config.json"),
            "tokenizer": str(reward_folder / "tokenizer"),
        },
        "aesthetic": {"clip": clip, "checkpoint": str(head)},
    }


@pytest.mark.parametrize("kind", ["hps", "pickscore", "image_reward", "aesthetic"])
def test_a_scorer_is_the_objective_s_network(kind: str, scorers: dict[str, Any], networks: Networks) -> None:
    term = build_term("mine", {"type": kind, "goal": "maximize", "views": "whole", **scorers[kind]}, networks)
    judges = build_judges({"j": {"type": kind, **scorers[kind]}}, {}, networks)
    (metric,) = judges["j"]
    assert isinstance(metric, PreferenceScore) and isinstance(term, Score)
    # One network in memory, not two.
    assert {id(p) for p in metric._scorer[0].parameters()} == {id(p) for p in term.scorer.parameters()}  # type: ignore[attr-defined]
    rows = JudgePanel(judges).judge(None, images(), PAIRS)
    with torch.no_grad():
        # A judge sees pixels as the published code resizes them, an objective a differentiable resize.
        expected = -term(term.scorer.as_published(images()), term.targets(PAIRS))  # type: ignore[attr-defined]
    assert [row[f"j/{kind}"] for row in rows] == pytest.approx(expected.tolist(), rel=1e-6)
    assert [list(row) for row in rows] == [[f"j/{kind}"]] * 2
    for index in range(2):
        metric.update(images()[index : index + 1], PROMPTS[index : index + 1])
    # float32 networks on batches of another size.
    assert float(metric.compute()) == pytest.approx(float(expected.mean()), rel=1e-4, abs=1e-5)


def test_scorers_say_what_they_do_not_read(scorers: dict[str, Any], networks: Networks) -> None:
    judges = {kind: {"type": kind, **keys} for kind, keys in scorers.items()}
    cut = JudgePanel(build_judges(judges, {}, networks)).truncated(["a red cat " * 40])
    assert cut["aesthetic"] == [None]
    assert all(cut[kind][0] for kind in ("hps", "pickscore", "image_reward"))


def test_as_many_prompts_as_images(scorers: dict[str, Any], networks: Networks) -> None:
    (metric,) = build_judges({"j": {"type": "pickscore", **scorers["pickscore"]}}, {}, networks)["j"]
    with pytest.raises(ValueError, match="as many prompts as images, got 1 and 2"):
        metric.update(images(), PROMPTS[:1])


def test_missing_files_are_found_before_any_network(networks: Networks) -> None:
    judges = {
        "a": {"type": "image_reward", "checkpoint": "no.pt", "med_config": None, "tokenizer": "b"},
        "b": {"type": "hps", "clip": {"model": "ViT-H-14", "pretrained": "no/hps.pt"}},
    }
    with pytest.raises(ConfigError) as caught:
        build_judges(judges, {}, networks)
    text = str(caught.value)
    assert "`models.judges.a.checkpoint`: there is no file 'no.pt'" in text and "huggingface.co/THUDM" in text
    assert "`models.judges.b.clip.pretrained`: there is no file 'no/hps.pt'" in text
    assert not networks._shared


# --- likeness, diversity --------------------------------------------------------------------------------------------


def test_likeness_is_the_mean_cosine_with_the_references(clip_folder: Path, networks: Networks) -> None:
    judge = {"type": "image", "clip": {"model": str(clip_folder), "pretrained": None}, "images": None}
    terms = {"t": {"type": "image_alignment", "images": [PANDA, ROCKET]}, "u": {"type": "sharpness"}}
    (metric,) = build_judges({"j": judge}, terms, networks)["j"]
    assert isinstance(metric, ImageSimilarity)
    tower = networks.clip(str(clip_folder))
    from sgool.models.images import open_photo, to_tensor

    references = [to_tensor(open_photo(path))[None] for path in (PANDA, ROCKET)]
    for index, got in enumerate(metric.score(images()).tolist()):
        u = tower.encode_image(images()[index : index + 1]).double()[0]
        shown = [tower.as_published(reference) for reference in references]
        cosines = [float(u @ tower.encode_image(reference).double()[0]) for reference in shown]
        # float32 features.
        assert got == pytest.approx(100 * sum(cosines) / 2, abs=1e-4)
    rows = JudgePanel({"j": [metric]}).judge(None, images(), PAIRS)
    assert [list(row) for row in rows] == [["j/image_similarity"]] * 2


def test_an_unreadable_reference_is_named(clip_folder: Path, networks: Networks, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"not an image")
    judge = {"type": "image", "clip": {"model": str(clip_folder), "pretrained": None}}
    with pytest.raises(SgoolError, match=r"`models.judges.j.images`: .*a.png"):
        build_judges({"j": {**judge, "images": str(tmp_path / "a.png")}}, {}, networks)
    with pytest.raises(SgoolError, match="expected at least one reference image, got none"):
        Similarity(networks.clip(str(clip_folder)), [])


def test_diversity_is_the_mean_distance_of_all_pairs(clip64: ClipTower) -> None:
    metric = Diversity(clip64)
    prompts = [(images(seed, number).double() * 255).round() / 255 for seed, number in ((0, 3), (1, 2), (2, 1))]
    for batch in prompts:
        metric.update(batch)
    expected = []
    for batch in prompts[:2]:  # the third has one image: no distance
        vectors = clip64.encode_image(batch)
        distances = [1 - float(vectors[i] @ vectors[j]) for i in range(len(batch)) for j in range(len(batch)) if i < j]
        expected.append(sum(distances) / len(distances))
    assert float(metric.compute()) == pytest.approx(sum(expected) / 2, rel=1e-12)  # float64, sums in another order
    metric.reset()
    metric.update(images(3, 1).double().expand(4, -1, -1, -1))
    assert float(metric.compute()) == pytest.approx(0, abs=1e-12)


# --- how much changed -----------------------------------------------------------------------------------------------


def panel(networks: Networks) -> JudgePanel:
    judges = {
        "pixels": {"type": "pixels"},
        "far": {"type": "perceptual", "network": "local", "checkpoint": "emoji_world/classifier"},
        "latents": {"type": "latents"},
    }
    return JudgePanel(build_judges(judges, {}, networks))


def test_what_changed_has_no_value_on_first_images(networks: Networks) -> None:
    metrics = panel(networks)
    first, final = images(0), images(1)
    assert metrics.judge(None, first, PAIRS) == [{}, {}]
    latents = [(torch.ones(2, 4, 8, 8), torch.full((2, 4, 8, 8), 1.5))] * 2
    (row, _) = metrics.judge(first, final, PAIRS, latents)
    assert set(row) == {"pixels/psnr", "pixels/ssim", "far/perceptual_distance", "latents/latent_norm"}
    assert row["latents/latent_norm"] == pytest.approx(1.5)
    (same, _) = metrics.judge(first, first, PAIRS)
    # The PSNR of equal images is infinite: no value. Latents that nobody kept: no value.
    assert set(same) == {"pixels/ssim", "far/perceptual_distance"}
    assert same["pixels/ssim"] == pytest.approx(1) and same["far/perceptual_distance"] == 0


def test_psnr_and_ssim_by_hand(networks: Networks) -> None:
    first, final = images(0).double(), (images(0).double() + 0.2 * images(1).double()).clamp(0, 1)
    (row, _) = panel(networks).judge(first, final, PAIRS)
    error = float((final[0] - first[0]).square().mean())
    # torchmetrics takes its logarithm's base in float32.
    assert row["pixels/psnr"] == pytest.approx(-10 * math.log10(error), rel=1e-6)
    assert row["pixels/ssim"] == pytest.approx(_ssim(final[0], first[0]), abs=1e-6)


def _ssim(x: Tensor, y: Tensor) -> float:
    """Wang et al. 2004 with scipy's filters: Gaussian of sigma 1.5 on 11 pixels, mirrored at the borders; mean."""
    places = torch.arange(-5, 6).double()
    window = torch.exp(-(places**2) / (2 * 1.5**2))
    weights = (window / window.sum()).numpy()

    def blur(image: Any) -> Any:
        for axis in (-1, -2):
            image = correlate1d(image, weights, axis=axis, mode="mirror")
        return image

    a, b = x.numpy(), y.numpy()
    u, v = blur(a), blur(b)
    xx, yy, xy = blur(a * a) - u * u, blur(b * b) - v * v, blur(a * b) - u * v
    c1, c2 = 0.01**2, 0.03**2
    return float(((2 * u * v + c1) * (2 * xy + c2) / ((u * u + v * v + c1) * (xx + yy + c2))).mean())


def test_psnr_of_unchanged_images_is_not_counted() -> None:
    metric = Psnr()
    first = images(0)
    metric.update(torch.stack([first[0], images(1)[1]]), first)
    assert float(metric.number) == 1
    assert float(metric.compute()) == pytest.approx(float(Psnr().score(images(1), first)[1]))


def test_perceptual_distance_of_the_embedded_classifier() -> None:
    classifier = load_classifier("local", checkpoint="emoji_world/classifier")
    classifier.network.double()
    first, final = images(0, size=64).double(), images(1, size=64).double()
    got = PerceptualDistance(classifier_maps(classifier)).score(final, first)
    stages: list[Tensor] = []
    hooks = [
        part.register_forward_hook(lambda _module, _inputs, output: stages.append(output.detach()))
        for part in (getattr(classifier.network, name) for name in ("act1", "layer1", "layer2", "layer3", "layer4"))
    ]
    found = []
    for batch in (final, first):
        stages.clear()
        with torch.no_grad():
            classifier.network((batch - 0.5) / 0.5)
        found.append(list(stages))
    for hook in hooks:
        hook.remove()
    expected = torch.zeros(2, dtype=torch.float64)
    for after, before in zip(*found, strict=True):
        for index in range(2):
            for row in range(after.shape[2]):
                for column in range(after.shape[3]):
                    u, v = after[index, :, row, column], before[index, :, row, column]
                    # max: where all channels are 0, the unit vector is 0, as in the metric.
                    u, v = u / u.norm().clamp_min(1e-12), v / v.norm().clamp_min(1e-12)
                    expected[index] += (u - v).square().sum() / (after.shape[2] * after.shape[3] * len(found[0]))
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=0)
    assert float(got.min()) > 0 and float(got.max()) <= 2


@pytest.fixture
def squeeze(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.nn.Module]:
    """torchvision's SqueezeNet with random weights, where torch keeps what it has fetched."""
    import torchvision

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torchvision.models.squeezenet1_1(weights=None).eval()
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(network.state_dict(), folder / "squeezenet1_1-b8a52dc0.pth")
    yield network


def test_lpips_with_its_published_linear_weights(squeeze: torch.nn.Module, networks: Networks) -> None:
    judge = {"type": "perceptual", "network": "squeeze", "checkpoint": None}
    judges = build_judges({"a": judge, "b": judge}, {}, networks)
    (metric,), (other,) = judges["a"], judges["b"]
    assert isinstance(metric, Lpips) and isinstance(other, Lpips) and metric._network[0] is other._network[0]
    first, final = images(0, size=64), images(1, size=64)
    rows = JudgePanel(judges).judge(first, final, PAIRS)
    assert set(rows[0]) == {"a/lpips", "b/lpips"}
    expected = _lpips(squeeze, load_lpips("squeeze", "k").state_dict(), final, first)
    # float32 against float64 in a network of some twenty layers.
    assert [row["a/lpips"] for row in rows] == pytest.approx(expected, rel=1e-4)
    assert float(metric.score(first, first).abs().max()) == 0


def test_lpips_shares_its_convolutions_with_torchvision_s_classifier(
    squeeze: torch.nn.Module, networks: Networks, tmp_path: Path
) -> None:
    """`networks.json` must mark LPIPS where an objective optimised the classifier that it is made of."""
    judge = {"type": "perceptual", "network": "squeeze", "checkpoint": None}
    (metric,) = build_judges({"a": judge}, {}, networks)["a"]
    file = tmp_path / "squeeze.pth"
    torch.save(squeeze.state_dict(), file)
    classifier = load_classifier("torchvision", "squeezenet1_1", str(file))
    assert metric.fingerprints() & classifier.fingerprints()


def _lpips(network: torch.nn.Module, state: dict[str, Tensor], final: Tensor, first: Tensor) -> list[float]:
    """Zhang et al. 2018, eq. 1, in float64: unit channels, squared difference, 1x1 weights, mean over places, sum."""
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1).double()
    scale = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1).double()
    layers = network.features.double()  # type: ignore[union-attr, operator]
    total = torch.zeros(len(final), dtype=torch.float64)
    both = [((batch.double() * 2 - 1) - shift) / scale for batch in (final, first)]
    ends = {1: 0, 4: 1, 7: 2, 9: 3, 10: 4, 11: 5, 12: 6}
    with torch.no_grad():
        for index, layer in enumerate(layers):
            both = [layer(x) for x in both]
            if index in ends:
                u, v = (x / (1e-8 + x.square().sum(dim=1, keepdim=True)).sqrt() for x in both)
                weight = state[f"lin{ends[index]}.model.1.weight"].double()
                total += F.conv2d((u - v).square(), weight).mean(dim=(1, 2, 3))
    return total.tolist()


def test_lpips_without_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    message = r"`models.judges.j.network`: cannot fetch the weights of squeeze .*no route.* Put https://.*squeezenet1_1"
    with pytest.raises(SgoolError, match=message):
        load_lpips("squeeze", "models.judges.j")


def test_latent_norm_is_that_of_all_streams() -> None:
    first = [torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(k)) for k in range(2)]
    kept = [first[0] * 2, first[1] * torch.tensor([1.0, 3.0]).view(2, 1, 1, 1)]
    got = LatentNorm().score(kept, first).tolist()
    norms = first[1].double().flatten(1).norm(dim=1)
    mixed = math.sqrt(float(norms[0] ** 2 + 9 * norms[1] ** 2) / float(norms[0] ** 2 + norms[1] ** 2))
    # float32 latents: 3 times one of them is rounded.
    assert got == pytest.approx([2.0, mixed], rel=1e-6)


def test_parts_of_a_run_add_up(clip_tower: ClipTower) -> None:
    """The states are sums: what torchmetrics does between processes gives the score of all images."""
    whole, parts = Psnr(), [Psnr(), Psnr()]
    whole.update(images(1, 5), images(0, 5))
    parts[0].update(images(1, 5)[:3], images(0, 5)[:3])
    parts[1].update(images(1, 5)[3:], images(0, 5)[3:])
    assert {metric._reductions[name].__name__ for metric in parts for name in metric._defaults} == {"dim_zero_sum"}  # type: ignore[union-attr]
    parts[0].merge_state(parts[1])
    assert float(parts[0].compute()) == pytest.approx(float(whole.compute()), rel=1e-12)
