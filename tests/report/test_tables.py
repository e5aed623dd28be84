"""Tables as Markdown, LaTeX and CSV: the numbers, and text that neither takes for its own."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from sgool.report import build_report
from sgool.report.latex import escape_latex, to_latex
from sgool.report.load import baseline_labels, load_runs, to_frame
from sgool.report.metrics import shown_metrics
from sgool.report.summary import category_rows, compare, statement_rows
from sgool.report.tables import Table, all_tables, escape_markdown, results_csv, to_markdown
from sgool.results import RunFolder
from tests.fake_run import METHODS, fake_pairs, make_fake_run
from tests.report.reading import Page

EIGHT = [(f"prompt {number}", "even" if number % 2 else "odd_&") for number in range(8)]


def tables_of(*paths: Path, against: Sequence[str] = ("vanilla",)) -> tuple[pd.DataFrame, list[Table]]:
    runs = load_runs(paths)
    frame = to_frame(runs)
    metrics = shown_metrics(frame.columns, [run.config for run in runs])
    comparisons = [compare(frame, metrics, name, baseline_labels(runs, name)) for name in against]
    baselines = comparisons[0].baselines
    categories, statements = category_rows(frame, metrics, baselines), statement_rows(frame, baselines)
    return frame, all_tables(comparisons, categories, statements, metrics)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"a_b & 50% #1 $x^2$ {y} ~ \input{z}",
         r"a\_b \& 50\% \#1 \$x\textasciicircum{}2\$ \{y\} \textasciitilde{} \textbackslash{}input\{z\}"),
        ("\N{MINUS SIGN}0.3\N{NARROW NO-BREAK SPACE}%", r"$-$0.3\,\%"),
        ("<b> | \"q\"\nnext", r"\textless{}b\textgreater{} \textbar{} \char34{}q\char34{} next"),
        # What pdfLaTeX knows, else numbers for it.
        ("猫 e\u0301 ř ß \u202eא", r"\sgoolchar{732B}{猫} é ř ß \sgoolchar{05D0}{א}"),
        ("[x] *", "{[}x] {*}"),  # after a line's end these would be its arguments
        ("-- ''q'' -1 ?`", "-{}- '{}'q'{}' -1 ?\\textasciigrave{}"),  # no ligatures
        ("“a” – b…", r"``a'' -- b\ldots{}"),
        ("\\\\&", r"\textbackslash{}\textbackslash{}\&"),
    ],
)  # fmt: skip
def test_latex_escapes(text: str, expected: str) -> None:
    assert escape_latex(text) == expected


def test_markdown_escapes() -> None:
    assert escape_markdown("a|b <script> *c* `d` [e](f) $g$") == r"a\|b \<script\> \*c\* \`d\` \[e\](f) \$g\$"
    assert escape_markdown("two\nlines | here") == r"two lines \| here"


@pytest.mark.parametrize("separator", [*"\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029", "\r\n"])
def test_no_text_breaks_a_row_of_markdown(separator: str) -> None:
    name = f"{separator}two{separator}lines | here{separator}"
    text = to_markdown("t", [Table("T", ("Category", "Pairs"), ((name, "3"),))])
    assert r"| two lines \| here | 3 |" in text.splitlines()
    assert escape_markdown(separator) == ""


def test_latex_is_whole(tmp_path: Path) -> None:
    _, tables = tables_of(make_fake_run(tmp_path / "run", pairs=fake_pairs(EIGHT, (0,))).path)
    text = to_latex(tables)
    for name in ("table", "tabular"):
        assert text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}") == len(tables)
    for rule in ("toprule", "midrule", "bottomrule"):
        assert text.count(rf"\{rule}") == len(tables)
    for table in re.findall(r"\\begin\{tabular\}\{(l r*)\}(.*?)\\end\{tabular\}".replace(" ", ""), text, re.DOTALL):
        columns, body = table
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert rows
        # every & that is not escaped separates two columns
        assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(columns) - 1}
    assert r"odd\_\&" in text
    assert "Guide CLIP score (optimised against)" in text


@pytest.mark.parametrize(("count", "pages"), [(1, 0), (20, 0), (21, 1), (40, 1), (100, 4)])
def test_latex_holds_no_more_than_twenty_tables(count: int, pages: int) -> None:
    """pdfLaTeX stops at a hundred floats without a page break, and at some fifty that wait for one."""
    text = to_latex([Table(f"Table {number}", ("Method", "Pairs"), (("sgool", "3"),)) for number in range(count)])
    parts = text.split("\\clearpage")
    assert len(parts) == pages + 1
    tables = [part.count(r"\begin{table}") for part in parts]
    assert [part.count(r"\end{table}") for part in parts] == tables  # none is cut in two
    assert sum(tables) == count and all(number == 20 for number in tables[:-1])


def test_markdown_is_whole(tmp_path: Path) -> None:
    _, tables = tables_of(make_fake_run(tmp_path / "run", pairs=fake_pairs(EIGHT, (0,))).path)
    text = to_markdown("run_1", tables)
    assert text.startswith("# run\\_1\n")
    widths = [len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("|")]
    heads = [len(table.head) + 1 for table in tables for _ in range(len(table.rows) + 2)]
    assert widths == heads


def test_what_the_tables_are(tmp_path: Path) -> None:
    frame, tables = tables_of(make_fake_run(tmp_path / "run", pairs=fake_pairs(EIGHT, (0,))).path)
    assert [table.title for table in tables] == [
        "Mean scores on fake, 8 pairs",
        "Judge CLIP score: paired differences to vanilla on fake, 8 pairs",
        "Scene accuracy: paired differences to vanilla on fake, 8 pairs",
        "Guide CLIP score (optimised against): paired differences to vanilla on fake, 8 pairs",
        "Cost of a pair on fake, 8 pairs",
        "Scene accuracy by statement",
        "Judge CLIP score per category",
        "Scene accuracy per category",
        "Guide CLIP score (optimised against) per category",
    ]
    mean = frame.loc[frame["label"] == "sgool", "judge/clip_score"].mean()
    assert tables[0].rows[2] == ("sgool", "8", "0", f"{mean:.2f}", *tables[0].rows[2][4:])
    assert [row[:3] for row in tables[1].rows] == [(name, "8", "8") for name in ("doodl", "sgool")]
    assert [row[:2] for row in tables[6].rows] == [("odd_&", "4"), ("even", "4")]


def test_two_data_sets_have_tables_of_their_own(tmp_path: Path) -> None:
    one = fake_pairs()
    other = [type(pair)(pair.prompt, pair.seed, pair.index, pair.category, "Draw Bench") for pair in one[:2]]
    frame, tables = tables_of(make_fake_run(tmp_path / "run", pairs=[*one, *other]).path)
    means = [table for table in tables if table.title.startswith("Mean scores")]
    assert [table.title for table in means] == ["Mean scores on draw-bench, 2 pairs", "Mean scores on fake, 6 pairs"]
    assert [table.rows[0][1] for table in means] == ["2", "6"]
    combined = tables[0]
    assert combined.title == "Scores by data set and method"
    assert combined.spans == (("", 1), ("draw-bench, 2 pairs", 2), ("fake, 6 pairs", 2))
    assert combined.head == ("Method", *("Judge CLIP score", "Scene accuracy") * 2)  # not what was optimised against
    means_of = frame[frame["label"] == "sgool"].groupby("dataset")
    scores, scene = means_of["judge/clip_score"].mean(), 100 * means_of["scene_accuracy"].mean()
    per_cent = [f"{scene[name]:.1f}\N{NARROW NO-BREAK SPACE}%" for name in ("draw-bench", "fake")]
    assert per_cent[0] != per_cent[1]
    assert combined.rows[2] == (
        "sgool", f"{scores['draw-bench']:.2f}", per_cent[0], f"{scores['fake']:.2f}", per_cent[1],
    )  # fmt: skip
    assert "draw-bench, 2 pairs: Judge CLIP score" in to_markdown("t", [combined])
    latex = to_latex([combined])
    assert r" & \multicolumn{2}{c}{draw-bench, 2 pairs} & \multicolumn{2}{c}{fake, 6 pairs} \\" in latex
    assert r"\cmidrule(lr){2-3} \cmidrule(lr){4-5}" in latex


def test_runs_on_different_data_sets_are_one_experiment(tmp_path: Path) -> None:
    """Four data sets in four runs: one row per method, each number from its own run."""
    one = make_fake_run(tmp_path / "one")
    pairs = [type(pair)(pair.prompt, pair.seed, pair.index, pair.category, "Draw Bench") for pair in fake_pairs()]
    two = make_fake_run(tmp_path / "two", pairs=pairs, methods=("vanilla", "reno"), failed={("reno", 0): "no"})
    frame, tables = tables_of(one.path, two.path)
    assert [row[0] for row in tables[0].rows] == ["vanilla", "doodl", "sgool", "reno"]
    assert tables[0].rows[1][3:] == ("–", "–")
    mean = frame.loc[(frame["label"] == "reno"), "judge/clip_score"].mean()
    assert tables[0].rows[3][1:4] == ("–", "–", f"{mean:.2f} (5)")
    differences = [table for table in tables if "draw-bench" in table.title and "paired" in table.title]
    assert [row[0] for row in differences[0].rows] == ["reno"]


def test_differences_to_several_methods(tmp_path: Path) -> None:
    run = make_fake_run(tmp_path / "run", pairs=fake_pairs(EIGHT, (0,)))
    frame, tables = tables_of(run.path, against=("doodl", "vanilla"))
    titles = [table.title for table in tables]
    judge = "Judge CLIP score: paired differences to {} on fake, 8 pairs"
    assert [judge.format(name) in titles for name in ("doodl", "vanilla", "sgool")] == [True, True, False]
    (to_doodl, to_vanilla) = (tables[titles.index(judge.format(name))] for name in ("doodl", "vanilla"))
    assert [row[0] for row in to_doodl.rows] == ["vanilla", "sgool"]  # none against itself
    assert [row[0] for row in to_vanilla.rows] == ["doodl", "sgool"]
    scores = frame.pivot(index="pair_id", columns="label", values="judge/clip_score")
    assert to_doodl.rows[1][3] == f"{(scores['sgool'] - scores['doodl']).mean():+.2f}".replace("-", "−")
    assert to_doodl.rows[0][5] == " / ".join(reversed(to_vanilla.rows[0][5].split(" / ")))
    per_category = tables[titles.index("Judge CLIP score per category")]
    assert "the mean paired difference to doodl, with" in per_category.note  # the first one alone


def test_statements(tmp_path: Path) -> None:
    """Shares over the pairs whose prompts make the statement, with their number."""
    run = make_fake_run(tmp_path / "run", pairs=fake_pairs(EIGHT, (0,)))
    for method in METHODS:
        without_value(run, method, 0, "scene/relation")
    frame, tables = tables_of(run.path)
    table = next(table for table in tables if table.title == "Scene accuracy by statement")
    assert table.head == ("Statement", "Pairs", "vanilla", "doodl", "sgool")
    assert [row[:2] for row in table.rows] == [("objects", "8"), ("colours", "8"), ("count", "8"), ("relation", "7")]
    means = frame.groupby("label")["scene/relation"].mean() * 100
    share, change = f"{means['vanilla']:.1f}", f"{means['sgool'] - means['vanilla']:+.1f}".replace("-", "−")
    assert table.rows[3][2] == f"{share}\N{NARROW NO-BREAK SPACE}%"
    assert table.rows[3][4].endswith(f"({change}\N{NARROW NO-BREAK SPACE}pp)")
    assert change != "+0.0"


def without_value(run: RunFolder, method: str, place: int, metric: str) -> None:
    """Take a metric out of the record of a method's pair, the ``place``-th by name."""
    path = sorted(run.path.glob(f"pairs/{method}/*/record.json"))[place]
    record = json.loads(path.read_text())
    del record["metrics"][metric]
    path.write_text(json.dumps(record))


