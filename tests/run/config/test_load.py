"""Composition: overrides, the user's own folder, errors all at once, no traces in Hydra's global state."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import ReadonlyConfigError

from sgool.config.paths import config_folder
from sgool.errors import ConfigError
from sgool.run.config import load_config, to_plain


def _problems(*overrides: str, config_dir: Path | None = None) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load_config(overrides, config_dir)
    return caught.value.problems


def test_overrides_change_values_and_references_follow() -> None:
    config = load_config(
        ["sampler=edict", "sampler.mixing_coeff=0.9", "name=mine", "data.seeds=[0,1]", "methods=[sgool]"]
    )
    assert (config.sampler.name, config.sampler.mixing_coeff) == ("edict", 0.9)
    assert (config.run_dir, list(config.data.seeds), list(config.methods)) == ("runs/mine", [0, 1], ["sgool"])


def test_the_result_is_resolved_plain_and_read_only() -> None:
    config = load_config()
    plain = to_plain(config)
    assert plain == OmegaConf.to_container(config, resolve=False)
    assert plain["objective"]["terms"]["text_alignment"]["clip"] == {"model": "emoji_world/guide", "pretrained": None}
    with pytest.raises(ReadonlyConfigError):
        config.name = "other"


@pytest.mark.parametrize(
    ("override", "select"),
    [
        ("models.guide=emoji_world/judge", lambda c: c.models.guide),
        ("models.guide=emoji_world/judge", lambda c: c.objective.terms.text_alignment.clip),
        ("models.judges.judge=emoji_world/judge", lambda c: c.models.judges.judge),
        ("+objective.terms.second={weight: 0.5, clip: emoji_world/judge}", lambda c: c.objective.terms.second.clip),
    ],
)
def test_a_clip_may_be_given_by_its_name_alone(override: str, select: object) -> None:
    config = load_config([override])
    assert select(config) == {"model": "emoji_world/judge", "pretrained": None}  # type: ignore[operator]


def test_a_clip_may_be_given_in_full() -> None:
    config = load_config(["models.guide={model: ViT-L-14, pretrained: laion2b_s32b_b82k}"])
    assert config.objective.terms.text_alignment.clip == {"model": "ViT-L-14", "pretrained": "laion2b_s32b_b82k"}


def test_an_unknown_key_is_answered_with_a_guess_and_the_valid_keys() -> None:
    (problem,) = _problems("optimization.lrr=2")
    assert problem.startswith("unknown key `optimization.lrr`; did you mean `optimization.lr`?")
    assert "Valid keys of `optimization`: num_optimization_steps, lr, momentum" in problem


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("lr=2", "did you mean `optimization.lr`"),
        ("sampler=DDIM", "there is no choice 'DDIM'; did you mean `ddim`?"),
        ("sampler.steps=3", "unknown key `sampler.steps`; did you mean `sampler.num_inference_steps`?"),
        ("sampler.cfg=3", "did you mean `sampler.guidance_scale`?"),
        ("steps=3", "did you mean `sampler.num_inference_steps`?"),
        ("seed=3", "did you mean `data.seeds`?"),
        ("+optimization.learning_rate=1", "did you mean `optimization.lr`?"),
        ("+method.reno.optimization.learning_rate=1", "did you mean `method.reno.optimization.lr`?"),
        ("methods=[SGOOL]", "unknown method 'SGOOL'; did you mean `sgool`?"),
        ("samplr=edict", "did you mean `sampler`"),
        ("model=sdxl_turbo", "unknown key `model`; did you mean `models`?"),
        ("judge=hps", "did you mean `judges`?"),
        ("budget.call=100", "did you mean `budget.calls`?"),
        ("experiments=demo", "did you mean `experiment`?"),
        (
            "data=prompts.csv",
            "there is no choice 'prompts.csv'. A file of prompts is data.prompts=prompts.csv. Choices:",
        ),
        ("data.seeds=range(3)", "a list is written 'data.seeds=[0,1,2]'"),
        ("qqq=1", "unknown key `qqq`. Valid keys: sampler, models"),
        ("sampler.mixing_coeff=0.9", "It belongs to sampler=edict"),
        ("models.judges.second=x", "A new name is added with +models.judges.second=VALUE"),
        ("~models.gide", "unknown key `models.gide`; did you mean `models.guide`"),
        ("+optimization.extra=1", "unknown key `optimization.extra`"),
        (
            "sampler=edit",
            "`sampler`: there is no choice 'edit'; did you mean `edict`? Choices: bdia, belm, ddim, dpm_solver, edict",
        ),
        ("experiment=papr", "did you mean `paper`? Choices: demo, "),
        ("method=doodl", "choose those to run with 'methods=[doodl]'"),
        (
            "methods=[sgol]",
            "unknown method 'sgol'; did you mean `sgool`? Methods: vanilla, doodl, sgool, sgool_paper, reno",
        ),
        ("methods=[zzz]", "unknown method 'zzz'. Methods: vanilla"),
        ("methods=[sgool,sgool]", "stands there 2 times"),
        ("methods=[]", "`methods`: expected a list that is not empty"),
        ("nonsense", "`nonsense`: expected KEY=VALUE, got no ="),
        ("data.prompts=a(b.csv", "write 'data.prompts=\"a(b.csv\"'"),
        ("data.seeds=0,1", "a list is written 'data.seeds=[0,1]'"),
        ("data.seeds=[]", "`data.seeds`: expected a whole number of at least 1, or a list that is not empty"),
        ("data.prompts=missing.csv", "got 'missing.csv', which is neither a file nor a built-in prompt set"),
        ("data=file", "`data.prompts`: has no value yet; give one with data.prompts=VALUE"),
        ("models.dtype=int8", "`models.dtype`: expected float64, float32, float16 or bfloat16, got 'int8'"),
        ("models.device=gpu", "expected auto, cpu, mps, cuda or cuda:NUMBER, got 'gpu'"),
        ("models.height=63", "`models.height`: expected a multiple of"),
        ("models.width=63", "`models.width`: expected a multiple of"),
        ("models.path=./nothing/here", "there is no folder './nothing/here'"),
        ("models.path=nowhere", "there is no folder 'nowhere'"),
        ("models.path=nowhere", "a hub id has the form owner/name"),
        ("models=sdxk", "there is no choice 'sdxk'; did you mean `sdxl`? Choices: emoji_world, emoji_world_turbo"),
        ("optimization.momentum=1", "expected a number at least 0 and below 1, got 1"),
        ("optimization.num_optimization_steps=0", "a whole number of at least 1, got 0"),
        ("optimization.lr=fast", "expected a number above 0, got 'fast'"),
        ("optimization.tie=2", "`optimization.tie`: expected true or false, got 2"),
        ("objective.terms.text_alignment.weight=0", "expected at least one weight other than 0"),
        ("method.vanilla.use_saliency=true", "unknown key `method.vanilla.use_saliency`"),
        ("method.doodl.kind=optimise", "`method.doodl.kind`: expected vanilla, optimize, clip_guidance, best_of_n, "),
        ("method.reno.optimization.lr=-1", "`method.reno.optimization.lr`: expected a number above 0, got -1"),
        ("+method.reno.optimization.lrr=1", "unknown key `method.reno.optimization.lrr`; did you mean"),
        ("method.sgool.optimization=3", "expected a mapping of keys of `optimization`, got 3"),
        ("method.best_of_n.num_candidates=0", "expected a whole number of at least 1, or null, got 0"),
        ("method.clip_guidance.estimate=x1", "`method.clip_guidance.estimate`: expected x0 or blended, got 'x1'"),
        ("method.clip_guidance.estimate_from=x", "expected guided, prompt or negative_prompt, got 'x'"),
        ("method.clip_guidance.clamp_images=2", "`method.clip_guidance.clamp_images`: expected true or false, or null"),
        ("optimization.clamp_images=2", "`optimization.clamp_images`: expected true or false, got 2"),
        ("models.steps_offset=-1", "`models.steps_offset`: expected a whole number of at least 0, or null, got -1"),
        ("models.timestep_spacing=trail", "expected leading, trailing or linspace, or null, got 'trail'"),
        ("+method.doodl.optimization.steps_offset=0", "all methods share one schedule; set models.steps_offset"),
        ("method.clip_guidance.clip_guidance_scale=-1", "expected a number at least 0, got -1"),
        ("optimization.perturb_schedule=cosine", "expected constant, linear or spherical, got 'cosine'"),
        ("optimization.gaussianity.dim=0", "`optimization.gaussianity.dim`: expected a whole number of at least 1"),
        ("optimization.candidates=0", "`optimization.candidates`: expected a whole number of at least 1, got 0"),
        ("optimization.choose_by=mine", "`optimization.choose_by`: expected own, global or salient, got 'mine'"),
        ("optimization.streams=both", "`optimization.streams`: expected first or all, got 'both'"),
        ("objective.frames=0", "`objective.frames`: expected all, or a whole number of at least 1, got 0"),
        ("budget.calls=0", "`budget.calls`: expected a whole number of at least 1, or null, got 0"),
        ("budget.seconds=0", "`budget.seconds`: expected a number above 0, or null, got 0"),
        ("+method.vanilla.budget.calls=x", "`method.vanilla.budget.calls`: expected a whole number of at least 1"),
        ("+method.doodl.budget.hours=1", "unknown key `method.doodl.budget.hours`"),
        ("method.zero_order.threshold=1", "`method.zero_order.threshold`: expected a number at least 0 and below 1"),
        ("method.fk_steering.potential=min", "expected max, difference or sum, got 'min'"),
        ("+method.doodl.optimization.saliency_mask=true", "`method.doodl`: expected use_saliency=true where"),
        ("models.preset.detector.name=eyes", "`saliency.detector.name`: expected spectral_residual, "),
        ("saliency.threshold=0", "expected a number above 0 and at most 1, got 0"),
        ("logger.name=tensorboard", "`logger.name`: expected csv, none or wandb"),
        ("~models.guide", "Interpolation key 'models.guide' not found"),
        ("trainer.devices=0", "`trainer.devices`: expected a number of devices of at least 1"),
        ("trainer.devices=[0,0]", "`trainer.devices`: expected a number of devices of at least 1, or a list of device"),
        ("trainer.shard=5/4", "`trainer.shard`: expected a part of at most 4, got 5/4"),
        ("trainer.shard=3", "`trainer.shard`: expected auto, or PART/PARTS such as 2/4, got 3"),
        ("trainer.devices=auto", "`trainer.devices`: expected a number"),
        ("trainer.accelerator=cpu", "unknown key `trainer.accelerator`"),
        ("sampler.name=edict", "`sampler.name=edict`: use `sampler=edict`"),
        ("sampler.num_inference_steps=1001", "expected at most 1000, those 'emoji_world' was trained with"),
        ("~trainer.devices", "`trainer.devices`: is missing"),
        (
            "engine=reversible",
            "reversible needs a sampler with an exact inverse (edict, belm, bdia), and ddim has none",
        ),
        ("engine=reversibel", "`engine`: there is no choice 'reversibel'; did you mean `reversible`?"),
        ("engine.memory_mib=-1", "`engine.memory_mib`: expected a number at least 0, got -1"),
        ("engine.gradient_steps=0", "`engine.gradient_steps`: expected a whole number of at least 1, or null, got 0"),
        ("engine.gradient_steps=13", "expected at most `sampler.num_inference_steps`, 12, or null for all, got 13"),
        ("sampler.decode=x", "It belongs to sampler=edict"),
        ("sampler.eta=0.5", "unknown key `sampler.eta`"),
    ],
)
def test_one_mistake_one_message(override: str, words: str) -> None:
    (problem,) = _problems(override)
    assert words in problem


@pytest.mark.parametrize("mixing", ["0.5", "1.01", "-1", "null", "true", ".nan"])
def test_the_mixing_coefficient_is_in_its_range(mixing: str) -> None:
    (problem,) = _problems("sampler=edict", f"sampler.mixing_coeff={mixing}")
    assert problem.startswith("`sampler.mixing_coeff`: expected a number above 0.5 and at most 1")


@pytest.mark.parametrize("gamma", ["0", "1.5", "-1", "half"])
def test_gamma_is_in_its_range(gamma: str) -> None:
    (problem,) = _problems("sampler=bdia", f"sampler.gamma={gamma}")
    assert problem.startswith("`sampler.gamma`: expected a number above 0 and at most 1")


def test_the_drift_that_warns_is_below_the_one_that_fails() -> None:
    (problem,) = _problems("sampler=edict", "engine=reversible", "engine.warn_drift=0.1")
    assert problem == "`engine.warn_drift`: expected at most `engine.max_drift`, 0.01, got 0.1"


def test_what_samplers_say_of_themselves_is_true() -> None:
    """The configuration is checked before torch is imported, by what their options say."""
    from sgool.diffusion import build_sampler
    from sgool.diffusion.options import SAMPLERS
    from sgool.models.schedule import build_schedule
    from tests.diffusion.test_native import Rules
    from tests.reference import scheduler64

    for name in SAMPLERS.components:
        sampler: Any = build_sampler(name)
        schedule = build_schedule(scheduler64(), 5, sampler.spacing)
        if name == "native":
            sampler, schedule = sampler.scheduled(Rules(scheduler64()), 5, None, None)
        moves = sampler.moves(schedule)
        assert sampler.guidable == (name in SAMPLERS.able("guidable"))
        assert all(move.invertible for move in moves) == (name in SAMPLERS.able("invertible")) == sampler.invertible


def test_guidance_knows_its_samplers_and_only_matters_where_it_runs() -> None:
    for sampler in ("edict", "belm", "bdia"):
        (problem,) = _problems(f"sampler={sampler}", "methods=[vanilla,clip_guidance]")
        assert problem == (
            "`method.clip_guidance`: classifier guidance changes the noise of each step of ddim or dpm_solver, not "
            f"that of {sampler}; use sampler=ddim, or leave clip_guidance out of `methods`"
        )
        assert load_config([f"sampler={sampler}"]).sampler.name == sampler
    assert load_config(["sampler=dpm_solver", "methods=[clip_guidance]"]).methods == ["clip_guidance"]


def test_a_budget_is_that_of_an_optimisation() -> None:
    (problem,) = _problems("methods=[best_of_n]", "method.best_of_n.same_budget_as=dodl")
    assert problem == (
        "`method.best_of_n.same_budget_as`: expected a method of kind optimize, got 'dodl'; did you mean `doodl`? "
        "Those are: doodl, sgool, sgool_paper, reno."
    )
    assert "got 'vanilla'" in _problems("methods=[best_of_n]", "method.best_of_n.same_budget_as=vanilla")[0]
    # Unused where the number is given, or where the method does not run.
    load_config(["methods=[best_of_n]", "method.best_of_n.same_budget_as=x", "method.best_of_n.num_candidates=4"])
    load_config(["method.best_of_n.same_budget_as=x"])


def test_searches_and_budgets_that_cannot_work() -> None:
    (problem,) = _problems("methods=[evolution]", "method.evolution.num_elites=8")
    assert problem.startswith("`method.evolution.num_elites`: expected fewer than the 8 of population, got 8")
    (problem,) = _problems("methods=[fk_steering]", "sampler=edict")
    assert problem.startswith("`method.fk_steering`: expected sampler=ddim, whose steps can have fresh noise")
    (problem,) = _problems("methods=[doodl]", "budget.seconds=3", "optimization.perturb_schedule=linear")
    assert problem.startswith("`method.doodl`: expected perturb_schedule constant or spherical where `budget.seconds`")
    load_config(["methods=[doodl]", "budget.calls=300", "optimization.perturb_schedule=linear"])


def test_a_detector_that_only_chooses_is_looked_for_as_well() -> None:
    run = ("methods=[doodl]", "saliency=transalnet", "saliency.detector.weights=no/such.pth")
    load_config(run)
    assert "no/such.pth" in _problems(*run, "optimization.choose_by=salient")[0]


def test_configurations_of_earlier_versions_have_no_budget_and_no_search() -> None:
    from sgool.run.config import complete

    config = to_plain(load_config())
    for key in ("candidates", "choose_by", "streams"):
        del config["optimization"][key]
    del config["budget"], config["objective"]["frames"]
    for method in config["method"].values():
        del method["budget"]
    complete(config)
    assert config["budget"] == {"calls": None, "seconds": None}
    assert (config["optimization"]["candidates"], config["optimization"]["choose_by"]) == (1, "own")
    assert (config["optimization"]["streams"], config["objective"]["frames"]) == ("first", "all")
    assert all(method["budget"] == {} for method in config["method"].values())


def test_several_devices_have_no_number_of_one() -> None:
    with pytest.raises(ConfigError, match=r"`models.device`: expected cuda without a number where `trainer.devices`"):
        load_config(["models.device=cuda:1", "trainer.devices=2"])
    with pytest.raises(
        ConfigError, match=r"`trainer.devices`: expected 1 with models.device=mps, of which there is one, got 2"
    ):
        load_config(["models.device=mps", "trainer.devices=2"])
    assert load_config(["models.device=cuda:1"]).models.device == "cuda:1"


def test_nesterov_needs_momentum() -> None:
    (problem,) = _problems("methods=[doodl]", "optimization.nesterov=true", "optimization.momentum=0")
    assert problem == "`method.doodl`: expected a momentum above 0 where nesterov=true, got 0"
    assert _problems("methods=[reno]", "method.reno.optimization.momentum=0")[0].startswith("`method.reno`")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("optimizer=adam", "nesterov=true", "lr=0.1"), "expected nesterov=false where optimizer=adam, whose betas"),
        (("optimizer=adamw",), "expected a learning rate below 1 where optimizer=adamw, which moves each latent by"),
        (("adam.weight_decay=0.1",), "`optimization.adam.weight_decay`: expected 0 where optimizer=sgd, got 0.1"),
        (("warmup_updates=16",), "expected less than num_optimization_steps=16, got 16"),
        (("whiten.gradient=true", "gradient_rms=null", "grad_clip_value=null"), "expected a gradient_rms where whiten"),
        (("whiten.gradient=true", "gradient_rms=0.02"), "or at least 0.06, three times the gradient's root mean"),
        (("adam.betas=[0.9]",), "expected two numbers, each at least 0 and below 1, got [0.9]"),
        (("adam.betas=[0.9,1]",), "expected two numbers, each at least 0 and below 1, got [0.9, 1]"),
        (("optimizer=lion",), "`optimization.optimizer`: expected sgd, adam or adamw, got 'lion'"),
        (("lr_schedule=step",), "`optimization.lr_schedule`: expected constant, cosine or linear, got 'step'"),
        (("whiten.block=1",), "`optimization.whiten.block`: expected a whole number of at least 2, or null, got 1"),
        (("power_spectrum.target=0",), "`optimization.power_spectrum.target`: expected a number above 0, got 0"),
    ],
)
def test_steps_that_do_not_go_together(overrides: tuple[str, ...], message: str) -> None:
    (problem,) = _problems("methods=[doodl]", *(f"optimization.{override}" for override in overrides))
    assert message in problem


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+method.sgool.saliency.mach=prompt"], "unknown key `method.sgool.saliency.mach`; did you mean"),
        (["+method.sgool.saliency.max_regions=-1"], "`method.sgool.saliency.max_regions`: expected a whole number"),
        (
            ["+method.sgool.saliency.detector.name=center"],
            "`method.sgool.saliency.detector`: all methods of a run share one detector; run sgool by itself, with",
        ),
        (
            ["+method.sgool.saliency.w_global=0", "+method.sgool.saliency.w_salient=0"],
            "`method.sgool.saliency.w_global` and `method.sgool.saliency.w_salient`: expected one above 0",
        ),
    ],
)
def test_own_values_of_saliency_that_cannot_be(overrides: list[str], message: str) -> None:
    (problem,) = _problems("methods=[sgool]", *overrides)
    assert message in problem


def test_a_mask_and_a_whitened_gradient() -> None:
    white = ("optimization.whiten.gradient=true", "optimization.gradient_rms=0.02", "optimization.grad_clip_value=null")
    (problem,) = _problems("methods=[sgool]", "optimization.saliency_mask=true", *white)
    assert "`method.sgool`: expected saliency_mask=false where whiten.gradient=true" in problem
    assert load_config(["methods=[sgool]", *white]).optimization.whiten.block == 16
    adam = ("optimization.optimizer=adam", "optimization.lr=0.02", "optimization.gradient_rms=null")
    load_config(["methods=[doodl]", white[0], white[2], *adam])  # Adam's step does not depend on the gradient's size


def test_the_term_of_an_early_stop_exists_and_is_held_out() -> None:
    run = ("methods=[doodl]", "optimization.early_stop.term=judge")
    assert "there is no term 'judge'. Terms: text_alignment." in _problems(*run)[0]
    judge = "+objective.terms.judge={weight: %s, clip: emoji_world/judge}"
    if "type" in load_config().objective.terms.text_alignment:
        judge = judge.replace("weight", "type: text_alignment, weight")
    (problem,) = _problems(*run, judge % 0.5)
    assert "expected a term that is not optimised, with objective.terms.judge.weight=0, got weight 0.5" in problem
    assert load_config([*run, judge % 0]).optimization.early_stop.term == "judge"


def test_a_methods_own_optimisation_lies_over_the_common_one() -> None:
    from sgool.methods.options import method_optimization

    config = to_plain(
        load_config(["optimization.momentum=0.5", "+method.doodl.optimization={early_stop: {patience: 7}, lr: 3}"])
    )
    common, doodl, reno = config["optimization"], *(method_optimization(config, n) for n in ("doodl", "reno"))
    assert doodl == {**common, "lr": 3, "early_stop": {"term": None, "patience": 7}}
    assert (reno["momentum"], reno["nesterov"], reno["renormalize"]) == (0.9, True, False)
    assert reno["num_optimization_steps"] == common["num_optimization_steps"]
    # best_of_n spends what the other one does.
    assert method_optimization(config, "best_of_n") == doodl
    assert method_optimization(config, "vanilla") == common


def test_both_saliency_weights_cannot_be_zero() -> None:
    assert "expected one above 0" in _problems("saliency.w_global=0", "saliency.w_salient=0")[0]
    assert load_config(["saliency.w_global=0"]).saliency.w_global == 0


def test_all_problems_are_reported_at_once() -> None:
    mistakes = ["sampler=edit", "lr=3", "nonsense", "experiment=papr", "optimization.momentum=1", "methods=[sgol]"]
    problems = _problems(*mistakes)
    assert len(problems) == len(mistakes)
    with pytest.raises(ConfigError, match="6 problems in the configuration:\n- "):
        load_config(mistakes)


def test_problems_before_hydra_gives_up_are_reported_too() -> None:
    problems = _problems("sampler=edit", "~models")
    assert problems[0].startswith("`sampler`") and len(problems) == 2


def test_a_folder_that_is_no_pipeline(tmp_path: Path) -> None:
    assert "is a folder without model_index.json" in _problems(f"models.path={tmp_path}")[0]
    (tmp_path / "weights.zip").write_bytes(b"")
    assert "got the file" in _problems(f"models.path={tmp_path / 'weights.zip'}")[0]


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("model_index.json", "{}", "'{}' is of no named class (`_class_name` in its model_index.json), and"),
        ("model_index.json", '{"_class_name": "KandinskyPipeline"}', "is a KandinskyPipeline"),
        ("model_index.json", '{"_class_name": "AuraFlowPipeline"}', "sdxl (StableDiffusionXLPipeline), "),
        ("model_index.json", "{", "model_index.json cannot be read as JSON"),
        ("unet/config.json", "[1]", "should hold a JSON object, but holds a list"),
        ("unet/config.json", '{"block_out_channels": [8, 8], "sample_size": 9}', "multiple of 8 pixels (VAE factor 4)"),
        ("scheduler/scheduler_config.json", '{"num_train_timesteps": 4}', "expected at most 4"),
    ],
)
def test_a_folder_that_cannot_be_used(tmp_path: Path, file: str, text: str, words: str) -> None:
    _write(tmp_path, "model_index.json", '{"_class_name": "StableDiffusionPipeline"}')
    _write(tmp_path, "vae/config.json", '{"block_out_channels": [8, 8, 8]}')
    _write(tmp_path, file, text)
    problems = _problems(f"models.path={tmp_path}")
    assert words.replace("{}", str(tmp_path)) in problems[0]
    assert len(problems) == (2 if "sample_size" in text else 1)


def test_sizes_are_looked_at_before_a_model_loads() -> None:
    problems = _problems("models.height=30", "models.width=64")
    assert problems == ("`models.height`: expected a multiple of 8 pixels (VAE factor 4), got 30; 32 would do",)
    assert load_config(["models.height=72", "models.width=64"]).models.height == 72


def _write(folder: Path, file: str, text: str) -> None:
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text(text, encoding="utf-8")


def test_an_own_folder_adds_choices(tmp_path: Path) -> None:
    folder = tmp_path / 'with space, comma "and quotes"'
    _write(folder, "sampler/quick.yaml", "defaults: [ddim]\nnum_inference_steps: 3\n")
    _write(folder, "method/mine.yaml", "kind: optimize\nuse_saliency: true\noptimization: {lr: 2.0}\n")
    config = load_config(["sampler=quick", "+method@method.mine=mine", "methods=[mine]"], folder)
    assert (config.sampler.num_inference_steps, config.sampler.guidance_scale) == (3, 4.0)
    assert config.method.mine.use_saliency is True


def test_an_own_file_without_the_latest_keys(tmp_path: Path) -> None:
    for group, choice, new in (
        ("models", "emoji_world", ("steps_offset", "timestep_spacing")),
        ("optimization", "doodl", ("clamp", "steps_", "optimizer", "adam", "lr_s", "warmup", "whiten", "power_s")),
    ):
        lines = (config_folder() / group / f"{choice}.yaml").read_text(encoding="utf-8").splitlines()
        _write(tmp_path, f"{group}/mine.yaml", "\n".join(line for line in lines if not line.startswith(new)))
    config = load_config(["models=mine", "optimization=mine"], tmp_path)
    assert (config.models.steps_offset, config.models.timestep_spacing) == (None, None)
    assert (config.optimization.clamp_images, config.optimization.steps_offset) == (False, None)
    assert config.optimization.adam == {"betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0}
    assert (config.optimization.optimizer, config.optimization.whiten.gradient) == ("sgd", False)
    config = load_config(["optimization=mine"], tmp_path)
    assert config.models.steps_offset is None


def test_an_own_experiment_overrides(tmp_path: Path) -> None:
    text = "# @package _global_\ndefaults:\n  - override /sampler: edict\nname: own\nsampler: {leapfrog: false}\n"
    _write(tmp_path, "experiment/own.yaml", text)
    config = load_config(["experiment=own", "sampler.num_inference_steps=7"], str(tmp_path))
    assert (config.name, config.sampler.name, config.sampler.leapfrog) == ("own", "edict", False)
    assert config.sampler.num_inference_steps == 7


@pytest.mark.parametrize(
    ("file", "text", "match"),
    [
        ("experiment/own.yaml", "# @package _global_\noptimization: {lrr: 1}\n", "unknown key `optimization.lrr`"),
        (
            "experiment/own.yaml",
            "# @package _global_\ndefaults:\n  - override /sampler: nope\n",
            "Could not find 'sampler/nope'",
        ),
        (
            "experiment/own.yaml",
            "# @package _global_\ndefaults:\n  - override /sampler: no\n",
            "Unsupported item value",
        ),
        ("experiment/own.yaml", "a: [1\n", "expected ',' or ']'"),
    ],
)
def test_mistakes_in_own_files(tmp_path: Path, file: str, text: str, match: str) -> None:
    _write(tmp_path, file, text)
    with pytest.raises(ConfigError, match=match):
        load_config(["experiment=own"], tmp_path)


def test_an_own_file_may_not_be_hidden_by_a_shipped_one(tmp_path: Path) -> None:
    _write(tmp_path, "models/sd14.yaml", "path: x\n")
    with pytest.raises(ConfigError, match=r"models/sd14.yaml would be hidden .* my_sd14.yaml"):
        load_config([], tmp_path)


def test_a_missing_own_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--config-dir: expected a folder"):
        load_config([], tmp_path / "none")


def test_hydra_is_left_as_it_was(tmp_path: Path) -> None:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    load_config()
    assert not GlobalHydra.instance().is_initialized()
    _write(tmp_path, "app.yaml", "a: 1\n")
    with initialize_config_dir(config_dir=str(tmp_path), version_base="1.3"):
        load_config()
        with pytest.raises(ConfigError):
            load_config(["lr=1"])
        assert compose("app").a == 1


def test_composing_writes_nothing_and_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from sgool.run.config import load_config; load_config(['experiment=paper']);"
        "print(sorted({'torch', 'lightning', 'diffusers', 'transformers', 'pandas', 'numpy'} & set(sys.modules)))"
    )
    root = str(Path(__file__).parents[3])
    code = f"import sys; sys.path.insert(0, {root!r}); {code}"
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (result.stdout.strip(), result.returncode) == ("[]", 0), result.stderr
    assert list(tmp_path.iterdir()) == []
