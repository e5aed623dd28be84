"""The page: complete, escaped, self-contained, and there whatever is missing."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from sgool.cli import app
from sgool.errors import SgoolError
from sgool.report import build_report
from sgool.results import RunFolder
from sgool.results.records import encode_record
from tests.fake_run import METHODS, fake_config, fake_pairs, make_fake_run, make_large_run
from tests.report.reading import Page

EIGHT = [(f"prompt {number}", "even" if number % 2 else "odd") for number in range(8)]


@pytest.fixture(autouse=True)
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They have tests of their own (test_whole.py, test_figures.py), and take nine tenths of a small report's time."""
    monkeypatch.setattr("sgool.report.page.score_figures", lambda source: {})
    monkeypatch.setattr("sgool.report.page.curve_figures", lambda histories, looks: [])


def test_whole_page(tmp_path: Path) -> None:
    run = make_fake_run(tmp_path / "run")
    path = build_report([run.path])
    page = Page(path)
    assert path == run.path / "report" / "index.html"
    assert [label for label, _ in page.data["methods"]] == list(METHODS)
    assert len(page.data["rows"]) == len(fake_pairs())
    assert len(page.images()) == 3 * len(fake_pairs())
    vanilla, doodl, sgool = page.row()
    assert (vanilla["frames"], doodl["frames"]) == (["final image"], ["first image", "final image"])
    assert [cell["overlay"] for cell in (vanilla, doodl, sgool)] == [0, 0, 1]
    for words in ("Judge CLIP score", "Scene accuracy", "emoji_world/judge", "test device", "counting"):
        assert words in page.text
    assert "Guide CLIP score was optimised against" in page.text
    assert "Judge CLIP score comes from a judge" in page.text


def test_table_against_the_records(tmp_path: Path) -> None:
    run = make_fake_run(tmp_path / "run")
    text = Page(build_report([run.path])).text
    scores = {
        method: np.array([r.metrics["judge/clip_score"] for r in run.records() if r.method == method])
        for method in METHODS
    }
    difference = scores["sgool"] - scores["vanilla"]  # records come sorted by pair
    wins, losses = (difference > 0).sum(), (difference < 0).sum()
    shown = f"{difference.mean():+.2f}".replace("-", "−")
    before, after = scores["vanilla"].mean(), scores["sgool"].mean()
    # three prompts: neither an interval nor a p-value
    expected = f"sgool 6 {before:.2f} {after:.2f} {shown} too few prompts {wins} / 0 / {losses} 3 prompts –"
    assert expected in text
    assert "Difference to vanilla" in text


def test_intervals_and_p_with_enough_prompts(tmp_path: Path) -> None:
    text = Page(build_report([make_fake_run(tmp_path / "run", pairs=fake_pairs(EIGHT, (0,))).path])).text
    panel = text.split("Results Judge CLIP score")[1].split("Scene accuracy")[0]
    assert "too few prompts" not in panel
    assert re.search(
        r"sgool 8 \d+\.\d\d \d+\.\d\d [+−]\d\.\d\d [+−]\d\.\d\d to [+−]\d\.\d\d \d / 0 / \d 0\.\d\d", panel
    )


def test_a_policy_allows_only_the_pages_own_scripts(tmp_path: Path) -> None:
    path = build_report([make_fake_run(tmp_path / "run").path])
    html = path.read_text(encoding="utf-8")
    (policy,) = [tag["content"] for tag in Page(path).all("meta") if tag.get("http-equiv")]
    assert policy.startswith("default-src 'none'; img-src 'self' file: data:;")
    import base64

    for script in re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL):
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


@pytest.mark.parametrize("name", ["a b", "100% #1", 'quo"te', "<i>", "ü猫", "-x"])
def test_hostile_names_of_folders(tmp_path: Path, name: str) -> None:
    """sgool gives no such names, but a folder may come from anywhere: its pairs count like others."""
    run = make_fake_run(tmp_path / name, pairs=fake_pairs()[:1])
    made = run.pair_folder("sgool", fake_pairs()[0].pair_id)
    place = run.path / "pairs" / name / name
    place.parent.mkdir()
    shutil.move(made, place)
    record = json.loads((place / "record.json").read_text()) | {"method": name, "pair_id": name}
    (place / "record.json").write_text(json.dumps(record))
    page = Page(build_report([run.path]))
    assert [label for label, _ in page.data["methods"]][-1] == name
    assert all(image.exists() for image in page.images())
    assert len(page.images()) == 3


def test_a_flawless_run_counts_nothing_that_went_wrong(tmp_path: Path) -> None:
    """Its judges hold the guide, which every objective uses: usual, and told where the judges are explained."""
    page = Page(build_report([make_fake_run(tmp_path / "run").path]))
    assert page.all("span", class_="count") == [{"class": "count", "role": "status"}]  # that of the viewer
    assert "Nothing that the records show: all 18 results ended well." in page.text
    assert "Guide CLIP score was optimised against" in page.text


