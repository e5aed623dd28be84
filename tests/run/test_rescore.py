"""`sgool score`: judges that came later, and sets of images, on run folders without a diffusion model."""

from __future__ import annotations

import csv
import json
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from sgool.cli import app
from sgool.config.paths import ASSETS
from sgool.errors import ConfigError, SgoolError
from sgool.metrics import set_distances
from sgool.metrics.distribution import ClassifierFeatures, features_of
from sgool.models.classifier import load_classifier
from sgool.models.clip import load_clip
from sgool.models.images import open_photo, to_tensor
from sgool.prompts import load_pairs
from sgool.results import RunFolder
from sgool.run.config import load_config, to_plain
from sgool.run.fit import run_experiment
from sgool.run.imagesets import score_distribution, score_diversity
from sgool.run.parts import Parts
from sgool.run.rescore import pairs_of, rescore
from sgool.types import PairRecord, PromptSeed
from tests.fake_run import fake_record
from tests.models import test_preference

pick_folder = test_preference.pick_folder
METHODS = ("vanilla", "doodl")
CATEGORIES = ("Animals", "Big things")
#: Another column of the prompts; the last prompt has nothing there.
KINDS = ("Red Fox", "car", "car", "")


def painted(pair: PromptSeed, method: str) -> np.ndarray[Any, Any]:
    seed = int(pair.pair_id.rpartition("-")[0][-8:], 16) + 7 * pair.seed + (1 if method == "doodl" else 0)
    return np.random.default_rng(seed).random((3, 32, 32))


@pytest.fixture
def run(tmp_path: Path, clip_folder: Path, wordpiece_folder: Path) -> Path:
    """Two methods on four prompts of two categories with two seeds each: random pictures."""
    prompts = tmp_path / "prompts.csv"
    lines = [f"prompt {number},{CATEGORIES[number % 2]},{KINDS[number]},7" for number in range(4)]
    prompts.write_text("\n".join(["prompt,category,kind,kid", *lines]) + "\n", encoding="utf-8")
    config = to_plain(
        load_config(
            [
                f"data.prompts={prompts}",
                "data.seeds=2",
                f"methods=[{','.join(METHODS)}]",
                f"models.guide={clip_folder}",
                f"models.judges={{judge: {wordpiece_folder}}}",
                "models.scene_reader=null",
                "models.device=cpu",
            ]
        )
    )
    folder = RunFolder(tmp_path / "run").open(config, device="test device")
    for method in METHODS:
        for pair in load_pairs(**config["data"]):
            first = np.ones((1, 4, 4, 4), dtype=np.float32)
            folder.write(
                _record(pair, method),
                {"initial": painted(pair, "vanilla"), "final": painted(pair, method)},
                latents={"initial": first, "best": first * (1 if method == "vanilla" else 1.25)},
            )
    folder.collate()
    return folder.path


def _record(pair: PromptSeed, method: str) -> PairRecord:
    metrics = {"objective": 0.5, "old/clip_score": 1.0}
    return PairRecord(
        pair.pair_id, method, pair.prompt, pair.category, pair.seed, "done", None, 0, 0, metrics, 1, 1.0, 1.0
    )


def change_judges(run: Path, **judges: Any) -> None:
    """As a user edits config.yaml."""
    path = run / "config.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    config["models"]["judges"].update(judges)
    path.write_text(yaml.safe_dump(config), encoding="utf-8")


