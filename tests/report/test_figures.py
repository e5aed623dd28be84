"""Figures: what is drawn, text as text, one colour per method, the same bytes every time."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sgool.report import canvas
from sgool.report.canvas import Drawn, file_name, for_page, new_figure, shorten, style
from sgool.report.curves import curve_figures
from sgool.report.figures import _file_endings, score_figures
from sgool.report.history import read_histories
from sgool.report.load import baseline_labels, load_runs, to_frame
from sgool.report.metrics import shown_metrics
from sgool.report.palette import COLOURS, TURNS, method_looks
from sgool.report.source import Source
from sgool.report.summary import compare
from tests.fake_run import fake_pairs, make_fake_run

EVIL = "<b>&amp; $x_1$ \\frac{"
EIGHT = [(f"prompt {number}", EVIL if number % 2 else "plain") for number in range(14)]


def figures_of(*paths: Path, against: Sequence[str] = ("vanilla",), title: str | None = None) -> dict[str, Drawn]:
    runs = load_runs(paths)
    frame = to_frame(runs)
    metrics = shown_metrics(frame.columns, [run.config for run in runs])
    if title:
        metrics = [replace(metrics[0], title=title)]
    comparisons = [compare(frame, metrics, name, baseline_labels(runs, name)) for name in against]
    looks = method_looks(comparisons[0].baselines)
    with style():
        scores = score_figures(Source(frame, metrics[:1], comparisons, looks))
        drawn = [*scores[metrics[0].key], *curve_figures(read_histories(frame), looks)]
    assert len({figure.name for figure in drawn}) == len(drawn)
    return {figure.name: figure for figure in drawn}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_fake_run(tmp_path_factory.mktemp("figures") / "run", pairs=fake_pairs(EIGHT, (0,))).path


@pytest.fixture(scope="module")
def figures(run: Path) -> dict[str, Drawn]:
    return figures_of(run)


def test_all_kinds(figures: dict[str, Drawn]) -> None:
    judge = "judge-clip-score"
    kinds = [f"{kind}-{judge}" for kind in ("boxes", "bars", "differences", "improvement", "cost")]
    assert list(figures) == [*kinds, "curve-loss", "curve-selection"]


def test_the_same_bytes_every_time(run: Path, figures: dict[str, Drawn]) -> None:
    again = figures_of(run)
    assert {name: (drawn.svg, drawn.png) for name, drawn in again.items()} == {
        name: (drawn.svg, drawn.png) for name, drawn in figures.items()
    }


def test_text_is_text(figures: dict[str, Drawn]) -> None:
    for drawn in figures.values():
        texts = [
            "".join(element.itertext()) for element in ET.fromstring(drawn.svg).iter("{http://www.w3.org/2000/svg}text")
        ]
        assert any("n = 14" in text or "sgool" in text for text in texts), drawn.name
    texts = [
        e.text for e in ET.fromstring(figures["improvement-judge-clip-score"].svg).iter() if e.tag.endswith("}text")
    ]
    assert f"{EVIL}  (n = 7)" in [" ".join((text or "").split(" ")) for text in texts]  # no formula, no markup


def test_pngs_are_for_print(figures: dict[str, Drawn]) -> None:
    for drawn in figures.values():
        with Image.open(io.BytesIO(drawn.png)) as picture:
            assert picture.width == 1200  # 6 inches at 200 dots
            assert np.asarray(picture.convert("RGB"))[0, 0].tolist() == [255, 255, 255]


def test_alternative_texts_tell_the_numbers(figures: dict[str, Drawn]) -> None:
    for name in ("boxes", "bars", "differences", "cost"):
        alt = figures[f"{name}-judge-clip-score"].alt
        assert re.search(r"sgool [+−]?\d+\.\d\d", alt), alt
    assert "Medians at the end: doodl 0." in figures["curve-loss"].alt


def test_in_the_page(figures: dict[str, Drawn]) -> None:
    """The page's theme colours it, and no two figures share an id."""
    pages = [for_page(drawn) for drawn in figures.values()]
    ids = [found for page in pages for found in re.findall(r' id="([^"]+)"', page)]
    assert len(ids) == len(set(ids)) > 0
    for page in pages:
        assert page.startswith("<svg viewBox=")
        assert "var(--ink)" in page
        assert not re.search("|".join(colour.light for colour in COLOURS), page)
        used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', page))
        assert used <= set(ids)
        ET.fromstring(page.replace("<svg ", '<svg xmlns:xlink="http://www.w3.org/1999/xlink" ', 1))


