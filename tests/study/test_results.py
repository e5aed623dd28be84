"""From files of votes to what is printed: exclusion, corrections, problems, and the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sgool.cli import app
from sgool.errors import SgoolError
from sgool.study import Study, results_json, show_results, study_results
from sgool.study.checks import SAME_IMAGE, WRONG_PROMPT
from sgool.study.key import COMPARISON, Item, StudyKey, read_key
from sgool.study.results import last_votes
from sgool.study.votes import COLUMNS, VotesError, make_vote, read_votes
from tests.study.votes import attentive, vote, walk, write_votes


def _careless(rater: str, item: Item, left: str, right: str) -> tuple[str, str]:
    """The rater called bad always says right."""
    return ("right", "right") if rater == "bad" else attentive(rater, item, left, right)


def _score(study: Study, folder: Path, raters: list[str]) -> Path:
    return write_votes(folder / "votes.csv", walk(study, raters, _careless))


class TestRaters:
    def test_who_fails_the_checks_is_left_out_and_shown(self, study: Study, tmp_path: Path) -> None:
        results = study_results([_score(study, tmp_path, ["r1", "r2", "bad"])], study.folder / "key.json")
        by_name = {rater.name: rater for rater in results.raters}
        assert [(rater.comparisons, rater.checks) for rater in results.raters] == [(9, 3)] * 3
        assert by_name["r1"].reason == by_name["r2"].reason == ""
        assert "attention checks right, fewer than two thirds" in by_name["bad"].reason
        assert results.main.raters == 2
        assert results.main.votes == 18
        assert results.everyone is not None
        assert (results.everyone.raters, results.everyone.votes) == (3, 27)

    def test_without_anyone_to_leave_out_there_is_one_result(self, study: Study, tmp_path: Path) -> None:
        results = study_results([_score(study, tmp_path, ["r1"])], study.folder / "key.json")
        assert results.everyone is None
        assert "none failed the attention checks" in show_results(results)

    @pytest.mark.parametrize(
        ("right", "checks", "excluded"),
        [(3, 3, False), (2, 3, False), (1, 3, True), (0, 1, True), (1, 1, False), (4, 6, False), (3, 5, True)],
    )
    def test_two_thirds_of_the_checks_seen(self, tmp_path: Path, right: int, checks: int, excluded: bool) -> None:
        items = {f"i{n}": Item(WRONG_PROMPT, "p", "a cat", {f"a{n}": "right", f"b{n}": "wrong"}) for n in range(8)}
        (tmp_path / "key.json").write_text(StudyKey("s", "salt", 0, ["a", "b"], items).text())
        answers = ["left"] * right + ["tie"] * (checks - right)
        votes = [vote("s", "r1", f"i{n}", (f"a{n}", f"b{n}"), answer) for n, answer in enumerate(answers)]
        (rater,) = study_results([write_votes(tmp_path / "votes.csv", votes)]).raters
        assert (rater.right, rater.checks, bool(rater.reason)) == (right, checks, excluded)

    @pytest.mark.parametrize(
        ("match", "prefer", "right"), [("tie", "tie", 1), ("tie", "left", 0), ("left", "tie", 0), ("right", "right", 0)]
    )
    def test_one_image_twice_wants_two_ties(self, tmp_path: Path, match: str, prefer: str, right: int) -> None:
        items = {"i0": Item(SAME_IMAGE, "p", "a cat", {"a": "same", "b": "same"})}
        (tmp_path / "key.json").write_text(StudyKey("s", "salt", 0, ["a", "b"], items).text())
        votes = [vote("s", "r1", "i0", ("a", "b"), match, prefer=prefer)]
        (rater,) = study_results([write_votes(tmp_path / "votes.csv", votes)]).raters
        assert rater.right == right

    def test_all_failed(self, study: Study, tmp_path: Path) -> None:
        results = study_results([_score(study, tmp_path, ["bad"])], study.folder / "key.json")
        assert results.main.votes == 0
        assert "No vote is left." in show_results(results)

    def test_checks_are_no_comparisons(self, study: Study, tmp_path: Path) -> None:
        checks = [one for one in walk(study, ["r1"]) if study.key.items[one.item].kind != COMPARISON]
        results = study_results([write_votes(tmp_path / "v.csv", checks)], study.folder / "key.json")
        assert (results.main.votes, results.raters[0].checks) == (0, 3)


class TestCorrections:
    def test_the_last_vote_counts(self) -> None:
        early, late = "2025-01-31T12:00:00.000Z", "2025-01-31T12:00:01.000Z"
        first = vote("s", "r", "i0", ("x", "y"), "left", answered_at=early)
        second = vote("s", "r", "i0", ("x", "y"), "right", answered_at=late)
        other = vote("s", "q", "i0", ("x", "y"), "tie", answered_at=early)
        assert last_votes([second, other, first]) == [other, second]
        # Of the same time, the later line.
        assert last_votes([first, vote("s", "r", "i0", ("x", "y"), "tie", answered_at=early)])[0].match == "tie"

    def test_the_same_votes_from_the_server_and_from_the_rater_count_once(self, study: Study, tmp_path: Path) -> None:
        votes = walk(study, ["r1", "r2"])
        server = write_votes(tmp_path / "server.csv", votes)
        own = write_votes(tmp_path / "r1.csv", [one for one in votes if one.rater == "r1"])
        key = study.folder / "key.json"
        alone, both = study_results([server], key), study_results([server, own, own], key)
        assert both.main == alone.main
        assert (alone.repeated, both.repeated, both.lines) == (0, 12, 36)


class TestProblems:
    def test_all_at_once_with_file_and_line(self, study: Study, tmp_path: Path) -> None:
        good = walk(study, ["r1"])
        bad = write_votes(tmp_path / "bad.csv", good[:8])
        lines = bad.read_text().splitlines()
        lines[1] = lines[1].replace("r1", "r 1", 1)
        lines[2] = lines[2].replace(study.key.study, "another")
        lines[3] = lines[3].replace(good[2].item, "nothing")
        lines[4] = lines[4].replace(good[3].left, good[3].right)
        lines[5] = lines[5].replace(f",{good[4].match},", ",both,", 1)
        lines[6] = lines[6].replace("3.5", "nan")
        lines[7] = lines[7].replace("2025-01-31T", "31.1.2025 ")
        lines[8] = ",".join(lines[8].split(",")[:5])
        bad.write_text("\n".join(lines) + "\n")
        (tmp_path / "other.csv").write_text("a,b\n1,2\n")
        (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
        files = [bad, tmp_path / "other.csv", tmp_path / "binary.csv", tmp_path / "missing.csv"]
        with pytest.raises(VotesError, match=r"11 problems in the votes; nothing was scored") as caught:
            study_results(files, study.folder / "key.json")
        expected = [
            ("bad.csv:2: ", "rater must be 1 to 40 letters"),
            ("bad.csv:3: ", "it belongs to the study 'another'"),
            ("bad.csv:4: ", "the study has no item 'nothing'"),
            ("bad.csv:5: ", "left and right are not the images of item"),
            ("bad.csv:6: ", "match must be one of left, tie, right, got 'both'"),
            ("bad.csv:7: ", "seconds must be a number from 0"),
            ("bad.csv:8: ", "answered_at must look like 2025-01-31T12:00:00Z"),
            ("bad.csv:9: ", "expected 11 fields, got 5: the line was cut"),
            ("other.csv:1: ", "expected the header study,rater,"),
            ("binary.csv: ", "cannot be read as UTF-8 text"),
            ("missing.csv: ", "there is no such file"),
        ]
        for problem, (place, what) in zip(caught.value.problems, expected, strict=True):
            assert place in problem
            assert what in problem

    def test_many_problems_are_cut_short(self) -> None:
        text = str(VotesError([f"problem {number}" for number in range(80)]))
        assert text.startswith("80 problems")
        assert "- problem 49\n- and 30 more" in text

    def test_nothing_to_score(self, study: Study, tmp_path: Path) -> None:
        path = write_votes(tmp_path / "votes.csv", [])
        with pytest.raises(SgoolError, match=r"No vote in .*votes.csv"):
            study_results([path], study.folder / "key.json")
        with pytest.raises(SgoolError, match=r"There is no key at .*key.json. Give --key"):
            study_results([path])

    def test_what_a_spreadsheet_writes(self, study: Study, tmp_path: Path) -> None:
        """A byte order mark, CRLF, quotes everywhere, an empty line at the end."""
        (given,) = walk(study, ["r1"])[:1]
        row = [str(getattr(given, name)) for name in COLUMNS]
        text = "\ufeff" + "".join(",".join(f'"{cell}"' for cell in line) + "\r\n" for line in (COLUMNS, row)) + "\r\n"
        path = tmp_path / "votes.csv"
        path.write_bytes(text.encode())
        assert read_votes(path, study.key) == ([given], [])

    def test_an_open_quote(self, study: Study, tmp_path: Path) -> None:
        path = write_votes(tmp_path / "votes.csv", walk(study, ["r1"])[:2])
        path.write_text(path.read_text() + '"open,\nand more\n')
        votes, problems = read_votes(path, study.key)
        assert len(votes) == 2
        assert len(problems) == 1
        assert "votes.csv:4: not CSV from here on" in problems[0]

    @pytest.mark.parametrize("change", [{"seconds": None}, {"match": ["left"]}, {"more": "x"}, {"form": "-1"}])
    def test_votes_from_json(self, study: Study, change: dict[str, object]) -> None:
        (given,) = walk(study, ["r1"])[:1]
        values = {name: getattr(given, name) for name in COLUMNS}
        assert make_vote(values, study.key) == given
        with pytest.raises(ValueError, match=r"expected the fields|form must be"):
            make_vote(values | change, study.key)


class TestText:
    def test_numbers_of_raters_items_and_votes_are_shown(self, study: Study, tmp_path: Path) -> None:
        results = study_results([_score(study, tmp_path, ["r1", "r2", "bad"])], study.folder / "key.json")
        text = show_results(results)
        for shown in (
            "18 votes counted",
            "3 raters; 36 lines read",
            "Excluded: bad, ",
            "WITHOUT EXCLUDED RATERS",
            "WITH EVERYONE",
            "2 raters, ",
            "Which image matches the text better?",
            "Which image would most people prefer?",
            "vanilla - sgool",
            "Prompt alignment success rate",
            "Fleiss' kappa over all",
            "few prompts",
        ):
            assert shown in text
        assert max(map(len, text.splitlines())) < 130

    def test_json_has_every_number(self, study: Study, tmp_path: Path) -> None:
        results = study_results([_score(study, tmp_path, ["r1", "bad"])], study.folder / "key.json")
        values = json.loads(results_json(results))
        assert values["main"]["questions"]["match"]["pairs"][0]["votes"] == 3
        assert values["everyone"]["votes"] == 18
        assert values["raters"][0]["name"] == "bad"


class TestCommandLine:
    def test_a_study_and_its_results(self, study_run: Path, tmp_path: Path) -> None:
        runner = CliRunner()
        arguments = ["study", str(study_run), "--methods", "sgool, vanilla", "--per-rater", "4", "--out", str(tmp_path)]
        made = runner.invoke(app, arguments)
        assert made.exit_code == 0, made.output
        assert made.output.splitlines()[0] == str(tmp_path / "page" / "index.html")
        assert "6 comparisons, of which each rater sees 4, and 3 attention checks" in made.output
        assert "For 5 votes on every comparison it takes about 8 raters" in made.output
        assert "key.json says whose" in made.output
        key = read_key(tmp_path / "key.json")
        votes = walk(Study(tmp_path, tmp_path / "page", key, None, 4), ["r1", "r2"])
        write_votes(tmp_path / "votes.csv", votes)
        scored = runner.invoke(app, ["study-results", str(tmp_path / "votes.csv")])
        assert scored.exit_code == 0, scored.output
        assert "vanilla - sgool" in scored.output
        as_json = runner.invoke(app, ["study-results", str(tmp_path / "votes.csv"), "--json"])
        assert json.loads(as_json.output)["methods"] == ["vanilla", "sgool"]

    def test_mistakes_are_one_paragraph_and_exit_code_2(self, tmp_path: Path) -> None:
        runner = CliRunner()
        for arguments in (["study", str(tmp_path / "none")], ["study-results", str(tmp_path / "none.csv")]):
            result = runner.invoke(app, arguments)
            assert result.exit_code == 2
            assert "Traceback" not in result.output