def test_judges_that_were_added_later_score_the_images(run: Path, clip_folder: Path) -> None:
    change_judges(
        run,
        second=str(clip_folder),
        pixels={"type": "pixels"},
        latents={"type": "latents"},
        like={"type": "image", "clip": str(clip_folder), "images": ["emoji_world/references/panda.png"]},
    )
    outcome = rescore(run)
    assert outcome.new == 16 and outcome.exit_code == 0
    tower = load_clip(str(clip_folder))
    for record in outcome.records:
        names = {"judge/clip_score", "guide/clip_score", "second/clip_score", "like/image_similarity"}
        initial = {f"{name}_initial" for name in names}
        change = {"pixels/ssim", "latents/latent_norm"} | ({"pixels/psnr"} if record.method == "doodl" else set())
        assert set(record.metrics) == names | initial | change | {"objective"}
        assert record.metrics["second/clip_score"] == record.metrics["guide/clip_score"]  # one network
        image = to_tensor(open_photo(run / "pairs" / record.method / record.pair_id / "final.png"))[None]
        cosine = float(tower.encode_image(image) @ tower.encode_text([record.prompt])[0])
        # float32 features in batches of another size.
        assert record.metrics["second/clip_score"] == pytest.approx(max(100 * cosine, 0), abs=1e-3)
        assert record.metrics["latents/latent_norm"] == pytest.approx(1.0 if record.method == "vanilla" else 1.25)
        stored = json.loads((run / "pairs" / record.method / record.pair_id / "record.json").read_text())
        assert stored["metrics"] == dict(record.metrics)


def test_the_run_folder_says_what_judged_it(run: Path, clip_folder: Path) -> None:
    RunFolder(run).record_judges({"old": ["gone"]})
    change_judges(run, second=str(clip_folder), pixels={"type": "pixels"})
    rescore(run)
    told = RunFolder(run)
    tower = load_clip(str(clip_folder)).fingerprint
    judges = told.networks()["judges"]
    assert judges["second"] == judges["guide"] == [tower] and judges["judge"] not in ([], [tower])
    assert judges["pixels"] == [] and "old" not in judges
    assert told.descriptions()["second/clip_score"]["title"] == "CLIP score"


def test_features_are_compared_by_their_weights(run: Path, clip_folder: Path, wordpiece_folder: Path) -> None:
    """By names the guide was optimised; the record says that it was the judge's network, from another place."""
    folder = RunFolder(run)
    folder.record_objective("vanilla", {})
    folder.record_objective("doodl", {"text_alignment": [load_clip(str(wordpiece_folder)).fingerprint]})
    for features, marked in (("judge", True), ("guide", False)):
        score_distribution(run, "vanilla", features=features)
        assert all((row["note"].startswith("optimised against")) == marked for row in rows(run / "distribution.csv"))


def test_run_folders_without_latents_have_no_norm(run: Path) -> None:
    change_judges(run, latents={"type": "latents"}, pixels={"type": "pixels"})
    for path in run.glob("pairs/doodl/*/latents.safetensors"):
        path.unlink()
    metrics = [record.metrics for record in rescore(run).records if record.method == "doodl"]
    assert all("pixels/ssim" in row for row in metrics) and not any("latents/latent_norm" in row for row in metrics)


def test_columns_of_the_prompts_are_known_for_the_seeds_of_earlier_starts(run: Path) -> None:
    path = run / "config.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    config["data"]["seeds"] = [1]  # the last start; the first one had seed 0
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    records = RunFolder(run).records()
    assert {record.seed for record in records} == {0, 1}
    pairs = pairs_of(config, records)
    assert all(pairs[record.pair_id].metadata["kid"] == "7" for record in records)


def test_a_judge_without_its_file_leaves_the_records_alone(run: Path) -> None:
    before = {path: path.read_bytes() for path in run.glob("pairs/*/*/record.json")}
    change_judges(run, reward={"type": "image_reward", "checkpoint": "no.pt"})
    with pytest.raises(ConfigError, match=r"`models.judges.reward.checkpoint`: there is no file 'no.pt'"):
        rescore(run)
    assert {path: path.read_bytes() for path in run.glob("pairs/*/*/record.json")} == before