@pytest.fixture
def gaps(tmp_path: Path) -> RunFolder:
    """Eight pairs, four per category: sgool failed on one of "even" and has no score on another, vanilla on a third."""
    run = make_fake_run(tmp_path / "run", pairs=fake_pairs(EIGHT, (0,)), failed={("sgool", 1): "why"})
    without_value(run, "sgool", 3, "judge/clip_score")
    without_value(run, "vanilla", 5, "judge/clip_score")
    return run


def test_numbers_of_pairs_by_category(gaps: RunFolder) -> None:
    """In every cell that is over other pairs than its row, and behind every difference that is over others again."""
    frame, tables = tables_of(gaps.path)
    table = next(table for table in tables if table.title == "Judge CLIP score per category")
    scores = frame.pivot(index="pair_id", columns="label", values="judge/clip_score").sort_index().iloc[1::2]
    mean = scores.mean()
    change = {name: f"{(scores[name] - scores['vanilla']).mean():+.2f}".replace("-", "−") for name in scores}
    assert table.rows[1] == (
        "even", "4", f"{mean['vanilla']:.2f} (3)", f"{mean['doodl']:.2f} ({change['doodl']}, 3 pairs)",
        f"{mean['sgool']:.2f} (2) ({change['sgool']}, 1 pair)",
    )  # fmt: skip
    assert all("pair" not in cell and cell.count("(") <= 1 for cell in table.rows[0])  # of "odd_&" nothing is missing
    assert "how many pairs have a value" in table.note
    assert f"{mean['sgool']:.2f} (2) (" in to_latex([table])


