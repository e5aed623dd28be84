"""What a call takes and returns: forms of images, callbacks, objects of one's own, wrong arguments."""

from __future__ import annotations

import doctest
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sgool import SGOOLPipeline
from sgool.diffusion.ddim import DDIM
from sgool.errors import ConfigError, SgoolError
from sgool.models.clip import ClipTower, load_clip
from sgool.objectives import Color
from tests.pipeline.conftest import quiet, seeded

FEW: dict[str, Any] = {"num_inference_steps": 2, "num_optimization_steps": 2, "overrides": ["objective.crops.num=2"]}
PROMPT = "a red cat"


def test_forms_of_images(tiny: SGOOLPipeline) -> None:
    made = {
        form: tiny([PROMPT, "trees"], method="doodl", generator=seeded(1), output_type=form, **FEW)
        for form in ("pil", "np", "pt", "latent")
    }
    images = made["pil"].images
    assert [type(image) for image in images] == [Image.Image] * 2
    assert made["np"].images.shape == (2, 16, 16, 3)
    assert made["pt"].images.shape == (2, 3, 16, 16)
    assert np.array_equal(np.round(made["np"].images * 255), np.stack([np.asarray(image) for image in images]))
    assert np.array_equal(made["pt"].images.permute(0, 2, 3, 1).numpy(), made["np"].images)
    assert made["latent"].images.shape == made["pil"].latents.shape == (2, 4, 8, 8)
    decoded = tiny.pipeline.vae.decode(made["latent"].images / tiny.pipeline.vae.config.scaling_factor).sample
    pixels = (decoded / 2 + 0.5).clamp(0, 1)
    assert float((pixels - made["pt"].images).abs().max()) <= 0.5 / 255 + 1e-5  # 8 bits


def test_what_a_result_has(tiny: SGOOLPipeline) -> None:
    result = tiny([PROMPT, "trees"], candidates=2, generator=seeded(1), num_images_per_prompt=2, **FEW)
    assert len(result) == len(result.images) == len(result.initial_images) == len(result.metrics) == 4
    assert list(result.scores["prompt"]) == [PROMPT, PROMPT, "trees", "trees"]
    assert result.seeds == [1, 2, 3, 4]
    assert list(result.history["image"].unique()) == [0, 1, 2, 3]
    assert len(result.history) == 4 * (2 + 3)  # candidates, updates and the image after them
    for number, rows in result.history.groupby("image"):
        # "sgool" keeps the best row.
        best = result.results[int(str(number))].best_step
        assert rows["selection"].idxmin() == rows.index[best]
    for saliency in result.saliency:
        assert saliency is not None and saliency.shape == (16, 16) and 0 <= saliency.min() <= saliency.max() <= 1
    assert {"guide/clip_score", "guide/clip_score_initial", "objective"} <= set(result.metrics[0])
    assert result.comparison().size == (3 * 16 + 2 * 4, 4 * 16 + 3 * 4)
    assert result._repr_png_().startswith(b"\x89PNG")
    assert repr(result) == "SGOOLPipelineOutput(4 images, method=sgool)"


def test_results_go_on(tiny: SGOOLPipeline) -> None:
    """The latents of a result make its image again, by this pipeline and by the plain one."""
    result = tiny(PROMPT, method="doodl", generator=seeded(1), output_type="pt", **FEW)
    again = tiny(PROMPT, method="vanilla", latents=result.latents, output_type="pt", num_inference_steps=2)
    assert torch.equal(again.images, result.images)
    plain = tiny.pipeline(PROMPT, latents=result.latents, num_inference_steps=2, output_type="pt").images
    assert float((plain - result.images).abs().max()) <= 0.5 / 255 + 1e-5  # 8 bits
    assert not torch.equal(result.images, result.initial_images)


def test_both_streams_of_edict_go_on(tiny: SGOOLPipeline) -> None:
    few = {**FEW, "sampler": "edict"}
    result = tiny(PROMPT, method="doodl", generator=seeded(1), output_type="pt", **few)
    assert result.latent_streams.shape == (2, 1, 4, 8, 8)
    asked = {"method": "vanilla", "sampler": "edict", "num_inference_steps": 2, "output_type": "pt"}
    assert torch.equal(tiny(PROMPT, latents=result.latent_streams, **asked).images, result.images)


