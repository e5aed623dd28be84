"""Classifier guidance against its formula, and against diffusers' community pipeline's, with plain autograd."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from sgool.errors import SgoolError
from sgool.methods import ClipGuidance, Vanilla
from sgool.models.clip import ClipTower
from sgool.models.stable_diffusion import StableDiffusion
from sgool.objectives import CropSettings, Objective, SaliencySettings, TextAlignment
from sgool.objectives.crops import random_boxes
from sgool.prompts.seeding import first_latents, pair_generator
from sgool.results.checkpoint import eight_bit
from sgool.saliency import SpectralResidual
from sgool.types import PairResult, PromptSeed
from tests.diffusion.families import chain_of as family_chain
from tests.fits import Told, chain_of, run
from tests.reference import scheduler64, spherical

PAIRS = (PromptSeed("a red cat", 1), PromptSeed("two green trees", 2, negative_prompt="blue"))
STEPS, GUIDANCE, SCALE = 4, 3.0, 30.0
CHAIN: dict[str, Any] = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE}


def method(
    models: StableDiffusion,
    clip: ClipTower,
    *,
    sampler: str = "ddim",
    crops: int = 3,
    salient: bool = False,
    scale: float = SCALE,
    clamp: bool = False,
    **how: Any,
) -> ClipGuidance:
    saliency = SaliencySettings(SpectralResidual()) if salient else None
    terms = CropSettings(num=crops, power=0.5, min_side=0.5, reduction="mean")
    objective = Objective({"text": TextAlignment(clip)}, {"text": 1.0}, terms, saliency, clamp_images=clamp)
    return ClipGuidance(chain_of(models, sampler, **CHAIN), objective, clip_guidance_scale=scale, **how)


def plain_guidance(
    models: StableDiffusion,
    clip: ClipTower,
    pair: PromptSeed,
    sampler: str,
    crops: int,
    estimate: str,
    through: bool = True,
    estimate_from: str = "guided",
    clamp: bool = False,
    scale: float = SCALE,
) -> tuple[Tensor, list[float]]:
    """The image of one pair and the losses seen on the way, in float64.

    With "blended", "prompt" and clamping these are the formulas of `cond_fn` in diffusers' community pipeline
    `clip_guided_stable_diffusion`, for DDIM; that code itself gave the same selection scores to 16 digits.
    """
    schedule = models.schedule(STEPS, "dpm" if sampler == "dpm_solver" else "ddim")
    text, negative = (models.encode_prompts([prompt]) for prompt in (pair.prompt, pair.negative_prompt))
    target = clip.encode_text([pair.prompt])[0]

    def decode(latents: Tensor) -> Tensor:
        image: Tensor = models.vae.decode(latents / models.vae.config.scaling_factor).sample / 2 + 0.5
        return image.clamp(0, 1) if clamp else image

    def loss_of(image: Tensor, index: int) -> Tensor:
        views = [image]
        if crops:
            boxes = random_boxes((32, 32), crops, pair_generator(pair.seed, "crops0", index), power=0.5, min_side=0.5)
            views = [image[..., b.top : b.top + b.height, b.left : b.left + b.width] for b in boxes]
        size = (clip.input_size,) * 2
        views = [torch.nn.functional.interpolate(view, size, mode="bilinear", align_corners=False) for view in views]
        return sum(spherical(clip.encode_image(view)[0], target) for view in views) / len(views)  # type: ignore

    x, losses, before = first_latents(pair.seed, (4, 8, 8)).double()[None], [], None
    for index, step in enumerate(schedule.steps):
        alpha_prod_t, after = step.alpha**2, step.alpha_prev**2
        beta = 1 - alpha_prod_t
        latents = x.detach().requires_grad_(True)
        outputs = [models.unet(latents, step.timestep, encoder_hidden_states=e).sample for e in (negative, text)]
        output = outputs[0] + GUIDANCE * (outputs[1] - outputs[0])
        if not through:
            output = output.detach()
        estimating = {"guided": output, "negative_prompt": outputs[0], "prompt": outputs[1]}[estimate_from]
        noise_pred, noise_pred_original = estimating, output
        if schedule.prediction_type == "v_prediction":
            noise_pred, noise_pred_original = (
                math.sqrt(alpha_prod_t) * one + math.sqrt(beta) * latents for one in (estimating, output)
            )
        pred_original = (latents - math.sqrt(beta) * noise_pred) / math.sqrt(alpha_prod_t)
        sample = pred_original
        if estimate == "blended":
            sample = pred_original * math.sqrt(beta) + latents * (1 - math.sqrt(beta))
        loss = loss_of(decode(sample), index)
        losses.append(float(loss.detach()))
        grads = -torch.autograd.grad(loss * scale, latents)[0]
        noise_pred = (noise_pred_original - math.sqrt(beta) * grads).detach()
        clean = (x - math.sqrt(beta) * noise_pred) / math.sqrt(alpha_prod_t)
        if sampler == "ddim":
            x = math.sqrt(after) * clean + math.sqrt(1 - after) * noise_pred
            continue
        # Lu et al. 2022, algorithm 2, first order at both ends.
        lambdas = [math.inf if a >= 1 else math.log(a / (1 - a)) / 2 for a in (alpha_prod_t, after)]
        h, d = lambdas[1] - lambdas[0], clean
        if 0 < index < STEPS - 1:
            assert before is not None
            r = before[1] / h
            d = (1 + 1 / (2 * r)) * clean - 1 / (2 * r) * before[0]
        before = (clean, h)
        x = math.sqrt((1 - after) / beta) * x - math.sqrt(after) * math.expm1(-h) * d
    return decode(x)[0].clamp(0, 1).detach(), losses


@pytest.mark.parametrize(
    ("sampler", "prediction", "crops", "estimate", "through"),
    [
        ("ddim", "epsilon", 0, "x0", True),
        ("ddim", "epsilon", 3, "x0", True),
        ("ddim", "v_prediction", 3, "x0", True),
        ("ddim", "epsilon", 3, "blended", True),
        ("ddim", "v_prediction", 0, "blended", False),
        ("ddim", "epsilon", 3, "x0", False),
        ("dpm_solver", "epsilon", 3, "x0", True),
        ("dpm_solver", "v_prediction", 0, "x0", True),
    ],
)
def test_it_is_the_formula(
    models64: StableDiffusion,
    clip64: ClipTower,
    sampler: str,
    prediction: str,
    crops: int,
    estimate: str,
    through: bool,
) -> None:
    models = replace(models64, scheduler=scheduler64(prediction_type=prediction))
    guided = method(models, clip64, sampler=sampler, crops=crops, estimate=estimate, through_network=through)
    results = run(guided, PAIRS)
    for pair, result in zip(PAIRS, results, strict=True):
        image, losses = plain_guidance(models, clip64, pair, sampler, crops, estimate, through)
        # float64 twice: the same pixels, and before they are rounded to 8 bits the same score; four steps and the
        # decoder amplify the last digits.
        assert result.final_image.equal(eight_bit(image))
        score = float(guided.objective.bind([pair]).evaluate(image[None]))
        assert result.history[-1]["selection"] == pytest.approx(score, rel=1e-8)
        assert [row["loss"] for row in result.history[:-1]] == pytest.approx(losses, rel=1e-8)
        # A changed term in the formula would be seen: the guidance moves the image by far more than the tolerance.
        assert float((result.final_image - result.initial_image).abs().max()) > 1e-4


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("source", ["prompt", "negative_prompt"])
def test_the_formula_of_diffusers_community_pipeline(
    models64: StableDiffusion, clip64: ClipTower, source: str, prediction: str
) -> None:
    """And, from the negative prompt, that of earlier releases of it and of DOODL's baseline (`one_step_baseline`)."""
    models, scale = replace(models64, scheduler=scheduler64(prediction_type=prediction)), 3000.0
    how = {"estimate": "blended", "estimate_from": source}
    guided = method(models, clip64, crops=0, scale=scale, clamp=True, **how)
    default = method(models, clip64, crops=0, scale=scale)
    for pair, result, other in zip(PAIRS, run(guided, PAIRS), run(default, PAIRS), strict=True):
        image, losses = plain_guidance(models, clip64, pair, "ddim", 0, **how, clamp=True, scale=scale)
        assert result.final_image.equal(eight_bit(image))
        assert [row["loss"] for row in result.history[:-1]] == pytest.approx(losses, rel=1e-8)
        assert result.network_evaluations == 2 * STEPS  # one more a step: the prompt, or the negative one, alone
        # The default is another formula: 1e-2 and more, where equal ones agree to 1e-8.
        assert result.history[-2]["gradient_norm"] != pytest.approx(other.history[-2]["gradient_norm"], rel=1e-3)


