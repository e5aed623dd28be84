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

from sgool.report.latex import escape_latex, to_latex
from sgool.report.load import baseline_labels, load_runs, to_frame
from sgool.report.metrics import shown_metrics
from sgool.report.summary import category_rows, compare, statement_rows
from sgool.report.tables import Table, all_tables, escape_markdown, results_csv, to_markdown
from tests.fake_run import fake_pairs, make_fake_run

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
    scores = frame[frame["label"] == "sgool"].groupby("dataset")["judge/clip_score"].mean()
    assert combined.rows[2][0::2] == ("sgool", *(combined.rows[2][at] for at in (2, 4)))
    assert combined.rows[2][1::2] == (f"{scores['draw-bench']:.2f}", f"{scores['fake']:.2f}")
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
    assert per_category.note == "Mean; in brackets the mean paired difference to doodl."  # the first one alone


def test_statements(tmp_path: Path) -> None:
    """Shares over the pairs whose prompts make the statement, with their number."""
    run = make_fake_run(tmp_path / "run", pairs=fake_pairs(EIGHT, (0,)))
    for path in sorted(run.path.glob("pairs/*/*/record.json")):
        record = json.loads(path.read_text())
        if record["prompt"] == "prompt 0":
            record["metrics"] = {name: v for name, v in record["metrics"].items() if not name.startswith("scene/rel")}
            path.write_text(json.dumps(record))
    frame, tables = tables_of(run.path)
    table = next(table for table in tables if table.title == "Scene accuracy by statement")
    assert table.head == ("Statement", "Pairs", "vanilla", "doodl", "sgool")
    assert [row[:2] for row in table.rows] == [("objects", "8"), ("colours", "8"), ("count", "8"), ("relation", "7")]
    means = frame.groupby("label")["scene/relation"].mean() * 100
    share, change = f"{means['vanilla']:.1f}", f"{means['sgool'] - means['vanilla']:+.1f}".replace("-", "−")
    assert table.rows[3][2] == f"{share}\N{NARROW NO-BREAK SPACE}%"
    assert table.rows[3][4].endswith(f"({change}\N{NARROW NO-BREAK SPACE}pp)")
    assert change != "+0.0"


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