def test_numbers_of_pairs_by_category_in_the_page(gaps: RunFolder) -> None:
    by_category = report_text(gaps.path).split("Judge CLIP score per category")[1]
    assert re.search(r" odd_& 4 \S+ \S+ \S+ \S+ \S+ even 4 ", by_category)
    number, change = r"\d+\.\d\d", r"[+−]\d\.\d\d"
    expected = rf" even 4 {number} 3 pairs {number} {change} , 3 pairs {number} 2 pairs {change} , 1 pair "
    assert re.search(expected, by_category)


def report_text(*paths: Path, against: Sequence[str] = ()) -> str:
    """The text of a report's page, made without figures: they take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sgool.report.page.score_figures", lambda source: {})
        patch.setattr("sgool.report.page.curve_figures", lambda histories, looks: [])
        return Page(build_report(paths, against=against)).text


def test_the_combined_table_counts_values(tmp_path: Path) -> None:
    """A pair that ended well without a value is in no mean, and its note says what is counted."""
    pairs = [type(pair)(pair.prompt, pair.seed, pair.index, pair.category, "Other") for pair in fake_pairs()]
    run = make_fake_run(tmp_path / "run", pairs=[*fake_pairs(), *pairs])
    without_value(run, "sgool", 0, "scene_accuracy")
    combined = tables_of(run.path)[1][0]
    assert combined.rows[2][2].endswith("% (5)") and not combined.rows[2][1].endswith(")")
    assert combined.note.startswith("Means over the pairs that have a value; a number in brackets")


@pytest.mark.parametrize(
    ("runs", "baseline", "rows"),
    [
        ({"a": ("vanilla", "best_of_n"), "b": ("vanilla", "sgool")}, "best_of_n",
         ("a/vanilla", "b/vanilla against best_of_n of a", "sgool against best_of_n of a")),
        # No method is in both, so that no label names a run.
        ({"a": ("doodl", "best_of_n"), "b": ("sgool",)}, "best_of_n",
         ("doodl", "sgool against best_of_n of another run")),
        # All rows are against one method: that it is another run's has to be said all the same.
        ({"a": ("doodl",), "c": ("doodl",), "b": ("sgool",)}, "doodl", ("sgool against a/doodl",)),
    ],
)  # fmt: skip
def test_a_baseline_of_another_run_is_named(
    tmp_path: Path, runs: dict[str, tuple[str, ...]], baseline: str, rows: tuple[str, ...]
) -> None:
    """Runs of the same pairs, not all of which have the method that all are compared with."""
    paths = [make_fake_run(tmp_path / name, methods=methods).path for name, methods in runs.items()]
    _, tables = tables_of(*paths, against=(baseline,))
    table = next(table for table in tables if f"paired differences to {baseline}" in table.title)
    assert tuple(row[0] for row in table.rows) == rows
    told = {row for row in rows if " against " in row}
    by_category = next(table for table in tables if table.title == "Judge CLIP score per category")
    assert {name for name in by_category.head if " against " in name} == told
    text = report_text(*paths, against=(baseline,))
    assert all(f" {row} 6 " in text for row in rows)
    assert all(f"{row} against" not in text for row in rows)


def test_csv_holds_every_number_and_any_text(tmp_path: Path) -> None:
    pairs = fake_pairs([('a "b",\nc <script> =SUM(A1) 🦊', "x")], (0,))
    run = make_fake_run(tmp_path / "run", pairs=pairs, failed={("doodl", 0): "why, though"})
    frame = to_frame(load_runs([run.path]))
    rows = list(csv.DictReader(io.StringIO(results_csv(frame, ["run"]))))
    assert [(row["run"], row["method"], row["status"]) for row in rows] == [
        ("run", "vanilla", "done"), ("run", "doodl", "failed"), ("run", "sgool", "done"),
    ]  # fmt: skip
    assert {row["prompt"] for row in rows} == {pairs[0].prompt}
    for row, record in zip(rows, [run.record(row["method"], row["pair_id"]) for row in rows], strict=True):
        assert record is not None
        numbers = {name: float(row[name]) for name in frame.columns if "/" in name and row[name]}
        assert numbers == {name: value for name, value in record.metrics.items() if "/" in name}
    assert "folder" not in rows[0]