def test_without_guidance_an_estimate_of_the_prompt_needs_no_further_call(
    models64: StableDiffusion, clip64: ClipTower
) -> None:
    guided = method(models64, clip64, crops=0, clamp=True, estimate="blended", estimate_from="prompt")
    guided.chain = chain_of(models64, **{**CHAIN, "guidance_scale": 1.0})
    assert [result.network_evaluations for result in run(guided, PAIRS[:1])] == [STEPS]


@pytest.mark.parametrize("sampler", ["ddim", "dpm_solver"])
def test_without_scale_it_is_vanilla(models: StableDiffusion, clip_tower: ClipTower, sampler: str) -> None:
    vanilla = run(Vanilla(chain_of(models, sampler, **CHAIN)), PAIRS)
    guided = run(method(models, clip_tower, sampler=sampler, scale=0.0), PAIRS)
    for base, result in zip(vanilla, guided, strict=True):
        torch.testing.assert_close(result.final_image, base.final_image, rtol=0, atol=1e-6)
        assert result.initial_image.equal(base.final_image)
        assert result.initial_latents.equal(base.initial_latents) and result.final_latents.equal(base.final_latents)
        # One call a step; the plain images beside it are vanilla's cost.
        assert result.network_evaluations == base.network_evaluations == STEPS
        assert result.history[0]["selection"] == pytest.approx(result.history[-1]["selection"], abs=1e-5)


