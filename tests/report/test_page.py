"""The page: complete, escaped, self-contained, and there whatever is missing."""

from __future__ import annotations

import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from sgool.errors import SgoolError
from sgool.report import build_report
from sgool.results import RunFolder
from tests.fake_run import METHODS, fake_config, fake_pairs, fake_record, make_fake_run

EVIL = 'a "quoted" cat\' <script>alert("x")</script> & <img src=x onerror=alert(1)> 猫 é {{ 7 * 7 }} \u202e'


class Page(HTMLParser):
    """What the tests ask of the HTML."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in ("meta", "link", "img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += " " + data
            self.text = " ".join(self.text.split())

    def all(self, tag: str, **attributes: str) -> list[dict[str, str]]:
        return [
            found
            for name, found in self.tags
            if name == tag and all(value in found.get(key.strip("_"), "").split() for key, value in attributes.items())
        ]

    def images(self) -> list[Path]:
        return [self.path.parent / unquote(image["src"]) for image in self.all("img")]


def test_whole_page(tmp_path: Path) -> None:
    run = make_fake_run(tmp_path / "run")
    path = build_report([run.path])
    page = Page(path)
    assert path == run.path / "report" / "index.html"
    assert len(page.all("li", class_="pair")) == len(fake_pairs())
    assert len(page.all("figure", class_="result")) == 3 * len(fake_pairs())
    # three images, sgool's overlay over its own and once more as a column
    assert len(page.images()) == 5 * len(fake_pairs())
    assert all("alt" in image for image in page.all("img"))
    assert page.all("img")[0]["alt"] == "vanilla: a red cat"
    for words in (
        "Judge CLIP score",
        "Scene accuracy",
        "where people look",
        "emoji_world/judge",
        "test device",
        "counting",
    ):
        assert words in page.text
    assert "Guide CLIP score was optimised" in page.text
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
    assert f"sgool against vanilla 6 {scores['vanilla'].mean():.2f} → {scores['sgool'].mean():.2f} {shown}" in text
    assert f"too few prompts {wins} / 0 / {losses} 6 pairs" in text  # three prompts


def test_intervals_with_enough_prompts(tmp_path: Path) -> None:
    pairs = fake_pairs([(f"prompt {number}", "") for number in range(8)], (0,))
    text = Page(build_report([make_fake_run(tmp_path / "run", pairs=pairs).path])).text
    assert "too few prompts" not in text
    assert re.search(r"95 %: [+−]\d+\.\d\d to [+−]\d+\.\d\d", text)
    assert "By category" not in text


def test_untrusted_text_is_escaped(tmp_path: Path) -> None:
    pairs = fake_pairs([(EVIL, "<b>bold</b> & 'category'")], (0,))
    config = fake_config(data={"prompts": "</pre><script>alert(2)</script>"})
    run = make_fake_run(
        tmp_path / "run & <i>", pairs=pairs, config=config, failed={("doodl", 0): "<script>bad</script>"}
    )
    page = Page(build_report([run.path]))
    assert len(page.all("script")) == 1
    assert all("class" in tag for tag in page.all("i"))  # the page's own, not the one in the run's name
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert EVIL.split(" {{")[0] in page.text
    assert "{{ 7 * 7 }}" in page.text
    assert "<script>bad</script>" in page.text
    assert "</pre><script>alert(2)</script>" in page.text
    assert page.all("img")[0]["alt"] == f"vanilla: {EVIL}"


def test_self_contained(tmp_path: Path) -> None:
    run = make_fake_run(tmp_path / "a run, 100% ü#1")
    path = build_report([run.path])
    html = path.read_text(encoding="utf-8")
    assert "http:" not in html
    assert "https:" not in html
    assert not re.search(r"@import|url\(", html)
    moved = tmp_path / "moved"
    shutil.move(path.parent, moved)
    shutil.rmtree(run.path)
    images = Page(moved / "index.html").images()
    assert images
    for image in images:
        with Image.open(image) as picture:
            assert min(picture.size) >= 256


def test_twice_gives_the_same_and_drops_old_images(tmp_path: Path) -> None:
    run = make_fake_run(tmp_path / "run")
    first = build_report([run.path]).read_bytes()
    (run.path / "report" / "images" / "old.jpg").write_bytes(b"")
    assert build_report([run.path]).read_bytes() == first
    assert not (run.path / "report" / "images" / "old.jpg").exists()


def test_failed_pairs_are_visible(tmp_path: Path) -> None:
    run = make_fake_run(tmp_path / "run", failed={("doodl", 1): "the loss became NaN at update 3"})
    page = Page(build_report([run.path]))
    assert "failed: the loss became NaN at update 3" in page.text
    assert "1 result failed" in page.text
    assert "1 failed" in page.text
    assert len(page.all("figure", class_="broken")) == 1


def test_a_failed_baseline_leaves_no_gain(tmp_path: Path) -> None:
    pairs = fake_pairs()[:2]
    run = make_fake_run(
        tmp_path / "run", methods=("vanilla", "sgool"), pairs=pairs, failed={("vanilla", 0): "out of memory"}
    )
    page = Page(build_report([run.path]))
    gains = [pair["data-gains"].split() for pair in page.all("li", class_="pair")]
    assert gains[0] == ["none", "none"]
    assert float(gains[1][0]) == 0.0
    records = {(r.method, r.pair_id): r.metrics.get("judge/clip_score") for r in run.records()}
    expected = records["sgool", pairs[1].pair_id] - records["vanilla", pairs[1].pair_id]
    assert float(gains[1][1]) == pytest.approx(expected, rel=1e-12)
    assert "of 1 pair" in page.text


def test_all_failed(tmp_path: Path) -> None:
    errors = {(method, position): "no" for method in METHODS for position in range(6)}
    page = Page(build_report([make_fake_run(tmp_path / "run", failed=errors).path]))
    assert page.text.count("failed: no") == 18
    assert page.images() == []
    assert "18 results failed" in page.text


def test_one_pair_one_method(tmp_path: Path) -> None:
    run = make_fake_run(tmp_path / "run", methods=("vanilla",), pairs=fake_pairs()[:1])
    page = Page(build_report([run.path]))
    assert len(page.all("li", class_="pair")) == 1
    assert "against" not in page.text.split("By category")[0]


def test_without_vanilla_gains_are_against_the_first_image(tmp_path: Path) -> None:
    run = make_fake_run(tmp_path / "run", methods=("sgool",))
    text = Page(build_report([run.path])).text
    assert "against its own first image" in text
    metrics = [record.metrics for record in run.records()]
    mean = np.mean([m["judge/clip_score"] - m["judge/clip_score_initial"] for m in metrics])
    assert f"{mean:+.2f}".replace("-", "−") in text


def test_missing_and_broken_images_are_named(tmp_path: Path) -> None:
    run = make_fake_run(tmp_path / "run")
    one, two, three = (run.pair_folder("sgool", pair.pair_id) for pair in fake_pairs()[:3])
    (one / "final.png").unlink()
    (two / "final.png").write_bytes((two / "final.png").read_bytes()[:500])
    (three / "saliency.png").write_bytes(b"no image")
    page = Page(build_report([run.path]))
    assert f"{one.name}/final.png is missing or unreadable" in page.text
    assert f"{two.name}/final.png is missing or unreadable" in page.text
    assert page.text.count("no saliency map") == 3
    assert all(image.exists() for image in page.images())


def test_invalid_records_and_interrupted_pairs_are_named(tmp_path: Path) -> None:
    run = make_fake_run(tmp_path / "run")
    cut, gone = (run.pair_folder("doodl", pair.pair_id) for pair in fake_pairs()[:2])
    (cut / "record.json").write_text('{"pair_id": ')
    (gone / "record.json").unlink()
    page = Page(build_report([run.path]))
    assert "the pair is not done: not valid JSON" in page.text
    assert f"1 begun and not finished: doodl/{gone.name}" in page.text
    assert page.text.count("not run") == 2


def test_without_metrics_or_config(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run").open(fake_config(), device="test device")
    run.write(fake_record(fake_pairs()[0], status="failed", error="early"))
    run.config_path.unlink()
    page = Page(build_report([run.path]))
    assert "has no config.yaml" in page.text
    assert "failed: early" in page.text


def test_several_runs_go_into_the_first(tmp_path: Path) -> None:
    one = make_fake_run(tmp_path / "one")
    two = make_fake_run(tmp_path / "two", methods=("sgool",))
    page = Page(build_report([one.path, two.path]))
    assert page.path.parent.parent == one.path
    assert "one/sgool against vanilla" in page.text
    assert "two/sgool against vanilla" in page.text
    assert len(page.all("figure", class_="result")) == 4 * len(fake_pairs())
    assert all(image.exists() for image in page.images())


def test_judge_equal_to_guide_is_marked(tmp_path: Path) -> None:
    guide = {"model": "emoji_world/guide", "pretrained": None}
    config = fake_config(models={"guide": guide, "judges": {"judge": guide}})
    text = Page(build_report([make_fake_run(tmp_path / "run", config=config).path])).text
    assert "Judge CLIP score was optimised The objective used this network (emoji_world/guide)" in text


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

    def test_report_in_the_way(self, tmp_path: Path) -> None:
        run = make_fake_run(tmp_path / "run", pairs=fake_pairs()[:1])
        (run.path / "report").write_text("a file")
        with pytest.raises(SgoolError, match="Cannot write the report to"):
            build_report([run.path])

    def test_disk_full_keeps_the_old_page(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        run = make_fake_run(tmp_path / "run", pairs=fake_pairs()[:1])
        before = build_report([run.path]).read_bytes()

        def full(source: object, target: object) -> None:
            raise OSError(28, os.strerror(28))

        monkeypatch.setattr(os, "replace", full)
        with pytest.raises(SgoolError, match="No space left on device"):
            build_report([run.path])
        assert (run.path / "report" / "index.html").read_bytes() == before
