"""Text guidance and the three prompt sets: the papers' settings, the committed prompts, a tiny run."""

from __future__ import annotations

import csv
import json
import re
import shlex
from collections import Counter
from pathlib import Path

import pytest

from experiments.prompt_sets import prompts, run
from sgool.errors import ConfigError
from sgool.models.clip import load_clip
from sgool.prompts import load_pairs
from sgool.results import RunFolder
from sgool.run.config import load_config, to_plain
from tests.experiments.test_emoji_world import prompt_rows, scenes_that_fit

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
#: Stands for the weights of TranSalNet, which the composition looks for.
_WEIGHTS = "saliency.detector.weights=emoji_world/saliency/transalnet.safetensors"


def _committed(name: str) -> list[dict[str, str]]:
    with (prompts.FOLDER / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _unordered(scene: str) -> str:
    """What a scene says, with the objects in one order where it states no relation."""
    facts = json.loads(scene)
    if "relation" not in facts:
        facts["objects"].sort(key=lambda item: item["noun"])
    return json.dumps(facts, sort_keys=True)


# Configurations


def test_text_guidance_has_the_settings_of_doodl() -> None:
    config = load_config(["experiment=text_guidance", "models=sd14"])
    sampler, optimization, crops = config.sampler, config.optimization, config.objective.crops
    assert (sampler.name, sampler.num_inference_steps, sampler.mixing_coeff) == ("edict", 50, 0.93)
    assert sampler.guidance_scale == 7.5
    assert (optimization.num_optimization_steps, optimization.grad_clip_value) == (50, 1e-3)
    assert (optimization.momentum, optimization.perturb_std, optimization.keep) == (0.9, 1e-4, "last")
    assert (crops.num, crops.power, crops.reduction) == (16, 0.3, "min")
    assert config.objective.terms.text_alignment.clip.model == "ViT-g-14"
    assert config.models.judges.judge.model == "ViT-H-14"
    assert (list(config.data.categories), config.data.seeds) == (["DALL-E", "Reddit"], 9)


def test_text_guidance_takes_nine_seeds_of_the_two_categories(tmp_path: Path) -> None:
    sheet = tmp_path / "drawbench.csv"
    sheet.write_text("Prompts,Category\na red car,Colors\nan avocado,DALL-E\na wizard,Reddit\n", encoding="utf-8")
    config = load_config(["experiment=text_guidance", "models=sd14", f"data.prompts='{sheet}'"])
    pairs = load_pairs(**to_plain(config.data))
    assert Counter((pair.prompt, pair.category) for pair in pairs) == {
        ("an avocado", "DALL-E"): 9,
        ("a wizard", "Reddit"): 9,
    }
    assert {pair.seed for pair in pairs} == set(range(9))


def test_the_embedded_text_guidance_shares_no_prompt_with_the_other_experiments() -> None:
    pairs = load_pairs(**to_plain(load_config(["experiment=text_guidance_embedded"]).data))
    assert Counter(pair.category for pair in pairs) == {"Two objects": 54, "Conflicting": 54}
    assert Counter(pair.prompt for pair in pairs) == dict.fromkeys({pair.prompt for pair in pairs}, 9)
    others = [*prompt_rows("heldout")[:64], *prompt_rows("tune")]
    assert {pair.prompt for pair in pairs}.isdisjoint(row["prompt"] for row in others)


@pytest.mark.parametrize("name", run.REAL)
def test_prompt_sets_have_the_settings_of_sgool(name: str, tmp_path: Path) -> None:
    (tmp_path / run.REAL[name]).write_text("prompt\na cat\n", encoding="utf-8")
    config = load_config([*run.choices(name, tmp_path), "models=sd14", _WEIGHTS])
    assert config.data.name == name
    assert (config.models.height, config.models.width) == (256, 256)
    assert config.objective.terms.text_alignment.clip.model == "ViT-B-32"
    assert config.saliency.detector.name == "transalnet"
    assert config.optimization.num_optimization_steps == 50
    sampler, crops = config.sampler, config.objective.crops
    assert (sampler.name, sampler.num_inference_steps, sampler.guidance_scale) == ("edict", 50, 7.5)
    assert (crops.num, crops.power, crops.reduction) == (16, 0.3, "min")
    assert list(config.methods) == ["vanilla", "best_of_n", "doodl", "sgool_paper"]


@pytest.mark.parametrize("experiment", [["experiment=text_guidance"], ["experiment=prompt_sets", _WEIGHTS]])
def test_classifier_guidance_is_a_run_of_its_own(experiment: list[str]) -> None:
    with pytest.raises(ConfigError, match="not that of edict"):
        load_config([*experiment, "models=sd14", "methods=[clip_guidance]"])
    config = load_config([*experiment, "models=sd14", "sampler=ddim", "methods=[vanilla,clip_guidance]"])
    sampler = config.sampler
    assert (sampler.name, sampler.num_inference_steps, sampler.guidance_scale) == ("ddim", 50, 7.5)


# Prompts


def test_committed_prompt_sets_are_what_the_script_writes(tmp_path: Path) -> None:
    prompts.write(tmp_path)
    assert sorted(path.stem for path in tmp_path.iterdir()) == sorted(prompts.SETS)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (prompts.FOLDER / path.name).read_bytes()


@pytest.mark.parametrize("name", prompts.SETS)
def test_no_training_scene_fits_a_prompt(name: str) -> None:
    table = _committed(name)
    assert len({row["prompt"] for row in table}) == len(table) == prompts.SIZE
    fitting = [
        (row["prompt"], scene)
        for row in table
        for scene in scenes_that_fit(json.loads(row["scene"]))
        if not scene.is_held_out()
    ]
    assert fitting == []


@pytest.mark.parametrize("name", prompts.SETS)
def test_no_prompt_says_what_one_of_the_other_experiments_says(name: str) -> None:
    others = [*prompt_rows("heldout"), *prompt_rows("tune"), *prompt_rows("demo")]
    others += [row for other in prompts.SETS if other != name for row in _committed(other)]
    table = _committed(name)
    assert {row["prompt"] for row in table}.isdisjoint(row["prompt"] for row in others)
    assert {_unordered(row["scene"]) for row in table}.isdisjoint(_unordered(row["scene"]) for row in others)


@pytest.mark.parametrize("name", prompts.SETS)
def test_every_word_is_one_that_the_captions_have_and_nothing_is_cut_off(name: str) -> None:
    known = {word for kind in ("heldout", "tune") for row in prompt_rows(kind) for word in row["prompt"].split()}
    texts = [row["prompt"] for row in _committed(name)]
    assert {word for text in texts for word in text.split()} <= known
    for tower in ("guide", "judge"):
        assert not any(load_clip(f"emoji_world/{tower}").truncated(texts))


def test_syntax_says_four_scenes_in_five_constructions() -> None:
    table = _committed("syntax")
    kinds = ["Plain", "Converse", "Word order", "Existential", "Coordination"]
    assert [row["category"] for row in table] == kinds * 4
    for start in range(0, len(table), 5):
        plain, converse, opposite, existential, nouns = (json.loads(row["scene"]) for row in table[start : start + 5])
        assert plain == converse == existential
        assert opposite == {**plain, "objects": plain["objects"][::-1]}
        assert nouns == {"objects": plain["objects"]}
        words = [row["prompt"].split() for row in table[start : start + 5]]
        assert sorted(words[0]) == sorted(words[2]) and words[0] != words[2]
        assert words[3][2:] == words[0] != words[1]


def test_composition_has_its_categories_in_turn_and_descriptions_state_everything() -> None:
    assert [row["category"] for row in _committed("composition")] == list(prompts.CATEGORIES) * 4
    for row in _committed("descriptive"):
        facts = json.loads(row["scene"])
        assert {"objects", "relation", "background"} == set(facts)
        assert [set(item) for item in facts["objects"]] == [{"noun", "tint"}] * 2


def test_runs_one_folder_per_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = ["data.limit=1", "sampler.num_inference_steps=2", "budget.calls=12"]
    monkeypatch.chdir(tmp_path)
    run.main(["--out", "runs", "--", "trainer.precision=32-true", "logger=none", "methods=[vanilla,sgool]", *short])
    for name in prompts.SETS:
        first = _committed(name)[0]
        records = RunFolder(Path("runs") / name).records()
        assert {record.method for record in records} == {"vanilla", "sgool"}
        assert {record.prompt for record in records} == {first["prompt"]}
        assert all(record.pair_id.startswith(name) and "scene_accuracy" in record.metrics for record in records)


# What the READMEs say


def _commands() -> list[str]:
    text = "\n".join((EXPERIMENTS / name / "README.md").read_text("utf-8") for name in ("text_guidance", "prompt_sets"))
    blocks = "\n".join(re.findall(r"```\n(.*?)```", text, flags=re.DOTALL))
    return [line.split("   #")[0].strip() for line in blocks.replace("\\\n", " ").splitlines() if line]


def test_the_commands_of_the_readmes_compose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HPS_v2.1_compressed.pt", "TranSalNet_Res.pth"):
        (tmp_path / name).touch()
    (tmp_path / "prompts").mkdir()
    for name in run.REAL.values():
        (tmp_path / "prompts" / name).write_text("prompt\na cat\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    fitted: list[str] = []
    monkeypatch.setattr(run, "fit", lambda *overrides: fitted.append(load_config(overrides).name))
    for command in _commands():
        words = shlex.split(command)
        if words[:2] == ["sgool", "fit"]:
            fitted.append(load_config(words[2:]).name)
        elif words[:3] == ["python", "-m", "experiments.prompt_sets.run"]:
            run.main(words[3:])
        else:
            assert words[0] == "cp" or words[:2] in (["sgool", "report"], ["sgool", "score"]) or "prompts" in words[2]
    assert set(fitted) == {"text_guidance", "text_guidance_embedded", "prompt_sets", "prompt_sets_embedded"}