@pytest.mark.parametrize("through", [True, False])
def test_history_calls_and_salient_regions(models64: StableDiffusion, clip64: ClipTower, through: bool) -> None:
    told = Told()
    guided = method(models64, clip64, salient=True, through_network=through)
    objective = guided.objective
    for pair, result in zip(PAIRS, run(guided, PAIRS, [told]), strict=True):
        assert [row["update"] for row in result.history] == list(range(STEPS + 1))
        assert set(result.history[0]) == {"update", "loss", "selection", "text", "gradient_norm", "regions"}
        assert (result.best_step, result.num_optimization_steps, result.error) == (STEPS, STEPS, None)
        for row, image in ((0, result.initial_image), (-1, result.final_image)):
            alone = float(objective.bind([pair]).evaluate(image[None]))
            # The images returned have 8 bits, those judged on the way more; regions may shift by a pixel.
            assert result.history[row]["selection"] == pytest.approx(alone, rel=1e-2)
        assert result.saliency_map is not None and result.saliency_map.shape == (1, 32, 32)
        assert result.network_evaluations == STEPS
    assert told.updates == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_batch_mates_do_not_change_a_result(models64: StableDiffusion, clip64: ClipTower) -> None:
    guided = method(models64, clip64, salient=True)
    (alone,), together = run(guided, PAIRS[1:]), run(guided, PAIRS)
    # float64: only the order of sums differs.
    torch.testing.assert_close(together[1].final_image, alone.final_image, rtol=0, atol=1e-9)


def test_mixed_bfloat16(models: StableDiffusion, clip_tower: ClipTower) -> None:
    rough = run(method(models, clip_tower, scale=1.0), PAIRS, precision="bf16-mixed")
    exact = run(method(models, clip_tower, scale=1.0), PAIRS)
    for result, full in zip(rough, exact, strict=True):
        assert result.error is None and result.final_image.dtype == torch.float32
        assert not result.final_image.equal(full.final_image)  # it did run in bfloat16
        # Eight bits of mantissa through four steps and the decoder.
        torch.testing.assert_close(result.final_image, full.final_image, rtol=0, atol=0.1)


def test_guidance_that_is_not_finite_fails_the_pair_alone(models64: StableDiffusion, clip64: ClipTower) -> None:
    class Broken(TextAlignment):
        def __call__(self, views: Tensor, targets: Tensor) -> Tensor:
            own = self.targets(PAIRS[:1])[0]
            bad = (targets == own).all(dim=1)
            return torch.where(bad, torch.nan, super().__call__(views, targets))

    def guided(term: TextAlignment) -> list[PairResult]:
        objective = Objective({"text": term}, {"text": 1.0}, CropSettings(num=2))
        return run(ClipGuidance(chain_of(models64, **CHAIN), objective, clip_guidance_scale=5.0), PAIRS)

    broken, fine = guided(Broken(clip64)), guided(TextAlignment(clip64))
    assert broken[0].error == "non-finite guidance at denoising step 0"
    assert broken[1].error is None and broken[1].final_image.equal(fine[1].final_image)


def test_bad_input(models: StableDiffusion, clip_tower: ClipTower) -> None:
    with pytest.raises(SgoolError, match="can be guided, such as ddim or dpm_solver, got edict"):
        method(models, clip_tower, sampler="edict")
    with pytest.raises(SgoolError, match=r"`method\.clip_guidance\.estimate`: expected x0 or blended, got 'x1'"):
        method(models, clip_tower, estimate="x1")
    with pytest.raises(SgoolError, match=r"estimate_from`: expected guided, prompt or negative_prompt, got 'text'"):
        method(models, clip_tower, estimate_from="text")
    zero = DDIMScheduler(rescale_betas_zero_snr=True, timestep_spacing="trailing", prediction_type="v_prediction")
    with pytest.raises(SgoolError, match=r"begins in pure noise.*models\.timestep_spacing=leading"):
        method(replace(models, scheduler=zero), clip_tower)
    with pytest.raises(SgoolError, match=r"a model of flow matching begins in pure noise, .*leave clip_guidance out"):
        goal = Objective({"text": TextAlignment(clip_tower)})
        ClipGuidance(family_chain("sd3", sampler="ddim"), goal, clip_guidance_scale=1)
    with pytest.raises(SgoolError, match="guidance of the noise is without bounds"):  # there 2**-12, and not 0
        method(replace(models, scheduler=zero), clip_tower, sampler="dpm_solver")

    class Flat(TextAlignment):
        def __call__(self, views: Tensor, targets: Tensor) -> Tensor:
            return super().__call__(views, targets).detach()

    objective = Objective({"text": Flat(clip_tower)}, {"text": 1.0}, CropSettings(num=2))
    with pytest.raises(SgoolError, match="expected an objective with a gradient, got text without"):
        run(ClipGuidance(chain_of(models, **CHAIN), objective, clip_guidance_scale=5.0), PAIRS)
