"""Tables as Markdown, LaTeX and CSV: the numbers, and text that neither takes for its own."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pandas as pd
import pytest

from sgool.report.load import baseline_labels, load_runs, to_frame
from sgool.report.metrics import shown_metrics
from sgool.report.summary import category_rows, dataset_rows
from sgool.report.tables import Table, all_tables, escape_latex, escape_markdown, results_csv, to_latex, to_markdown
from tests.fake_run import fake_pairs, make_fake_run

EIGHT = [(f"prompt {number}", "even" if number % 2 else "odd_&") for number in range(8)]


def tables_of(path: Path) -> tuple[pd.DataFrame, list[Table]]:
    runs = load_runs([path])
    frame = to_frame(runs)
    metrics = shown_metrics(frame.columns, [run.config for run in runs])
    baselines = baseline_labels(runs)
    datasets = dataset_rows(frame, metrics, baselines)
    return frame, all_tables(datasets, category_rows(frame, metrics, baselines), metrics)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"a_b & 50% #1 $x^2$ {y} ~ \input{z}",
         r"a\_b \& 50\% \#1 \$x\textasciicircum{}2\$ \{y\} \textasciitilde{} \textbackslash{}input\{z\}"),
        ("\N{MINUS SIGN}0.3\N{NARROW NO-BREAK SPACE}%", r"$-$0.3\,\%"),
        ("<b> | \"q\"\nnext", r"\textless{}b\textgreater{} \textbar{} \textquotedbl{}q\textquotedbl{} next"),
        ("猫 é", "猫 é"),
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
        "Judge CLIP score: paired differences on fake, 8 pairs",
        "Scene accuracy: paired differences on fake, 8 pairs",
        "Guide CLIP score (optimised against): paired differences on fake, 8 pairs",
        "Cost of a pair on fake, 8 pairs",
        "Judge CLIP score per category",
        "Scene accuracy per category",
        "Guide CLIP score (optimised against) per category",
    ]
    mean = frame.loc[frame["label"] == "sgool", "judge/clip_score"].mean()
    assert tables[0].rows[2] == ("sgool", "8", "0", f"{mean:.2f}", *tables[0].rows[2][4:])
    assert [row[:3] for row in tables[1].rows] == [(f"{name} against vanilla", "8", "8") for name in ("doodl", "sgool")]
    assert [row[:2] for row in tables[5].rows] == [("odd_&", "4"), ("even", "4")]


def test_two_data_sets_have_tables_of_their_own(tmp_path: Path) -> None:
    one = fake_pairs()
    other = [type(pair)(pair.prompt, pair.seed, pair.index, pair.category, "Draw Bench") for pair in one[:2]]
    _, tables = tables_of(make_fake_run(tmp_path / "run", pairs=[*one, *other]).path)
    means = [table for table in tables if table.title.startswith("Mean scores")]
    assert [table.title for table in means] == ["Mean scores on draw-bench, 2 pairs", "Mean scores on fake, 6 pairs"]
    assert [table.rows[0][1] for table in means] == ["2", "6"]


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