def test_a_method_keeps_its_colour() -> None:
    alone, all_of_them = method_looks(["sgool"]), method_looks(["vanilla", "other", "doodl", "sgool", "b/sgool"])
    assert alone["sgool"] == all_of_them["sgool"]
    assert len({look.light for look in all_of_them.values()}) == 5
    assert list(all_of_them) == ["vanilla", "other", "doodl", "sgool", "b/sgool"]


def test_more_methods_than_colours_look_different() -> None:
    names = ["vanilla", *(f"m{number}" for number in range(21))]
    looks = method_looks(names)
    assert len(set(looks.values())) == 22
    assert len({(str(look.point()), look.line, look.hatch) for look in looks.values()}) == 22
    assert [look.turn for look in looks.values()] == [0] * 8 + [1] * 7 + [2] * 7
    assert len(method_looks(map(str, range(100)))) == 100  # then they repeat
    for part in ("fill", "line", "hatch"):
        assert len({getattr(turn, part) for turn in TURNS}) == len(TURNS)


def test_twelve_methods(tmp_path: Path) -> None:
    methods = ["vanilla", "doodl", "sgool", "best_of_n", "reno", "clip_guidance", *(f"method-{n}" for n in range(6))]
    run = make_fake_run(tmp_path / "run", methods=methods, pairs=fake_pairs(EIGHT[:6], (0,)))
    found = figures_of(run.path)
    for kind in ("boxes", "bars"):
        svg = found[f"{kind}-judge-clip-score"].svg
        assert svg.count("<pattern") == 4  # hatched: the ninth method and those after it
        page = for_page(found[f"{kind}-judge-clip-score"])
        assert not re.search("|".join(colour.light for colour in COLOURS), page)
    assert found["differences-judge-clip-score"].svg.count("stroke-dasharray") == 4
    legend = ET.fromstring(found["cost-judge-clip-score"].svg)
    assert {e.text for e in legend.iter("{http://www.w3.org/2000/svg}text")} >= set(methods)


def test_differences_to_several_methods(run: Path) -> None:
    found = figures_of(run, against=("doodl", "vanilla"))
    first, second = (found[f"differences-judge-clip-score{end}"] for end in ("", "-to-vanilla"))
    assert first.title == "Judge CLIP score: paired difference to doodl"
    assert re.search(r"to doodl: vanilla [+−]?\d.*, sgool [+−]?\d", first.alt) and ", doodl" not in first.alt
    assert re.search(r"to vanilla: doodl [+−]?\d.*, sgool [+−]?\d", second.alt)


def test_names_that_files_cannot_tell_apart() -> None:
    assert _file_endings(["vanilla", "a_b", "a-b", "猫", "犬"]) == [
        "",
        "-to-a-b",
        "-to-a-b-3",
        "-to-figure",
        "-to-figure-5",
    ]


def test_two_data_sets_stand_below_each_other(tmp_path: Path) -> None:
    pairs = [type(pair)(pair.prompt, pair.seed, pair.index, pair.category, "Other") for pair in fake_pairs(EIGHT[:6])]
    two = make_fake_run(tmp_path / "two", pairs=pairs, methods=("vanilla", "sgool"))
    one = make_fake_run(tmp_path / "one")
    found = figures_of(one.path, two.path)
    for kind, numbers in (("boxes", 5), ("bars", 5), ("differences", 3)):
        drawn = found[f"{kind}-judge-clip-score"]
        texts = [e.text or "" for e in ET.fromstring(drawn.svg).iter("{http://www.w3.org/2000/svg}text")]
        lines = [text for text in texts if "n = " in text or text in ("fake", "other")]
        assert [text.split("  ")[0] for text in lines if text != "fake"].count("other") == 1
        assert len(lines) == numbers + 2
        assert "other, sgool" in drawn.alt and "fake, sgool" in drawn.alt