def test_failed_pairs_are_visible(tmp_path: Path) -> None:
    run = make_fake_run(tmp_path / "run", failed={("doodl", 1): "the loss became NaN at update 3"})
    page = Page(build_report([run.path]))
    pair = fake_pairs()[1].pair_id
    assert "1 of 18 results failed" in page.text
    assert f"doodl: the loss became NaN at update 3 ({pair})" in page.text
    assert f"doodl: stopped by a number that was not finite ({pair})" in page.text
    assert page.row(1)[1]["error"] == [1, "the loss became NaN at update 3"]
    assert "1 failed" in page.text


def test_all_failed(tmp_path: Path) -> None:
    errors = {(method, position): "no" for method in METHODS for position in range(6)}
    page = Page(build_report([make_fake_run(tmp_path / "run", failed=errors).path]))
    assert page.images() == []
    assert "18 of 18 results failed" in page.text
    assert "No result has a score, so there is nothing to compare." in page.text
    assert page.data["metrics"] == []


def test_one_pair_one_method(tmp_path: Path) -> None:
    run = make_fake_run(tmp_path / "run", methods=("vanilla",), pairs=fake_pairs()[:1])
    page = Page(build_report([run.path]))
    assert len(page.data["rows"]) == 1
    assert page.data["methods"] == [["vanilla", None]]
    assert "Nothing that the records show" in page.text  # vanilla alone: nobody has optimised against the guide


def test_without_vanilla_gains_are_against_the_first_image(tmp_path: Path) -> None:
    run = make_fake_run(tmp_path / "run", methods=("sgool",))
    text = Page(build_report([run.path])).text
    assert "Difference to its own first image" in text
    metrics = [record.metrics for record in run.records()]
    mean = np.mean([m["judge/clip_score"] - m["judge/clip_score_initial"] for m in metrics])
    assert f"{mean:+.2f}".replace("-", "−") in text


def test_missing_and_broken_images_are_named(tmp_path: Path) -> None:
    run = make_fake_run(tmp_path / "run")
    one, two, three, four = (run.pair_folder("sgool", pair.pair_id) for pair in fake_pairs()[:4])
    (one / "final.png").unlink()
    (two / "final.png").write_bytes((two / "final.png").read_bytes()[:500])
    (three / "saliency.png").write_bytes(b"no image")
    (four / "history.csv").write_text("loss\nx\n")
    page = Page(build_report([run.path]))
    assert f"sgool: final.png is missing ({one.name})" in page.text
    assert f"sgool: final.png cannot be read ({two.name})" in page.text
    assert f"sgool: saliency.png cannot be read ({three.name})" in page.text
    assert f"sgool: history.csv cannot be read ({four.name})" in page.text
    assert [page.row(place)[2]["overlay"] for place in range(4)] == [0, 0, 0, 1]
    assert all(image.exists() for image in page.images())


def test_several_runs_go_into_the_first(tmp_path: Path) -> None:
    one = make_fake_run(tmp_path / "one")
    two = make_fake_run(tmp_path / "two", methods=("sgool",), config=fake_config(["sgool"], sampler={"name": "edict"}))
    page = Page(build_report([one.path, two.path]))
    assert page.path.parent.parent == one.path
    assert page.data["methods"] == [["vanilla", None], ["doodl", 0], ["one/sgool", 0], ["two/sgool", 0]]
    assert all(image.exists() for image in page.images())
    assert "sampler.name ddim edict" in page.text
    table = pd.read_csv(page.path.parent / "results.csv")
    assert sorted(table["run"].unique()) == ["one", "two"]


def test_five_thousand_results(tmp_path: Path) -> None:
    """The tables, the figures and the data; with images it is the same code and a minute more."""
    methods = ("vanilla", "clip_guidance", "doodl", "sgool")
    run = make_large_run(tmp_path / "run", 1250, methods, images=False)
    path = build_report([run.path])
    page = Page(path)
    assert len(page.data["rows"]) == 1250
    assert len(pd.read_csv(path.parent / "results.csv")) == 5000
    assert "final.png is missing" in page.text
    assert path.stat().st_size < 4e6