def test_a_run_records_what_changed_and_scoring_again_gives_the_same(
    pipeline_folder: Path, clip_folder: Path, wordpiece_folder: Path, tmp_path: Path
) -> None:
    overrides = [
        f"models.path={pipeline_folder}",
        f"models.guide={clip_folder}",
        f"models.judges={{judge: {wordpiece_folder}}}",
        "judges=change",
        "models.scene_reader=null",
        "models.device=cpu",
        "data.limit=1",
        "methods=[vanilla,doodl]",
        "logger=none",
        "trainer.precision=32-true",
        "sampler.num_inference_steps=2",
        "optimization.num_optimization_steps=2",
        "optimization.keep=last",
        "optimization.renormalize=false",
        f"run_dir={tmp_path / 'run'}",
    ]
    outcome = run_experiment(load_config(overrides))
    assert outcome.exit_code == 0
    vanilla, doodl = (record.metrics for record in outcome.records)
    change = ("pixels/psnr", "pixels/ssim", "perceptual/perceptual_distance", "latents/latent_norm")
    assert [name in vanilla for name in change] == [False, True, True, True]
    assert [vanilla[name] for name in change[1:]] == [pytest.approx(1), 0, 1]
    assert all(name in doodl for name in change) and not any(f"{name}_initial" in doodl for name in change)
    assert (
        doodl["pixels/ssim"] < 1 and doodl["perceptual/perceptual_distance"] > 0 and doodl["latents/latent_norm"] != 1
    )
    again = rescore(tmp_path / "run")
    for before, after in zip(outcome.records, again.records, strict=True):
        # The run scores images of 8 bits as well; latents are stored in float32.
        assert after.metrics == pytest.approx(dict(before.metrics), rel=1e-4)


def test_over_long_prompts_of_other_judges_are_said(
    pipeline_folder: Path, pick_folder: Path, clip_folder: Path
) -> None:
    overrides = [
        f"models.path={pipeline_folder}",
        f"models.guide={clip_folder}",
        "models.device=cpu",
        "methods=[vanilla]",
        f"+models.judges.pick={{type: pickscore, model: {pick_folder}, processor: {pick_folder}}}",
    ]
    long = "a red cat to the left of a blue house and two green trees above a large orange car beside a heart"
    texts = Parts(to_plain(load_config(overrides))).truncations([long, "a cat"])
    (text,) = texts
    assert text.count(long) == 1 and "the judge pick" in text


# --- sets of images -------------------------------------------------------------------------------------------------


def features(paths: Sequence[Path]) -> torch.Tensor:
    network = ClassifierFeatures(load_classifier("local", checkpoint="emoji_world/classifier"))
    return features_of(network, [to_tensor(open_photo(path))[None] for path in paths])


def finals(run: Path, method: str, category: str | None = None) -> list[Path]:
    records = [record for record in RunFolder(run).records() if record.method == method]
    chosen = [record for record in records if category in (None, record.category)]
    return [run / "pairs" / method / record.pair_id / "final.png" for record in chosen]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_method_against_another(run: Path) -> None:
    table = score_distribution(run, "vanilla", by="category")
    got = rows(run / "distribution.csv")
    assert [(row["method"], row["category"]) for row in got] == [("doodl", ""), *(("doodl", c) for c in CATEGORIES)]
    for row in got:
        category = row["category"] or None
        expected = set_distances(features(finals(run, "doodl", category)), features(finals(run, "vanilla", category)))
        # float32 features in batches of another size; differences of sums.
        assert float(row["fid"]) == pytest.approx(expected.fid, rel=1e-3)
        assert float(row["kid"]) == pytest.approx(expected.kid, rel=1e-3, abs=1e-5)
        assert float(row["kid_std"]) == pytest.approx(expected.kid_std, rel=1e-3, abs=1e-5)
        number = "8" if category is None else "4"
        assert (row["images"], row["reference_images"]) == (number, number)
        assert row["note"] == (
            "few images: FID is biased below 2048 on each side; same prompts and seeds as the reference"
        )
    assert any("never with published values" in note for note in table.notes)
    assert any("not independent" in note for note in table.notes)


