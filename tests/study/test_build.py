"""The page on disk: what it holds, that it gives nothing away, and that a study is made again as it was."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from sgool.errors import SgoolError
from sgool.report.load import load_runs
from sgool.study import Study, StudyOptions, build_study
from sgool.study.checks import SAME_IMAGE, WRONG_PROMPT, make_checks, words
from sgool.study.collect import Entry, collect
from sgool.study.key import COMPARISON, read_key
from sgool.study.run import describe
from sgool.types import PromptSeed
from tests.fake_run import METHODS, fake_pairs, make_fake_run, random_image
from tests.study.votes import form_steps, page_data, walk, write_votes

NASTY = "</script><script>alert(1)</script> \u2028 \"'&<img src=x onerror=alert(1)>"


class TestWhatIsThere:
    def test_every_comparison_is_an_item_and_checks_are_flagged_in_the_key_alone(self, study: Study) -> None:
        kinds = Counter(item.kind for item in study.key.items.values())
        assert kinds == {COMPARISON: 18, WRONG_PROMPT: 2, SAME_IMAGE: 1}
        data = page_data(study.page)
        assert {item["id"] for item in data["items"]} == set(study.key.items)
        assert all(set(item) == {"id", "prompt", "images"} for item in data["items"])
        assert len(data["forms"]) == 64
        assert {len(form) for form in data["forms"]} == {12}
        assert read_key(study.folder / "key.json") == study.key

    def test_each_name_shows_the_image_that_the_key_says(self, study: Study, study_run: Path) -> None:
        for item in study.key.items.values():
            for name, method in item.images.items():
                if item.kind == COMPARISON:
                    with Image.open(study_run / "pairs" / method / item.pair_id / "final.png") as picture:
                        expected = np.asarray(picture.convert("RGB").resize((512, 512), Image.Resampling.LANCZOS))
                    with Image.open(study.page / "images" / f"{name}.jpg") as picture:
                        shown = np.asarray(picture)
                    # JPEG of quality 95 loses a few levels; another noise image would differ by some 80.
                    assert np.abs(expected.astype(float) - shown).mean() < 4

    def test_sides_of_method_pairs_are_balanced_in_the_page_itself(self, study: Study) -> None:
        data = page_data(study.page)
        for form in range(len(data["forms"])):
            lefts: Counter[tuple[str, str]] = Counter()
            for name, left, right in form_steps(data, form):
                images = study.key.items[name].images
                if study.key.items[name].kind == COMPARISON:
                    lefts[images[left], images[right]] += 1
            assert sum(lefts.values()) == 9
            assert all(abs(count - lefts[other, one]) <= 1 for (one, other), count in list(lefts.items()))

    def test_a_check_of_the_same_image_has_two_names_and_the_same_pixels(self, study: Study) -> None:
        (item,) = [item for item in study.key.items.values() if item.kind == SAME_IMAGE]
        files = [study.page / "images" / f"{name}.jpg" for name in item.images]
        assert len(files) == 2
        assert files[0].read_bytes() == files[1].read_bytes()


class TestBlindness:
    def test_nothing_that_the_page_holds_names_a_method_a_pair_or_the_package(self, study: Study) -> None:
        pair_ids = {item.pair_id for item in study.key.items.values()}
        secrets = [*METHODS, *pair_ids, "sgool", WRONG_PROMPT, SAME_IMAGE, study.key.salt, str(study.folder)]
        files = [path for path in study.page.rglob("*") if path.is_file()]
        assert len(files) == 5 + 18 + 6  # own files; 3 methods x 6 pairs; 3 checks with two images each
        for path in files:
            content = path.read_bytes().lower() + str(path.relative_to(study.page)).lower().encode()
            assert [secret for secret in secrets if secret.lower().encode() in content] == [], path

    def test_images_carry_no_metadata(self, tmp_path: Path) -> None:
        run = make_fake_run(tmp_path / "run", pairs=fake_pairs()[:1], methods=("vanilla", "sgool")).path
        for path in run.glob("pairs/*/*/final.png"):
            note = PngImagePlugin.PngInfo()
            note.add_text("comment", "made by the secret method")
            exif = Image.Exif()
            exif[270] = "made by the secret method"
            with Image.open(path) as picture:
                picture.load()
                picture.info["comment"] = b"made by the secret method"
                picture.save(path, pnginfo=note, exif=exif, dpi=(300, 300))
        page = build_study([run], StudyOptions(attention=0)).page
        for path in page.glob("images/*"):
            with Image.open(path) as picture:
                assert not picture.getexif()
                assert set(picture.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
            assert b"secret" not in path.read_bytes()

    def test_names_and_order_depend_on_a_salt_that_the_page_does_not_hold(
        self, study_run: Path, tmp_path: Path
    ) -> None:
        """Else whoever knows the program could compute which name is whose."""
        options = [StudyOptions(out=tmp_path / name, attention=0) for name in ("one", "two")]
        one, two = (build_study([study_run], option) for option in options)
        assert set(one.key.items).isdisjoint(two.key.items)
        for made in (one, two):
            data = page_data(made.page)
            assert [item["id"] for item in data["items"]] == sorted(item["id"] for item in data["items"])
            assert all(item["images"] == sorted(item["images"]) for item in data["items"])

    def test_the_first_image_in_the_data_is_not_always_the_same_method(self, study: Study) -> None:
        firsts = {study.key.items[item["id"]].images[item["images"][0]] for item in page_data(study.page)["items"]}
        assert firsts >= set(METHODS)


class TestAgain:
    def test_the_same_study_keeps_its_names_and_votes(self, study_run: Path, tmp_path: Path) -> None:
        options = StudyOptions(out=tmp_path)
        first = build_study([study_run], options)
        votes = write_votes(tmp_path / "votes.csv", walk(first, ["r1"])).read_bytes()
        pages = {path: path.read_bytes() for path in first.page.rglob("*") if path.is_file()}
        assert build_study([study_run], options).key == first.key
        assert {path: path.read_bytes() for path in first.page.rglob("*") if path.is_file()} == pages
        assert (tmp_path / "votes.csv").read_bytes() == votes

    def test_votes_of_another_study_are_not_mixed_in(self, study_run: Path, tmp_path: Path) -> None:
        first = build_study([study_run], StudyOptions(out=tmp_path))
        write_votes(tmp_path / "votes.csv", walk(first, ["r1"]))
        with pytest.raises(SgoolError, match=r"holds votes of another study .* Use another --out"):
            build_study([study_run], StudyOptions(out=tmp_path, methods=("vanilla", "sgool")))
        assert read_key(tmp_path / "key.json") == first.key

    def test_orders_and_sides_are_the_same_on_another_machine(self, study_run: Path, tmp_path: Path) -> None:
        """Another folder has another salt: other names, the same plan."""

        def plan(folder: str, **changes: object) -> list[tuple[str, str]]:
            made = build_study([study_run], StudyOptions(out=tmp_path / folder, rater="r7", **changes))  # type: ignore[arg-type]
            steps = form_steps(page_data(made.page), 0)
            return [(made.key.items[name].pair_id, made.key.items[name].images[left]) for name, left, _ in steps]

        assert plan("one") == plan("two")
        assert plan("one") != plan("three", seed=1)

    def test_a_page_for_one_rater_stands_beside_the_others_and_shares_their_key(
        self, study_run: Path, tmp_path: Path
    ) -> None:
        everyone = build_study([study_run], StudyOptions(out=tmp_path))
        one = build_study([study_run], StudyOptions(out=tmp_path, rater="r7"))
        assert one.key == everyone.key
        assert (everyone.page.name, one.page.name) == ("page", "page-r7")
        assert page_data(one.page)["rater"] == "r7"
        assert len(page_data(one.page)["forms"]) == 1
        assert (everyone.page / "index.html").exists()


class TestWhatIsLeftOut:
    def test_failed_missing_broken_and_identical_images(self, tmp_path: Path) -> None:
        pairs = fake_pairs()

        def paint(pair: PromptSeed, method: str) -> NDArray[np.float64]:
            return random_image(pair, "vanilla" if pair == pairs[3] and method == "doodl" else method)

        made = make_fake_run(tmp_path / "run", pairs=pairs, failed={("sgool", 0): "diverged"}, paint=paint)
        made.pair_folder("doodl", pairs[1].pair_id).joinpath("final.png").unlink()
        made.pair_folder("vanilla", pairs[2].pair_id).joinpath("final.png").write_bytes(b"\x89PNG cut off")
        study = build_study([made.path])
        assert sorted(text.partition(" on ")[0] for text in study.key.left_out) == ["doodl", "sgool", "vanilla"]
        assert study.key.identical == [[pairs[3].pair_id, "vanilla", "doodl"]]
        # Three pairs lack one of three images (1 comparison left), one has two equal ones (2 left), two are whole (3).
        assert sum(item.kind == COMPARISON for item in study.key.items.values()) == 3 + 2 + 2 * 3
        text = "\n".join(describe(study))
        assert "sgool on fake-00000" in text
        assert "diverged" in text
        assert "Not shown: 1 comparisons" in text

    def test_only_these_methods_and_pairs(self, study_run: Path, tmp_path: Path) -> None:
        study = build_study([study_run], StudyOptions(("sgool", "vanilla"), pairs=4, attention=0, out=tmp_path))
        assert study.key.methods == ["vanilla", "sgool"]
        assert len(study.key.items) == len({item.pair_id for item in study.key.items.values()}) == 4

    def test_two_runs_with_the_same_method(self, study_run: Path, tmp_path: Path) -> None:
        def paint(pair: PromptSeed, method: str) -> NDArray[np.float64]:
            return random_image(pair, "another " + method)

        other = make_fake_run(tmp_path / "other", methods=("sgool",), paint=paint).path
        study = build_study([study_run, other], StudyOptions(("run/sgool", "other/sgool"), out=tmp_path / "study"))
        assert study.key.methods == ["run/sgool", "other/sgool"]
        assert sum(item.kind == COMPARISON for item in study.key.items.values()) == 6


class TestPrompts:
    def test_markup_in_a_prompt_stays_text(self, tmp_path: Path) -> None:
        pairs = fake_pairs([(NASTY, "x"), ("a cat", "y")], [0])
        page = build_study([make_fake_run(tmp_path / "run", pairs=pairs).path]).page
        assert NASTY in {item["prompt"] for item in page_data(page)["items"]}
        text = (page / "data.js").read_text(encoding="ascii")
        assert "<" not in text
        assert "alert(1)" not in (page / "index.html").read_text()

    def test_a_consent_text_of_one_s_own(self, study_run: Path, tmp_path: Path) -> None:
        text = tmp_path / "consent.txt"
        text.write_text("Approved by <the board>.\n\nYou may stop.\n")
        html = (build_study([study_run], StudyOptions(consent=text, out=tmp_path)).page / "index.html").read_text()
        assert "<p>Approved by &lt;the board&gt;.</p>" in html
        assert "<p>You may stop.</p>" in html
        assert "voluntary" not in html

    def test_the_page_loads_nothing_from_elsewhere_and_has_no_inline_script(self, study: Study) -> None:
        html = (study.page / "index.html").read_text()
        addresses = re.findall(r"(?:src|href)=\"([^\"]*)\"", html)
        assert set(addresses) == {"icon.svg", "style.css", "data.js", "app.js"}
        assert re.findall(r"<script(?![^>]*src)|\son\w+=|<style|\sstyle=", html) == []


class TestChecks:
    def test_a_wrong_prompt_shares_no_word_with_the_right_one(self, study: Study) -> None:
        prompts = {item.pair_id: item.prompt for item in study.key.items.values() if item.kind == COMPARISON}
        entries = [Entry(pair_id, prompt, "m", Path("x")) for pair_id, prompt in prompts.items()]
        checks = make_checks(entries, 6, seed=0)
        assert [check.kind for check in checks] == [WRONG_PROMPT, SAME_IMAGE] * 3
        for check in checks[::2]:
            assert check.prompt == check.first.prompt
            assert words(check.first.prompt).isdisjoint(words(check.second.prompt))

    def test_words_are_compared_without_case_plural_and_fillers(self) -> None:
        assert words("A photo of the Red cats on a mat") == {"red", "cat", "mat"}

    def test_images_that_score_low_are_no_check(self) -> None:
        entries = [Entry(f"p{n}", f"word{n}", "m", Path("x"), float(n)) for n in range(40)]
        checks = make_checks(entries, 4, seed=0)
        assert all((check.first.score or 0) >= 19 for check in checks if check.kind == WRONG_PROMPT)

    def test_prompts_that_share_a_word_leave_the_other_kind(self) -> None:
        entries = [Entry(f"p{number}", f"a cat {number}", "m", Path("x")) for number in range(4)]
        assert {check.kind for check in make_checks(entries, 3, seed=0)} == {SAME_IMAGE}


class TestBadOptions:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (StudyOptions(methods=("sgool", "dodl")), "Unknown methods: dodl. The runs have vanilla, doodl, sgool"),
            (StudyOptions(methods=("sgool",)), "at least two methods, got sgool"),
            (StudyOptions(pairs=0), "--pairs: expected at least 1, got 0"),
            (StudyOptions(per_rater=0), "--per-rater: expected at least 1, got 0"),
            (StudyOptions(attention=-1), "--attention: expected 0 or more, got -1"),
            (StudyOptions(rater="../x"), "--rater: expected 1 to 40 letters"),
            (StudyOptions(rater="x\n"), "--rater: expected 1 to 40 letters"),
            (StudyOptions(consent=Path("missing.txt")), "--consent: cannot read missing.txt"),
        ],
    )
    def test_options(self, study_run: Path, tmp_path: Path, options: StudyOptions, message: str) -> None:
        with pytest.raises(SgoolError, match=message):
            build_study([study_run], options)
        assert not (study_run / "study").exists()

    def test_a_folder_with_something_else_is_left_alone(self, study_run: Path, tmp_path: Path) -> None:
        (tmp_path / "page").mkdir()
        (tmp_path / "page" / "thesis.tex").write_text("mine")
        with pytest.raises(SgoolError, match=r"page is in the way"):
            build_study([study_run], StudyOptions(out=tmp_path))
        assert (tmp_path / "page" / "thesis.tex").read_text() == "mine"

    def test_an_interrupted_build_leaves_the_old_page_and_is_mended(
        self, study_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        options = StudyOptions(out=tmp_path)
        page = build_study([study_run], options).page
        before = sorted(page.rglob("*"))

        def interrupt(*arguments: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("sgool.study.build.save_for_page", interrupt)
            build_study([study_run], options)
        assert sorted(page.rglob("*")) == before
        build_study([study_run], options)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["key.json", "page"]

    def test_an_empty_consent_text(self, study_run: Path, tmp_path: Path) -> None:
        (tmp_path / "empty.txt").write_text(" \n")
        with pytest.raises(SgoolError, match=r"--consent: .*empty.txt is empty"):
            build_study([study_run], StudyOptions(consent=tmp_path / "empty.txt", out=tmp_path))

    def test_a_key_that_is_none(self, study_run: Path, tmp_path: Path) -> None:
        (tmp_path / "key.json").write_text("[]")
        with pytest.raises(SgoolError, match=r"key.json is not the key of a study"):
            build_study([study_run], StudyOptions(out=tmp_path))

    def test_nothing_to_compare(self, tmp_path: Path) -> None:
        run = make_fake_run(tmp_path / "run", paint=lambda pair, method: random_image(pair, "same")).path
        with pytest.raises(SgoolError, match=r"Nothing to compare: .*18 images, 18 identical couples"):
            build_study([run])


def test_runs_on_different_data_sets_ask_each_comparison_once(tmp_path: Path) -> None:
    pairs = fake_pairs()[:2]
    other = [type(pair)(pair.prompt, pair.seed, pair.index, pair.category, "other") for pair in pairs]
    methods = ("vanilla", "doodl")
    runs = [
        make_fake_run(tmp_path / name, methods=methods, pairs=own).path for name, own in (("a", pairs), ("b", other))
    ]
    material = collect(load_runs(runs))
    assert material.methods == list(methods) and len(material.comparisons) == 4 and not material.identical