def test_return_dict(tiny: SGOOLPipeline) -> None:
    made: Any = tiny(PROMPT, method="vanilla", num_inference_steps=2, return_dict=False)
    assert isinstance(made, tuple) and isinstance(made[0][0], Image.Image)


def test_a_callback_sees_every_update(tiny: SGOOLPipeline) -> None:
    seen: list[tuple[Any, int, int, dict[str, Tensor]]] = []
    names = ["latents", "images", "loss", "selection", "saliency_map"]
    result = tiny(
        PROMPT, candidates=1, generator=seeded(1), **FEW,
        callback_on_step_end=lambda *given: seen.append(given), callback_on_step_end_tensor_inputs=names,
    )  # fmt: skip
    assert [(pipe is tiny, step, total) for pipe, step, total, _ in seen] == [(True, 0, 2), (True, 1, 2)]
    assert [list(tensors) for *_, tensors in seen] == [names] * 2
    shapes = {name: tuple(tensor.shape) for name, tensor in seen[0][3].items()}
    size = (1, 3, 16, 16)
    assert shapes == {"latents": (1, 4, 8, 8), "images": size, "loss": (1,), "selection": (1,),
                      "saliency_map": (1, 1, 16, 16)}  # fmt: skip
    selections = [float(tensors["selection"]) for *_, tensors in seen]
    assert selections == list(result.history["selection"][:2])