def test_a_folder_with_a_subfolder_for_each_category(run: Path, tmp_path: Path) -> None:
    for place, category in (("animals", "Animals"), ("big-things", "Big things")):
        (tmp_path / "photos" / place).mkdir(parents=True)
        for number, path in enumerate(finals(run, "vanilla", category)[:3]):
            (tmp_path / "photos" / place / f"{number}.png").write_bytes(path.read_bytes())
    table = score_distribution(run, str(tmp_path / "photos"), by="category")
    assert not any("not independent" in note for note in table.notes)
    got = {(row["method"], row["category"]): row for row in rows(run / "distribution.csv")}
    assert len(got) == 6
    assert {row["reference_images"] for key, row in got.items() if key[1]} == {"3"}
    assert got["doodl", ""]["reference_images"] == "6"
    expected = set_distances(features(finals(run, "doodl", "Animals")), features(finals(run, "vanilla", "Animals")[:3]))
    assert float(got["doodl", "Animals"]["fid"]) == pytest.approx(expected.fid, rel=1e-3)
    for path in (tmp_path / "photos" / "animals").iterdir():
        path.unlink()
    score_distribution(run, str(tmp_path / "photos"), by="category")
    row = next(row for row in rows(run / "distribution.csv") if row["category"] == "Animals")
    assert (row["fid"], row["kid"], row["note"]) == ("", "", "the reference has no images of this group")


def test_a_folder_without_categories_serves_all(run: Path) -> None:
    """The folder of a method in another run: its final images, not the first ones and not the maps."""
    table = score_distribution(run, str(run / "pairs" / "vanilla"), by="category")
    got = rows(run / "distribution.csv")
    assert {row["reference_images"] for row in got} == {"8"} and len(got) == 6
    assert (
        "no subfolders: each category of the run is compared with all" in table.notes[0]
        and "not independent" in table.notes[-1]
    )
    vanilla = next(row for row in got if (row["method"], row["category"]) == ("vanilla", ""))
    assert float(vanilla["fid"]) == pytest.approx(0, abs=1e-4)  # itself


@pytest.mark.parametrize(
    ("reference", "options", "message"),
    [
        ("vanila", {}, "expected a folder of images or a method of the run, got 'vanila'; did you mean `vanilla`"),
        ("vanilla", {"by": "seed"}, r"--by: expected category, prompt or .*, got 'seed'\. Columns: kind"),
        (
            "vanilla",
            {"features": "resnet"},
            r"--features: expected embedded, inception, a CLIP judge .*, got 'resnet'\. CLIPs of the run: guide, judge",
        ),
        ("vanilla", {"features": "juge"}, "got 'juge'; did you mean `judge`"),
        ("vanilla", {"by": "kid"}, r"got 'kid'.* Columns: kind"),
        ("@", {}, "expected PNG, JPEG or WebP files in .*, found none"),
    ],
)
def test_wrong_arguments(run: Path, tmp_path: Path, reference: str, options: dict[str, str], message: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SgoolError, match=message):
        score_distribution(run, str(tmp_path / "empty") if reference == "@" else reference, **options)
    assert not (run / "distribution.csv").exists()


@pytest.mark.parametrize("by", ["kind", "prompt"])
def test_a_row_for_each_value_of_another_column(run: Path, tmp_path: Path, by: str) -> None:
    """A folder named like the value, whatever its case and signs; a prompt without one is in the first row alone."""
    values = {f"prompt {number}": kind if by == "kind" else f"prompt {number}" for number, kind in enumerate(KINDS)}
    chosen = {"kind": "red-fox", "prompt": "prompt-0"}[by]
    paths = {
        record.prompt: run / "pairs" / "vanilla" / record.pair_id / "final.png"
        for record in RunFolder(run).records()
        if record.method == "vanilla"
    }
    (tmp_path / "photos" / chosen).mkdir(parents=True)
    for number, path in enumerate(paths.values()):
        (tmp_path / "photos" / chosen / f"{number}.png").write_bytes(path.read_bytes())
    score_distribution(run, str(tmp_path / "photos"), features="judge", by=by)
    got = {(row["method"], row[by]): row for row in rows(run / "distribution.csv")}
    assert set(got) == {(method, value) for method in METHODS for value in ("", *values.values())}
    assert got["doodl", ""]["images"] == "8"
    first = got["doodl", values["prompt 0"]]
    assert (first["images"], first["reference_images"]) == ("2", "4")
    other = got["doodl", values["prompt 1"]]
    assert (other["images"], other["reference_images"]) == ("4" if by == "kind" else "2", "0")


