"""What the report says that saliency maps show: what the detector of the run's configuration looks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from sgool.report import build_report
from sgool.report.load import load_runs
from sgool.report.saliency import UNKNOWN, Maps, about, maps_by_label, maps_of, together
from sgool.saliency.options import DETECTORS
from tests.fake_run import fake_config, fake_pairs, make_fake_run
from tests.report.reading import Page

TITLES = [
    ({"name": "spectral_residual"}, "image contrast (spectral residual)"),
    ({"name": "transalnet", "weights": "TranSalNet_Res.pth"}, "where people look (TranSalNet)"),
    (
        {"name": "transalnet", "weights": "emoji_world/saliency/transalnet.safetensors", "backbone": "densenet_small"},
        "where objects are (TranSalNet of the embedded world)",
    ),
    ({"name": "grad_cam", "query": None}, "where CLIP sees the prompt (Grad-CAM)"),
    ({"name": "grad_cam", "query": "a {noun}"}, "where CLIP sees “a {noun}” (Grad-CAM)"),
    ({"name": "grad_cam_pp"}, "where CLIP sees the prompt (Grad-CAM++)"),
    ({"name": "fixed", "boxes": [[0, 0, 1, 0.5]], "mask": None}, "fixed boxes"),
    ({"name": "fixed", "boxes": None, "mask": "mask.png"}, "a fixed mask"),
    ({"name": "center"}, "centre of the image"),
    ({"_target_": "mine.Looker"}, "saliency map (Looker)"),
    ("spectral_residual", "image contrast (spectral residual)"),
    (None, "saliency map"),
    ({}, "saliency map"),
]


def with_detector(detector: Any) -> dict[str, Any]:
    return fake_config(saliency={"detector": detector})


@pytest.mark.parametrize(("detector", "title"), TITLES)
def test_titles(detector: Any, title: str) -> None:
    assert maps_of(with_detector(detector)).title == title


def test_every_detector_has_one_and_only_transalnet_predicts_people() -> None:
    for name in DETECTORS.components:
        maps = maps_of(with_detector({"name": name}))
        assert maps != UNKNOWN, f"sgool/report/saliency.py does not say what the maps of {name} show"
        assert maps.eyes == (name == "transalnet") == ("people" in maps.shows)
        assert ("It is not where people look." in about(maps)[1]) != maps.eyes


def test_a_configuration_of_any_form() -> None:
    for config in ({}, {"saliency": None}, {"saliency": "x"}, {"saliency": {"detector": ["a"]}}):
        assert maps_of(config).shows == "saliency map"


def test_several_detectors_are_all_named() -> None:
    assert together([]) == UNKNOWN
    both = together([maps_of(with_detector({"name": name})) for name in ("center", "grad_cam", "center")])
    assert both == Maps("saliency map", "centre of the image or where CLIP sees the prompt (Grad-CAM)")


def test_runs_with_other_detectors(tmp_path: Path) -> None:
    """The same method in two runs has two labels; a run that was continued with another detector has both."""
    one = make_fake_run(tmp_path / "one", config=with_detector({"name": "center"}), pairs=fake_pairs()[:2])
    two = make_fake_run(tmp_path / "two", config=with_detector({"name": "grad_cam"}), pairs=fake_pairs()[:2])
    earlier = yaml.safe_dump(with_detector({"name": "fixed"}))
    (two.path / "config-12345678.yaml").write_text(earlier)
    found = {label: maps.title for label, maps in maps_by_label(load_runs([one.path, two.path])).items()}
    assert found["one/sgool"] == "centre of the image"
    assert found["two/sgool"] == "saliency map (where CLIP sees the prompt (Grad-CAM) or fixed boxes)"


@pytest.mark.parametrize(("detector", "title"), [TITLES[0], TITLES[1], TITLES[4]])
def test_the_page_and_the_picture_say_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, detector: Any, title: str
) -> None:
    written: list[str] = []
    monkeypatch.setattr("sgool.report.page.score_figures", lambda source: {})
    monkeypatch.setattr("sgool.report.page.curve_figures", lambda histories, looks: [])
    from matplotlib.figure import Figure

    plain = Figure.text
    monkeypatch.setattr(Figure, "text", lambda self, x, y, s, **k: written.append(s) or plain(self, x, y, s, **k))
    run = make_fake_run(tmp_path / "run", config=with_detector(detector), pairs=fake_pairs()[:3])
    page = Page(build_report([run.path]))
    shows, _, name = title.partition(" (")
    assert " ".join(written[-1].split()) == shows
    with Image.open(page.path.parent / "figures/examples.png") as picture:
        assert np.asarray(picture).ndim == 3
    assert f"{shows} {name.rstrip(')')}, sgool" in page.text
    assert page.data["maps"][2] == title
    assert f"The overlay shows: {shows}" in page.text
    assert ("people look" in page.text.replace("It is not where people look.", "")) == (shows == "where people look")