def lab(linear: np.ndarray) -> np.ndarray:
    """CIE L*a*b* (n, 3) of linear sRGB (n, 3)."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt((linear @ to_xyz.T / [0.9505, 1.0, 1.089]).T)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


@pytest.mark.parametrize("end", ["light", "dark"])
@pytest.mark.parametrize("cones", ["all", "no red", "no green"])
def test_colours_can_be_told_apart(end: str, cones: str) -> None:
    """For colour-blind readers, too, as Viénot, Brettel and Mollon (1999) simulate what they see."""
    to_lms = np.array([[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]])
    seen = {
        "all": np.eye(3),
        "no red": np.array([[0, 2.02344, -2.52581], [0, 1, 0], [0, 0, 1]]),
        "no green": np.array([[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]]),
    }[cones]
    texts = [getattr(colour, end) for colour in COLOURS]
    rgb = np.array([[int(text[k : k + 2], 16) / 255 for k in (1, 3, 5)] for text in texts])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    places = lab(np.clip(linear @ (np.linalg.inv(to_lms) @ seen @ to_lms).T, 1e-6, 1))
    apart = [(np.linalg.norm(one - other), k) for k, one in enumerate(places) for other in places[:k]]
    # 2.3 is just noticed side by side; a legend and its plot stand apart.
    assert min(distance for distance, _ in apart) > 11
    assert min(distance for distance, k in apart if k < 6) > 15
    assert len({colour.marker for colour in COLOURS}) == len(COLOURS)


def test_names_of_files() -> None:
    assert file_name("boxes-a/b c<>../x") == "boxes-a-b-c-..-x"
    assert file_name("///") == "figure"
    assert file_name("a" * 80) == "a" * 80
    assert shorten("a" * 40) == "a" * 27 + "…"
    assert shorten("a\n b \u202ec") == "a b c"


def test_long_names_have_files_of_their_own() -> None:
    """What tells them apart is cut away; the same name has the same file in every report."""
    names = ["a" * 85 + end for end in ("", "b", "c", "/", "-")]
    found = [file_name(name) for name in names]
    assert len(set(found)) == len(names)
    assert {len(name) for name in found} == {80}
    assert found[0] == "a" * 71 + "-842ef530"  # of sha256
    with style():
        # as a comparison's figures are named: a file name with another in it
        figures = {new_figure(f"differences-judge{end}", rows=1)[0].name for end in _file_endings(["vanilla", *names])}
    assert len(figures) == len(names) + 1


def test_a_figure_without_a_legend_or_values() -> None:
    with style():
        figure, axes = new_figure("empty", rows=1)
        drawn = figure.done("t", "c", "a")
    assert drawn.name == "empty" and axes.get_legend() is None


TITLES = [
    "Score",
    "Guide CLIP score (optimised against)",
    "A name of a score that someone made very long " * 2,
    "X" * 120,
]


@pytest.mark.parametrize("title", TITLES)
def test_no_title_of_an_axis_is_cut_off(run: Path, monkeypatch: pytest.MonkeyPatch, title: str) -> None:
    seen: list[str] = []
    plain = canvas.Figure.done

    def measured(self: canvas.Figure, *texts: str) -> Drawn:
        drawn = plain(self, *texts)
        self.figure.draw_without_rendering()  # in dots of the figure, and not of the PNG
        for axes in self.figure.axes:
            for label in (axes.xaxis.label, axes.yaxis.label):
                box, edges = label.get_window_extent(), self.figure.bbox
                if not label.get_text():
                    continue
                assert box.x0 >= edges.x0 and box.x1 <= edges.x1, f"{self.name}: {label.get_text()}"
                assert box.y0 >= edges.y0 and box.y1 <= edges.y1, f"{self.name}: {label.get_text()}"
                seen.append(label.get_text())
        return drawn

    monkeypatch.setattr(canvas.Figure, "done", measured)
    figures_of(run, title=title)
    assert len([text for text in seen if "mean" in text or "difference" in text]) >= 3


def test_of_every_mark_in_the_relative_improvement_method_and_category_are_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The legend names each method with its own marker, and a category's marks keep away from its neighbours'."""
    kept: dict[str, canvas.Figure] = {}
    plain = canvas.Figure.done
    monkeypatch.setattr(
        canvas.Figure, "done", lambda self, *texts: kept.update({self.name: self}) or plain(self, *texts)
    )
    methods = ("vanilla", "doodl", "sgool", "best_of_n", "reno", "clip_guidance")
    pairs = fake_pairs([(f"prompt {k}", "abc"[k % 3]) for k in range(6)], (0,))
    figures_of(make_fake_run(tmp_path / "run", methods=methods, pairs=pairs).path)
    figure = kept["improvement-judge-clip-score"].figure
    (legend,), (axes,) = figure.legends, figure.axes
    assert [text.get_text() for text in legend.get_texts()] == list(methods[1:])
    marks = [line for line in axes.lines if line.get_marker() not in ("None", None, "")]
    markers = {line.get_label(): line.get_marker() for line in marks if line.get_label() in methods}
    assert len(set(markers.values())) == 5
    assert not {"s", "D"} <= set(markers.values())  # a square and the same square on its corner
    heights = sorted(float(line.get_ydata()[0]) for line in marks)
    groups = [[height for height in heights if round(height) == place] for place in (1, 2, 3)]
    assert [len(group) for group in groups] == [5, 5, 5]
    assert all(after[0] - before[-1] > 2 * (after[1] - after[0]) for before, after in pairwise(groups))
    low, high = axes.get_xlim()
    assert low < 0 < high