def categorise(run: Path, first: str, second: str) -> None:
    """Other names for the run's two categories."""
    folder = RunFolder(run)
    for record in folder.records():
        folder.replace_record(replace(record, category=first if record.category == CATEGORIES[0] else second))


def photos(run: Path, place: Path, folders: Sequence[tuple[str, str | None]]) -> str:
    """A folder of images: in each of the subfolders three final images of ``vanilla``, of one category or of any."""
    for name, category in folders:
        (place / name).mkdir(parents=True)
        for number, path in enumerate(finals(run, "vanilla", category)[:3]):
            (place / name / f"{number}.png").write_bytes(path.read_bytes())
    return str(place)


@pytest.mark.parametrize("names", [("猫", "犬"), ("Кот", "кит"), ("C", "C++"), ("!", "?"), ("A b", "a-b")])
def test_groups_of_a_run_are_those_of_the_exact_value(run: Path, names: tuple[str, str]) -> None:
    categorise(run, *names)
    score_distribution(run, "vanilla", by="category")
    got = {row["category"]: row for row in rows(run / "distribution.csv")}
    assert set(got) == {"", *names}
    for name in names:
        expected = set_distances(features(finals(run, "doodl", name)), features(finals(run, "vanilla", name)))
        assert (got[name]["images"], got[name]["reference_images"]) == ("4", "4")
        # float32 features in batches of another size; differences of sums.
        assert float(got[name]["fid"]) == pytest.approx(expected.fid, rel=1e-3)


@pytest.mark.parametrize(
    ("first", "second", "folders"),
    [
        ("猫", "犬", ("猫", "犬")),
        ("Größe", "Éclair", ("GRÖSSE", unicodedata.normalize("NFD", "éclair"))),
        ("ｃａｔ", "Two objects", ("cat", "two_objects")),
        ("Two objects", "a, b", ("Two objects", "A--b.")),
    ],
)
def test_subfolders_in_any_script(run: Path, tmp_path: Path, first: str, second: str, folders: tuple[str, str]) -> None:
    """Case, width, spaces and signs do not count; file systems may decompose letters."""
    categorise(run, first, second)
    place = photos(run, tmp_path / "photos", [(folders[0], first), (folders[1], second)])
    score_distribution(run, place, by="category")
    got = {(row["method"], row["category"]): row for row in rows(run / "distribution.csv")}
    for name in (first, second):
        expected = set_distances(features(finals(run, "doodl", name)), features(finals(run, "vanilla", name)[:3]))
        assert (got["doodl", name]["images"], got["doodl", name]["reference_images"]) == ("4", "3")
        # float32 features in batches of another size; differences of sums.
        assert float(got["doodl", name]["fid"]) == pytest.approx(expected.fid, rel=1e-3)


def test_subfolders_that_match_no_value_are_not_shared(run: Path, tmp_path: Path) -> None:
    table = score_distribution(run, photos(run, tmp_path / "photos", [("+", None)]), by="category")
    got = rows(run / "distribution.csv")
    assert [row["reference_images"] for row in got] == ["3", "0", "0"] * 2
    assert not any("no subfolders" in note for note in table.notes)


