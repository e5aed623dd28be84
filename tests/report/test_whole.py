"""Whole reports, with their figures: files, escaping everywhere, nothing from outside, the same bytes every time."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import pandas as pd
from PIL import Image

from sgool.report import build_report
from tests.fake_run import fake_config, fake_pairs, make_fake_run
from tests.report.reading import Page

EVIL = (
    'a "quoted" cat\' <script>alert("x")</script> </script><!-- & <img src=x onerror=alert(1)> 猫 é {{ 7 * 7 }} \u202e'
    " שלום $x^2 \\input{x}"
)
EIGHT = [(f"prompt {number}", "even" if number % 2 else "odd") for number in range(8)]


def test_files(tmp_path: Path) -> None:
    run = make_fake_run(tmp_path / "run", pairs=fake_pairs(EIGHT, (0,)))
    folder = build_report([run.path]).parent
    names = {"index.html", "results.csv", "tables.md", "tables.tex", "figures", "images"}
    assert {path.name for path in folder.iterdir()} == names
    figures = sorted(path.name for path in (folder / "figures").iterdir())
    figures.remove("examples.png")  # pictures alone: no SVG
    kinds = {name.split("-")[0] for name in figures}
    assert kinds == {"boxes", "bars", "differences", "improvement", "cost", "curve"}
    assert {Path(name).stem for name in figures if name.endswith(".svg")} == {
        Path(name).stem for name in figures if name.endswith(".png")
    }
    assert not [name for name in figures if name.startswith("boxes-scene")]  # a box of zeros and ones says nothing
    table = pd.read_csv(folder / "results.csv")
    assert len(table) == 24
    records = {(record.method, record.pair_id): record for record in run.records()}
    row = table.iloc[-1]
    assert row["judge/clip_score"] == records[row["method"], row["pair_id"]].metrics["judge/clip_score"]
    digest = hashlib.sha256((folder / "results.csv").read_bytes()).hexdigest()
    assert f"results.csv: sha256 {digest}" in Page(folder / "index.html").text


def test_untrusted_text_is_escaped(tmp_path: Path) -> None:
    pairs = fake_pairs([(EVIL, "<b>bold</b> & 'category' $"), ("x" * 2000, "")], (0,))
    config = fake_config(data={"prompts": "</pre><script>alert(2)</script>"})
    run = make_fake_run(
        tmp_path / "run & <i>", pairs=pairs, config=config, failed={("doodl", 0): "<script>bad</script>"}
    )
    path = build_report([run.path])
    page = Page(path)
    assert [sorted(tag) for tag in page.all("script")] == [[], ["id", "type"], []]
    assert all(tag.get("class") for tag in page.all("i"))  # the page's own, not the one in the run's name
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert [row[1] for row in page.data["rows"]] == [EVIL, "x" * 2000]
    assert "<script>bad</script>" in page.text
    assert "</pre><script>alert(2)</script>" in page.text
    assert "<b>bold</b> & 'category' $" in page.text
    # What a parser of HTML would end the data's element at, or take for a comment.
    assert not re.search(r"[<>&]", path.read_text(encoding="utf-8").split('id="data">')[1].split("</script>")[0])
    assert r"\textbackslash{}" not in (path.parent / "tables.tex").read_text(encoding="utf-8")


def test_text_that_no_file_can_hold(tmp_path: Path) -> None:
    """JSON can write half a surrogate pair and NUL; UTF-8, HTML and SVG cannot."""
    run = make_fake_run(tmp_path / "run", pairs=fake_pairs(EIGHT, (0,)))
    for path in run.path.glob("pairs/*/*/record.json"):
        record = json.loads(path.read_text()) | {"prompt": "a \ud800 b \x00 c", "category": "\udfff\x01"}
        path.write_text(json.dumps(record))
    page = Page(build_report([run.path]))
    assert page.data["rows"][0][1] == "a \ufffd b \ufffd c"
    assert page.data["categories"] == ["\ufffd\ufffd"]


def test_self_contained(tmp_path: Path) -> None:
    run = make_fake_run(tmp_path / "a run, 100% ü#1")
    path = build_report([run.path])
    html = path.read_text(encoding="utf-8")
    addresses = {address for address in re.findall(r"https?:[^\s\"'<]*", html) if "w3.org" not in address}
    assert addresses == set()  # names of SVG's own language are no requests
    assert not re.search(r"@import|url\((?!#)", html)
    moved = tmp_path / "moved"
    shutil.move(path.parent, moved)
    shutil.rmtree(run.path)
    page = Page(moved / "index.html")
    assert page.images()
    for image in page.images():
        with Image.open(image) as picture:
            assert picture.height == 256
    for link in page.all("a"):
        if not link["href"].startswith("#"):
            assert (moved / link["href"]).is_file()


def test_twice_gives_the_same_bytes_and_drops_old_files(tmp_path: Path) -> None:
    run = make_fake_run(tmp_path / "run", pairs=fake_pairs(EIGHT, (0,)))
    folder = build_report([run.path]).parent

    def content() -> dict[str, bytes]:
        return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}

    first = content()
    (folder / "images" / "old.webp").write_bytes(b"")
    (folder / "mine.txt").write_text("stays")
    build_report([run.path])
    assert content() == first | {"mine.txt": b"stays"}


def test_judge_equal_to_guide_is_marked(tmp_path: Path) -> None:
    guide = {"model": "emoji_world/guide", "pretrained": None}
    config = fake_config(models={"guide": guide, "judges": {"judge": guide}})
    path = build_report([make_fake_run(tmp_path / "run", config=config).path])
    text = Page(path).text
    assert "Judge CLIP score optimised against" in text
    assert "Judge CLIP score was optimised against The objective used this network (emoji_world/guide)" in text
    assert "Judges that were optimised against" not in text  # usual, and told among the cautions
    for name in ("tables.md", "tables.tex"):
        assert "Judge CLIP score (optimised against)" in (path.parent / name).read_text()
    assert "Judge CLIP score (optimised against)" in (path.parent / "figures/bars-judge-clip-score.svg").read_text()
