"""Methods at equal cost: the settings, the tables of a small run, the choice of prompts, and the controls."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.controls import CONTROLS, TrueMasks, WrongPlaces
from experiments.emoji_world.scenes import held_out_scene
from experiments.where_people_look.half import HalfTextAlignment
from experiments.where_people_look.run import COMMON as LOOKING
from experiments.where_people_look.run import DETECTORS, subject_side
from experiments.which_method.curves import COLUMNS, read_curves
from experiments.which_method.curves import main as curves_main
from experiments.which_method.curves import table as curves_table
from experiments.which_method.prompts import SEEDS, hardest, pool
from experiments.which_method.run import COMMON, METHODS, MODELS, folder_of, run
from experiments.which_method.schedules import SCHEDULES, Schedule, Track, build
from experiments.which_method.tables import by_category, read_runs, table
from experiments.which_method.tune import TRIALS
from experiments.which_method.tune import main as tune_main
from sgool.models.networks import Networks
from sgool.objectives.alignment import TextAlignment
from sgool.prompts.seeds import load_pairs
from sgool.results.records import encode_record, read_record
from sgool.run.config import load_config
from sgool.types import PromptSeed
from tests.fake_run import fake_pairs, fake_record

BUDGET = "budget.calls=11"


@pytest.mark.parametrize("name", METHODS)
def test_every_method_composes(name: str) -> None:
    model = "base" if name in ("fk_steering, same objective", "clip_guidance") else "student"
    config = load_config([*COMMON, *MODELS[model], *METHODS[name], "data.prompts=emoji_world/hard"], CONTROLS)
    assert len(config.methods) == 1
    for more in TRIALS.get(name, {}).values():
        load_config([*COMMON, *MODELS[model], *METHODS[name], *more, "data.prompts=emoji_world/tune_hard"], CONTROLS)


def test_the_tables_of_a_small_run(tmp_path: Path) -> None:
    more = ("models.device=cpu", "objective.crops.num=2", "trainer.precision=32-true")
    names = ["vanilla", "best_of_n, same objective", "sgool"]
    run(names, tmp_path, BUDGET, pairs=1, more=more)
    runs = read_runs(folder_of(tmp_path, "student", "hard", BUDGET, "sgool").parent)
    assert list(runs) == names and all(len(rows) == 2 for rows in runs.values())
    # Without recomputation: 11 images; 5 candidates, 2 updates of 2 calls and the last image.
    assert [rows["calls"].tolist() for rows in runs.values()] == [[1, 1], [11, 11], [10, 10]]
    text = table(runs, ["sgool"])
    assert text.count("\n| ") == 4 and "2 pairs of 1 prompts." in text
    assert by_category(runs).count("\n") == 5


def test_settings_are_tuned_at_several_budgets_in_one_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ran(names: list[str], out: Path, budget: str, model: str, prompts: str, *_: object) -> None:
        right = float(budget == "budget.calls=200")
        for pair in fake_pairs():
            record = fake_record(pair, "best_of_n", metrics={"scene_accuracy": right, "judge/clip_score": 70.0})
            folder = folder_of(out, model, prompts, budget, names[0]) / "pairs/best_of_n" / pair.pair_id
            folder.mkdir(parents=True)
            (folder / "record.json").write_text(encode_record(record), encoding="utf-8")

    monkeypatch.setattr("experiments.which_method.tune.run", ran)
    for calls, share in ((100, "0.0 %"), (200, "100.0 %")):
        tune_main(["best_of_n", "--calls", str(calls), "--out", str(tmp_path)])
        assert f"| best_of_n | nothing to tune | {share} |" in capsys.readouterr().out


def test_at_a_budget_methods_are_compared_on_the_pairs_of_all(tmp_path: Path) -> None:
    columns = "method,budget,pair,prompt,category,scene,judge,calls,seconds"
    rows = [
        f"{name},{budget},{pair},prompt {pair},Two objects,100.0,70.0,{budget},1.0"
        for name, budget, known in (("doodl", 25, "abc"), ("doodl", 50, "ab"), ("reno", 25, "bcd"), ("reno", 50, "a"))
        for pair in known
    ]
    (tmp_path / "runs.csv").write_text("\n".join([columns, *rows]), encoding="utf-8")
    curves = read_curves(tmp_path / "runs.csv", "student", "hard")
    assert {name: {calls: "".join(rows.index) for calls, rows in runs.items()} for name, runs in curves.items()} == {
        "doodl": {25: "bc", 50: "a"},
        "reno": {25: "bc", 50: "a"},
    }


def test_the_table_of_curves_has_the_differences_at_each_budget_of_both(tmp_path: Path) -> None:
    rows = [
        f"{name},{budget},{pair},prompt {pair},Two objects,{right},70.0,{budget},1.0"
        for name, budget, scenes in (
            ("doodl", 25, (0, 0, 100, 100)),
            ("doodl", 50, (0, 0, 0, 0)),
            ("doodl", 100, (0, 0, 0, 0)),
            ("sgool", 25, (100, 0, 0, 100)),
            ("sgool", 50, (100, 100, 100, 0)),
        )
        for pair, right in zip("abcd", scenes, strict=True)
    ]
    (tmp_path / "runs.csv").write_text("\n".join([",".join(COLUMNS), *rows]), encoding="utf-8")
    last, pairs = curves_table(read_curves(tmp_path / "runs.csv", "student", "hard")).splitlines()[-2:]
    cells = [cell.strip() for cell in last.split("|")]
    assert cells[1] == "sgool minus doodl" and cells[2].startswith("+0.0") and cells[3].startswith("+75.0")
    assert cells[4] == "" and pairs == "| pairs | 4 | 4 | 4 |"


def test_the_curves_of_two_budgets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = fake_pairs()
    # The second budget has fewer pairs, and vanilla a single budget, which is no curve.
    for name, calls, known in (("best_of_n", 25, pairs), ("best_of_n", 100, pairs[:-2]), ("vanilla", 100, pairs)):
        for pair in known:
            right = float(calls == 100 or pair.seed == 0)
            record = fake_record(pair, name, metrics={"scene_accuracy": right})
            folder = (
                folder_of(tmp_path, "student", "hard", f"budget.calls={calls}", name) / "pairs" / name / pair.pair_id
            )
            folder.mkdir(parents=True)
            (folder / "record.json").write_text(encode_record(record), encoding="utf-8")
    curves = read_curves(tmp_path, "student", "hard")
    assert {name: {calls: len(rows) for calls, rows in runs.items()} for name, runs in curves.items()} == {
        "best_of_n": {25: len(pairs), 100: len(pairs) - 2}
    }
    curves_main([str(tmp_path), "--csv", str(tmp_path / "curves.csv"), "--figure", str(tmp_path / "curves.svg")])
    said = capsys.readouterr().out
    assert "| method | 25 calls | 100 calls |" in said and "| best_of_n | 50.0 %" in said and "| 100.0 %" in said
    assert f"| pairs | {len(pairs)} | {len(pairs) - 2} |" in said
    assert "best_of_n" in (tmp_path / "curves.svg").read_text(encoding="utf-8")
    curves_main([str(tmp_path / "curves.csv"), "--figure", str(tmp_path / "again.svg")])
    assert capsys.readouterr().out == said
    assert (tmp_path / "again.svg").read_bytes() == (tmp_path / "curves.svg").read_bytes()
    with pytest.raises(SystemExit):
        curves_main([str(tmp_path / "nowhere")])
    assert "no method with runs of two budgets" in capsys.readouterr().err


def test_every_schedule_has_the_calls_of_sgool() -> None:
    assert {schedule.calls for schedule in SCHEDULES.values()} == {99}


def test_the_plain_loop_is_that_of_sgool(tmp_path: Path) -> None:
    more = ("method.sgool.optimization.candidates=4", "optimization.num_optimization_steps=3")
    precision = "32-true"
    own = ("models.device=cpu", *more, f"trainer.precision={precision}")
    run(["sgool"], tmp_path, "budget.calls=null", "student", "tune_hard", 1, [7], own)
    (record,) = (read_record(path) for path in tmp_path.rglob("record.json"))
    trial, (pair,) = build(precision), load_pairs("emoji_world/tune_hard", seeds=[7], limit=1)
    _, kept = trial.run(pair, Schedule(4, ((1, 3),)))
    # sgool adds noise of 1e-4 after each update: they were 1e-5 apart. The best candidate alone has 0.43, the pair's
    # own first latents 0.54.
    assert kept == pytest.approx(record.metrics["objective"], abs=1e-3) and kept < 0.4
    _, others = trial.run(pair, Schedule(4, ((2, 2), (1, 1)), patience=1, shrink=0.5))
    assert others < 0.46


def test_latents_go_back_when_updates_do_not_help() -> None:
    latents = torch.randn(1, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    gradient = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
    schedule = Schedule(1, ((1, 3),), patience=2, shrink=0.5)
    track = Track(latents, 1.0, torch.zeros(3, 8, 8))
    steps = []
    for score in (0.5, 0.6, 0.7):
        track.update(score, gradient, schedule)
        steps.append(track.step)
    assert steps == [0.02, 0.02, 0.01] and track.best_latents.equal(latents)
    again = Track(latents, 1.0, torch.zeros(3, 8, 8), step=0.01)
    again.update(0.5, gradient, schedule)
    assert track.latents.equal(again.latents)


def test_pools_have_two_coloured_things_that_are_held_out_together() -> None:
    rows = pool(held_out_scene, True, 20, 5)
    assert len({row["prompt"] for row in rows}) == 20
    assert all(row["scene"].count('"tint"') == 2 for row in rows)
    assert rows == pool(held_out_scene, True, 20, 5)


def test_the_hardest_prompts_are_those_that_vanilla_paints_worst(tmp_path: Path) -> None:
    rows = pool(held_out_scene, True, 6, 5)
    taken = [row["prompt"] for row in hardest(rows, 3, tmp_path)]
    records = [read_record(path) for path in tmp_path.glob("run/pairs/*/*/record.json")]
    assert len(records) == 6 * len(SEEDS)
    right = {row["prompt"]: 0.0 for row in rows}
    for record in records:
        right[record.prompt] += record.metrics["scene_accuracy"]
    others = [prompt for prompt in right if prompt not in taken]
    assert len(taken) == 3 and max(right[name] for name in taken) <= min(right[name] for name in others)
    assert taken == [row["prompt"] for row in rows if row["prompt"] in taken] and len(set(right.values())) > 1


def painted() -> torch.Tensor:
    """Two squares on a plain background."""
    image = torch.full((3, 64, 64), 0.8)
    image[:, 10:26, 6:22] = 0.1
    image[0, 36:60, 36:60] = 0.0
    return image


def test_true_masks_are_what_differs_from_the_background() -> None:
    (mask,) = TrueMasks()(painted()[None])[0]
    expected = torch.zeros(64, 64)
    expected[10:26, 6:22] = expected[36:60, 36:60] = 1
    assert mask.equal(expected)
    assert subject_side(painted()) == pytest.approx((16 + 24) / 2 / 64)


def networks() -> Networks:
    return Networks(load_config(["models.device=cpu"])["models"])


def test_wrong_places_have_the_same_attention_elsewhere() -> None:
    own = networks()
    images = torch.stack([painted(), painted().flip(2)])
    maps, detector = WrongPlaces(own)(images), WrongPlaces(own)._detector
    for moved, seen, image in zip(maps, detector(images), images, strict=True):
        assert not moved.equal(seen) and np.array_equal(np.sort(moved.flatten()), np.sort(seen.flatten()))
        # Nor does a map depend on the batch, but for the detector's last bits.
        torch.testing.assert_close(WrongPlaces(own)(image[None])[0], moved, rtol=0, atol=1e-5)


def test_a_guide_that_sees_half() -> None:
    own = networks()
    half, whole = HalfTextAlignment(own), TextAlignment(own.clip("emoji_world/guide", None))
    assert whole.input_size == 2 * half.input_size  # type: ignore[operator]
    pairs = [PromptSeed("a red cat")]
    views = torch.full((1, 3, half.input_size, half.input_size), 0.5)  # type: ignore[arg-type]
    wide = torch.full((1, 3, whole.input_size, whole.input_size), 0.5)  # type: ignore[arg-type]
    targets = half.targets(pairs)
    # A plain picture loses nothing; float32.
    torch.testing.assert_close(half(views, targets), whole(wide, targets), rtol=0, atol=1e-5)
    torch.testing.assert_close(half.paired(views, torch.tensor([0]), targets), half(views, targets))


@pytest.mark.parametrize("name", DETECTORS)
def test_every_detector_composes(name: str) -> None:
    config = load_config([*LOOKING, *DETECTORS[name]], CONTROLS)
    assert config.objective.terms.text_alignment.arguments.clip == "emoji_world/guide"