@pytest.mark.parametrize(
    ("names", "folders", "message"),
    [
        (("C", "C++"), ["C"], r"--by category: .* letters or digits, .* got 'C' and 'C\+\+', both 'c'\. Give a refer"),
        (("cat", "+"), ["cat"], r"--by category: .* letters or digits, .* got '\+', which has neither\. Give a refer"),
        (("C", "D"), ["C", "C++"], r"one subfolder for the category 'C', got 'C' and 'C\+\+', .*\. Rename or join"),
    ],
)
def test_values_without_a_subfolder_s_name_of_their_own(
    run: Path, tmp_path: Path, names: tuple[str, str], folders: list[str], message: str
) -> None:
    categorise(run, *names)
    place = photos(run, tmp_path / "photos", [(name, None) for name in folders])
    with pytest.raises(SgoolError, match=message):
        score_distribution(run, place, by="category")
    assert not (run / "distribution.csv").exists()
    # Without subfolders no names are compared.
    flat = photos(run, tmp_path / "flat", [("", None)])
    score_distribution(run, flat, by="category")
    assert {row["reference_images"] for row in rows(run / "distribution.csv")} == {"3"}


def test_features_of_a_judge(run: Path, wordpiece_folder: Path) -> None:
    table = score_distribution(run, "vanilla", features="judge")
    (row,) = rows(run / "distribution.csv")
    tower = load_clip(str(wordpiece_folder))

    def embed(path: Path) -> torch.Tensor:
        return tower.encode_image(tower.as_published(to_tensor(open_photo(path))[None])).double()

    ours, reference = (torch.cat([embed(path) for path in finals(run, method)]) for method in ("doodl", "vanilla"))
    scale = math.sqrt(ours.shape[1])
    expected = set_distances(scale * ours, scale * reference)
    # float32 features in batches of another size; differences of sums.
    assert float(row["fid"]) == pytest.approx(expected.fid, rel=1e-3, abs=1e-4)
    assert float(row["kid"]) == pytest.approx(expected.kid, rel=1e-3, abs=1e-5)
    assert (row["features"], row["num_features"]) == ("judge", str(ours.shape[1]))
    assert "optimised" not in row["note"] + str(table.cells()) + str(table.notes)


@pytest.mark.parametrize(
    ("features", "marked"),
    [
        ("guide", True),
        ("judge", False),
        ("embedded", True),
        ("emoji_world/classifier", True),
        (str(ASSETS / "emoji_world" / "classifier"), True),
    ],
    ids=["guide", "judge", "embedded", "embedded name", "folder"],
)
def test_features_that_the_objective_optimised_are_marked(run: Path, features: str, marked: bool) -> None:
    """The objective's CLIP is the run's guide; a second term is the classifier whose features are the default."""
    path = run / "config.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    term = {"type": "classifier", "source": "local", "model": None, "checkpoint": "emoji_world/classifier", "weight": 1}
    config["objective"]["terms"]["class"] = {**term, "target": "cat"}
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    table = score_distribution(run, "vanilla", features=features)
    (row,) = rows(run / "distribution.csv")
    assert row["note"].startswith("optimised against; few images" if marked else "few images")
    assert [head for head in table.cells()[0] if "optimised against" in head] == (
        ["fid (optimised against)", "kid (optimised against)"] if marked else []
    )
    assert any("are no evidence" in note for note in table.notes) == marked


def test_the_default_features_are_not_marked_where_nothing_used_them(run: Path) -> None:
    score_distribution(run, "vanilla")
    assert not any("optimised" in row["note"] for row in rows(run / "distribution.csv"))


@pytest.mark.parametrize(("features", "marked"), [("guide", True), ("judge", False), ("embedded", True)])
def test_features_that_earlier_settings_optimised_are_marked(run: Path, features: str, marked: bool) -> None:
    """The run went on with --resume-with-changes, without the terms whose networks are asked for."""
    earlier = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    term = {"type": "classifier", "source": "local", "model": None, "checkpoint": "emoji_world/classifier", "weight": 1}
    earlier["objective"]["terms"]["class"] = {**term, "target": "cat"}
    (run / "config.yaml").write_text(yaml.safe_dump(earlier), encoding="utf-8")
    own = {"type": "python", "function": "mine:loss", "arguments": {}, "weight": 1}
    RunFolder(run).open({**earlier, "objective": {"terms": {"own": own}}}, device="test device", accept_changes=True)
    assert len(list(run.glob("config-*.yaml"))) == 1
    table = score_distribution(run, "vanilla", features=features)
    (row,) = rows(run / "distribution.csv")
    assert row["note"].startswith("optimised against") == marked
    assert any("are no evidence" in note for note in table.notes) == marked