class TestErrors:
    def test_no_runs(self) -> None:
        with pytest.raises(SgoolError, match="at least one run folder"):
            build_report([])

    def test_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(SgoolError, match="there is no such folder"):
            build_report([tmp_path / "missing"])

    def test_another_folder(self, tmp_path: Path) -> None:
        with pytest.raises(SgoolError, match=r"neither config\.yaml nor pairs/"):
            build_report([tmp_path])
        assert list(tmp_path.iterdir()) == []

    def test_empty_run(self, tmp_path: Path) -> None:
        run = RunFolder(tmp_path / "run").open(fake_config(), device="test device")
        with pytest.raises(SgoolError, match=r"No finished pair in .*Run `sgool fit run_dir=.*` first"):
            build_report([run.path])
        assert not (run.path / "report").exists()

    def test_report_in_the_way(self, tmp_path: Path) -> None:
        run = make_fake_run(tmp_path / "run", pairs=fake_pairs()[:1])
        (run.path / "report").write_text("a file")
        with pytest.raises(SgoolError, match="Cannot write the report to"):
            build_report([run.path])

    def test_disk_full_keeps_the_old_report(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        run = make_fake_run(tmp_path / "run", pairs=fake_pairs()[:1])
        folder = build_report([run.path]).parent
        before = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

        def full(source: object, target: object) -> None:
            raise OSError(28, os.strerror(28))

        monkeypatch.setattr(os, "replace", full)
        with pytest.raises(SgoolError, match="No space left on device"):
            build_report([run.path])
        assert {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
        assert not list(folder.glob(".new*"))


class TestOut:
    def test_a_new_folder_and_again(self, tmp_path: Path) -> None:
        run = make_fake_run(tmp_path / "run", pairs=fake_pairs()[:1])
        for _ in range(2):
            assert build_report([run.path], tmp_path / "a" / "b") == tmp_path / "a" / "b" / "index.html"
        assert not (run.path / "report").exists()

    def test_from_the_command_line(self, tmp_path: Path) -> None:
        run = make_fake_run(tmp_path / "run", pairs=fake_pairs()[:1])
        result = CliRunner().invoke(app, ["report", str(run.path), "--out", str(tmp_path / "out")])
        assert (result.exit_code, result.stdout.strip()) == (0, str(tmp_path / "out" / "index.html"))
        assert (tmp_path / "out" / "index.html").is_file()

    def test_against_from_the_command_line(self, tmp_path: Path) -> None:
        run = make_fake_run(tmp_path / "run", pairs=fake_pairs()[:1])
        command = ["report", str(run.path), "--against", "doodl", "--against", "vanilla"]
        assert CliRunner().invoke(app, command).exit_code == 0
        page = Page(run.path / "report" / "index.html")
        assert page.data["methods"] == [["vanilla", 1], ["doodl", None], ["sgool", 1]]  # the gallery: the first one
        assert "Difference to doodl" in page.text and "Difference to vanilla" in page.text
        failed = CliRunner().invoke(app, ["report", str(run.path), "--out", str(tmp_path / "o"), "--against", "dodl"])
        assert failed.exit_code == 2
        assert "--against dodl: expected a method with results" in failed.output
        assert "vanilla, doodl, sgool" in failed.output and not (tmp_path / "o").exists()

    def test_what_is_not_ours_is_not_touched(self, tmp_path: Path) -> None:
        run = make_fake_run(tmp_path / "run", pairs=fake_pairs()[:1])
        (tmp_path / "images").mkdir()
        (tmp_path / "images" / "holiday.jpg").write_bytes(b"dear")
        (tmp_path / "index.html").write_text("<title>my page</title>")
        with pytest.raises(SgoolError, match=r"holds images, index\.html, which no report made .* folder of its own"):
            build_report([run.path], tmp_path)
        assert (tmp_path / "images" / "holiday.jpg").read_bytes() == b"dear"


def test_metrics_that_nobody_named(tmp_path: Path) -> None:
    """Another judge's scores appear by themselves; one of an unknown kind is shown and not judged."""
    run = make_fake_run(tmp_path / "run", pairs=fake_pairs(EIGHT, (0,)))
    for record in run.records():
        extra = {"hps/hps_v2.1": 0.27 + len(record.prompt) / 1e3, "x/lpips": 0.1, "critic/mood": 3.0}
        path = run.pair_folder(record.method, record.pair_id) / "record.json"
        path.write_text(encode_record(fake_record_like(record, extra)), encoding="utf-8")
    page = Page(build_report([run.path]))
    assert [metric["title"] for metric in page.data["metrics"]] == [
        "Judge CLIP score", "Hps HPS v2.1", "Scene accuracy", "X LPIPS to the first image", "Critic mood",
        "Guide CLIP score",
    ]  # fmt: skip
    assert [metric["direction"] for metric in page.data["metrics"]] == [1, 1, 1, 0, 0, 1]
    assert "0.2780" in page.text
    assert "higher / equal / lower" in page.text
    assert "X LPIPS to the first image is no judgement" in page.text


def fake_record_like(record: object, extra: dict[str, float]) -> object:
    from dataclasses import replace

    return replace(record, metrics=dict(record.metrics) | extra)  # type: ignore[attr-defined, type-var]