def test_a_callback_may_change_the_latents(tiny: SGOOLPipeline) -> None:
    first = torch.randn(1, 4, 8, 8, generator=seeded(5))
    asked = {"method": "doodl", "latents": first, "output_type": "pt", **FEW}

    def put_back(pipe: Any, step: int, total: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        assert not torch.equal(tensors["latents"].cpu(), first)
        return {"latents": first}

    result = tiny(PROMPT, callback_on_step_end=put_back, **asked)
    assert result.history["selection"].nunique() == 1  # each update begins where the first one did
    assert tiny(PROMPT, **asked).history["selection"].nunique() == 3
    with pytest.raises(SgoolError, match=r"`callback_on_step_end`: expected latents of shape \(1, 4, 8, 8\)"):
        tiny(PROMPT, callback_on_step_end=lambda *_: {"latents": first[0]}, **asked)


def test_candidates_call_back_without_tensors(tiny: SGOOLPipeline) -> None:
    seen: list[Any] = []
    asked: dict[str, Any] = {"method": "best_of_n", "candidates": 3, "num_inference_steps": 2}
    tiny(PROMPT, callback_on_step_end=lambda *given: seen.append(given), **asked)
    assert [given[1:] for given in seen] == [(0, 3, {}), (1, 3, {}), (2, 3, {})]


def _blue(images: Tensor) -> Tensor:
    return -images[:, 2].mean(dim=(1, 2))


def test_a_function_as_objective(tiny: SGOOLPipeline) -> None:
    result = tiny(PROMPT, method="doodl", objective=_blue, generator=seeded(1), output_type="pt", **FEW)
    # Without the CLIP's term, the history has that of the function alone.
    assert "_blue" in result.history and "text" not in result.history
    blue = -result.images[:, 2].mean()
    assert float(blue) == pytest.approx(result.history["selection"].min(), abs=1 / 255)  # 8 bits
    assert float(blue) < float(-result.initial_images[:, 2].mean())


def test_several_objectives(tiny: SGOOLPipeline) -> None:
    told: list[list[str]] = []

    def dark(images: Tensor, prompts: list[str]) -> Tensor:
        told.append(prompts)
        return images.mean(dim=(1, 2, 3))

    terms = ["text_alignment", (dark, 0.5), Color(rgb=(1.0, 0.0, 0.0))]
    rows = tiny(PROMPT, method="doodl", objective=terms, generator=seeded(1), **FEW).history
    # float32, and the mean over the crops is not the whole image's: the loss is checked, not the selection.
    assert np.allclose(rows["loss"], rows["text_alignment"] + 0.5 * rows["dark"] + rows["color"], rtol=1e-5)
    named = {"shade": (dark, 0.5), "red": Color(rgb=(1.0, 0.0, 0.0))}
    rows = tiny(PROMPT, method="doodl", objective=named, generator=seeded(1), **FEW).history
    assert np.allclose(rows["loss"], 0.5 * rows["shade"] + rows["red"], rtol=1e-5)
    assert told and {tuple(prompts) for prompts in told} == {(PROMPT,)}


def test_a_function_with_the_name_of_a_column(tiny: SGOOLPipeline) -> None:
    def loss(images: Tensor) -> Tensor:
        return 2 + images.mean(dim=(1, 2, 3))

    rows = tiny(PROMPT, method="doodl", objective=["text_alignment", loss], generator=seeded(1), **FEW).history
    assert (rows["loss"] > rows["loss_term"]).all() and (rows["loss_term"] >= 2).all()


def test_a_function_that_returns_one_number(tiny: SGOOLPipeline) -> None:
    with pytest.raises(
        SgoolError, match=r"the objective's function mean: expected .* of shape \(1,\), got a tensor of shape"
    ):
        tiny(PROMPT, method="doodl", objective={"mean": lambda images: images.mean()}, **FEW)


def test_a_detector_and_a_sampler_as_objects(tiny: SGOOLPipeline) -> None:
    def left(images: Tensor) -> Tensor:
        saliency = torch.zeros_like(images[:, :1])
        saliency[..., : images.shape[-1] // 2] = 1
        return saliency

    asked = {**FEW, "candidates": 1, "num_optimization_steps": 1, "generator": seeded(1)}
    result = tiny(PROMPT, saliency=left, sampler=DDIM(), **asked)
    (saliency,) = result.saliency
    assert saliency is not None and saliency[:, :8].all() and not saliency[:, 8:].any()
    named = tiny(PROMPT, saliency=left, sampler="ddim", **{**asked, "generator": seeded(1)})
    assert torch.equal(named.latents, result.latents)


def test_clips_as_objects(loaded: Any, clip_folder: Path, wordpiece_folder: Path) -> None:
    guide, judge = load_clip(str(clip_folder)), load_clip(str(wordpiece_folder))
    asked = {**FEW, "method": "doodl", "num_optimization_steps": 1}
    by_folder = quiet(SGOOLPipeline(loaded, guide=clip_folder, judges={"mine": wordpiece_folder}))
    as_objects = quiet(SGOOLPipeline(loaded, guide=(guide.model, guide._tokenizer), judges={"mine": judge}))
    expected = by_folder(PROMPT, generator=seeded(1), **asked)
    result = as_objects(PROMPT, generator=seeded(1), **asked)
    assert torch.equal(result.latents, expected.latents)
    assert result.metrics == expected.metrics
    assert "mine/clip_score" in result.metrics[0]


def test_no_judges_load_no_clip(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = quiet(SGOOLPipeline(loaded, judges=False))
    monkeypatch.setattr("sgool.models.networks.load_clip", pytest.fail)
    result = pipe(PROMPT, method="doodl", objective=_blue, **FEW)
    assert set(result.metrics[0]) <= {"objective", "objective_initial"}


def test_a_clip_that_cannot_be_had_offline(loaded: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(SgoolError, match=r"ViT-B-32.*SGOOLPipeline\(pipeline, guide=FOLDER, judges=\{\}\)"):
        quiet(SGOOLPipeline(loaded))(PROMPT, **FEW)


def test_the_bar(tiny: SGOOLPipeline, capfd: pytest.CaptureFixture[str]) -> None:
    tiny(PROMPT, method="doodl", **FEW)
    assert capfd.readouterr().err == ""
    shown = SGOOLPipeline(tiny.pipeline, judges=False)
    shown.set_progress_bar_config(desc="mine")
    shown([PROMPT] * 2, method="doodl", objective=_blue, **{**FEW, "overrides": ["trainer.pairs_per_fit=1"]})
    error = capfd.readouterr().err
    assert "mine: 100%" in error and "4/4" in error and "objective=" in error


def test_device_dtype_and_moving(tiny: SGOOLPipeline) -> None:
    assert (tiny.device, tiny.dtype) == (torch.device("cpu"), torch.float32)
    assert tiny.to("cpu") is tiny
    with pytest.raises(ConfigError, match=r"`to`: expected a device, got torch.float16"):
        tiny.to(torch.float16)  # type: ignore[arg-type]


def test_wrong_arguments_are_told_all_at_once(tiny: SGOOLPipeline) -> None:
    with pytest.raises(ConfigError) as raised:
        tiny(
            [], "a", num_inference_steps=0, guidance_scale=-1, height=0, num_images_per_prompt=0, budget=-3,
            generator=3, latents=[1], output_type="tensor", callback_on_step_end=4, method=5, objective=[3],  # type: ignore[arg-type]
            callback_on_step_end_tensor_inputs=["prompt_embeds"], saliency=6, sampler=7, overrides="optimization.lr=1",
        )  # fmt: skip
    expected = (
        "`prompt`", "`num_images_per_prompt`", "`num_inference_steps`", "`height`", "`guidance_scale`",
        "`budget`", "`generator`", "`latents`", "`method`", "`saliency`", "`sampler`", "`objective`", "`output_type`",
        "`callback_on_step_end`", "`callback_on_step_end_tensor_inputs`", "`overrides`",
    )  # fmt: skip
    for name in expected:
        assert sum(problem.startswith(f"{name}: expected") for problem in raised.value.problems) == 1, name
    assert len(raised.value.problems) == len(expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "sgol"}, r"unknown method 'sgol'; did you mean `sgool`"),
        ({"objective": "colour"}, r"colour"),
        ({"objective": {"text": "color"}}, r"`objective`: a name stands in a list"),
        ({"overrides": ["optimization.lrr=1"]}, r"did you mean `optimization.lr`"),
        ({"overrides": ["models.dtype=float16"]}, r"`overrides`: models.dtype is set when the model is loaded"),
        ({"overrides": ["data.seeds=[1]"]}, r"has an argument of its own; use prompt="),
        ({"overrides": ["methods=[doodl]"]}, r"has an argument of its own; use method="),
        ({"method": "vanilla", "candidates": 2}, r"`candidates`: expected None, since vanilla tries no candidates"),
        ({"method": "vanilla", "num_optimization_steps": 2}, r"`num_optimization_steps`: expected None"),
        (
            {"method": "doodl", "budget": 99, "num_optimization_steps": 2},
            r"`num_optimization_steps`: .* beside `budget`",
        ),
        ({"method": "best_of_n", "budget": 99, "candidates": 2}, r"`candidates`: expected None beside `budget`"),
        ({"negative_prompt": ["a", "b"]}, r"`negative_prompt`: expected a text, or a list with one for each of the 1"),
        ({"generator": [seeded(1)] * 2}, r"`generator`: expected .* for each of the 1 images"),
        ({"budget": {"minutes": 3}}, r"`budget`: expected a number of network calls"),
        ({"method": "doodl", "budget": 1}, r"`budget.calls`: expected at least"),
        ({"latents": torch.zeros(2, 4, 8, 8)}, r"`latents`: expected the shape \(1, 4, 8, 8\).*\(2, 4, 8, 8\)"),
        ({"latents": torch.full((1, 4, 8, 8), float("nan"))}, r"`latents`: expected finite numbers"),
        ({"height": 17}, r"`models.height`: expected a multiple of"),
    ],
)
def test_wrong_arguments(tiny: SGOOLPipeline, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SgoolError, match=message):
        tiny(PROMPT, **arguments)


def test_generators_that_are_one(tiny: SGOOLPipeline) -> None:
    with pytest.raises(ConfigError, match="expected a list of different generators"):
        tiny([PROMPT] * 2, generator=[seeded(1)] * 2)


def test_images_that_fail(tiny: SGOOLPipeline) -> None:
    def broken(images: Tensor) -> Tensor:
        return images.mean(dim=(1, 2, 3)) * float("nan")

    with pytest.raises(SgoolError, match="no image was made well; the first ended in"):
        tiny(PROMPT, method="doodl", objective=broken, **FEW)


def test_an_image_that_fails_alone(tiny: SGOOLPipeline) -> None:
    def picky(images: Tensor, prompts: list[str]) -> Tensor:
        factors = [float("nan") if prompt == "trees" else 1.0 for prompt in prompts]
        return images.mean(dim=(1, 2, 3)) * torch.tensor(factors)

    with pytest.warns(UserWarning, match="image 1 was not made well"):
        result = tiny([PROMPT, "trees"], method="doodl", objective=picky, **FEW)
    assert result.errors[0] is None and result.errors[1] is not None


def test_the_example_in_the_docstring() -> None:
    (example,) = [test for test in doctest.DocTestFinder(recurse=False).find(SGOOLPipeline, "SGOOLPipeline")]
    assert doctest.DocTestRunner().run(example).failed == 0
    assert isinstance(ClipTower, type)