def test_earlier_settings_that_cannot_be_read(run: Path) -> None:
    (run / "config-0123.yaml").write_text("- no mapping\n", encoding="utf-8")
    with pytest.raises(SgoolError, match=r"config-0123\.yaml should hold the run's configuration, but holds a list"):
        score_distribution(run, "vanilla")
    assert not (run / "distribution.csv").exists()


def test_diversity_over_seeds(run: Path, wordpiece_folder: Path) -> None:
    score_diversity(run, "judge")
    got = {(row["method"], row["category"]): row for row in rows(run / "diversity.csv")}
    assert set(got) == {(method, category) for method in METHODS for category in ("", *CATEGORIES)}
    assert (got["doodl", ""]["prompts"], got["doodl", ""]["images"]) == ("4", "8")
    tower = load_clip(str(wordpiece_folder))
    distances = []
    for number in range(4):
        records = [r for r in RunFolder(run).records() if (r.method, r.prompt) == ("doodl", f"prompt {number}")]
        paths = [run / "pairs" / "doodl" / record.pair_id / "final.png" for record in records]
        shown = [tower.as_published(to_tensor(open_photo(path))[None]) for path in paths]
        u, v = (tower.encode_image(image)[0].double() for image in shown)
        distances.append(1 - float(u @ v))
    # float32 features.
    assert float(got["doodl", ""]["diversity"]) == pytest.approx(sum(distances) / 4, abs=1e-5)
    animals = [distances[0], distances[2]]
    assert float(got["doodl", "Animals"]["diversity"]) == pytest.approx(sum(animals) / 2, abs=1e-5)


def test_diversity_needs_a_clip_and_several_seeds(run: Path) -> None:
    with pytest.raises(SgoolError, match=r"there is no CLIP judge 'juge'; did you mean `judge`\?"):
        score_diversity(run, "juge")
    for path in run.glob("pairs/*/*-s1/record.json"):
        path.unlink()
    with pytest.raises(SgoolError, match="has no prompt with two seeds"):
        score_diversity(run, "judge")


def test_the_command(run: Path) -> None:
    result = CliRunner().invoke(
        app, ["score", str(run), "--distribution", "vanilla", "--by", "category", "--diversity", "judge"]
    )
    assert result.exit_code == 0, result.output
    assert "kid_std" in result.output and "diversity" in result.output and "note: FID and KID" in result.output
    assert (run / "distribution.csv").is_file() and (run / "diversity.csv").is_file()
    wrong = CliRunner().invoke(app, ["score", str(run), "--distribution", "nowhere"])
    assert wrong.exit_code == 2 and "expected a folder of images or a method" in wrong.output


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--features", "judge"], "--features"),
        (["--features", "embedded"], "--features"),
        (["--by", "category"], "--by"),
        (["--features", "judge", "--by", "category", "--diversity", "judge"], "--features and --by"),
    ],
)
def test_options_of_a_distribution_alone_change_nothing(run: Path, options: list[str], named: str) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    result = CliRunner().invoke(app, ["score", str(run), *options])
    assert result.exit_code == 2
    assert f"{named}: expected --distribution REFERENCE beside" in " ".join(result.output.split())
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_run_of_a_script_is_said(tmp_path: Path) -> None:
    """RunWriter knows the module's chain and objective, not how judges are named in a configuration."""
    folder = RunFolder(tmp_path).open({"name": "doodl", "methods": ["doodl"], "models": {"path": "emoji_world"}})
    folder.write(fake_record(PromptSeed("a cat"), "doodl"))
    with pytest.raises(SgoolError, match="expected a run of `sgool fit`, got one that a script has written"):
        rescore(tmp_path)
