"""Which photos a command means, and which text is whose."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from sgool.errors import ConfigError
from sgool.run.photos import Photo, find_photos, split_arguments


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three photos, a text and a folder below."""
    (tmp_path / "photos" / "more").mkdir(parents=True)
    for name in ("b.jpg", "a.PNG", "c d.tif", "more/e.png"):
        Image.new("RGB", (20, 20)).save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "notes.txt").write_text("no photo")
    (tmp_path / "photos" / ".hidden.png").write_text("")
    monkeypatch.chdir(tmp_path)
    return Path("photos")


def names(*given: str) -> list[str]:
    return [str(photo.path.relative_to("photos")) for photo in find_photos(given)[0]]


def test_files_folders_and_patterns_in_their_order_and_each_once(folder: Path) -> None:
    assert names("photos") == ["a.PNG", "b.jpg", "c d.tif"]
    assert names("photos/b.jpg", "photos", "photos/b.jpg") == ["b.jpg", "a.PNG", "c d.tif"]
    assert names("photos/*.jpg", "photos/**/e.*") == ["b.jpg", "more/e.png"]
    assert find_photos(["photos"])[1] == ["1 of 4 files in the folder 'photos' are no images"]
    assert find_photos(["photos/[bn]*"])[1] == ["1 of 2 files in the pattern 'photos/[bn]*' are no images"]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(folder: Path) -> None:
    Image.new("RGB", (20, 20)).save(folder / "x[1].png")
    assert names("photos/x[1].png") == ["x[1].png"]


def test_a_missing_file_is_left_to_whoever_opens_it(folder: Path) -> None:
    assert find_photos(["none.png"])[0] == [Photo(Path("none.png"))]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "expected a photo, a pattern or a folder, got none"),
        (["photos/*.gif"], "expected images in the pattern 'photos/.*gif', got none among its 0 files"),
        (["empty", "photos/x*"], "the folder 'empty'.*\n.*the pattern 'photos/x"),
    ],
)
def test_nothing_to_edit(folder: Path, given: list[str], words: str) -> None:
    Path("empty").mkdir()
    with pytest.raises(ConfigError, match=f"(?s){words}"):
        find_photos(given)


def test_arguments_are_photos_or_overrides(folder: Path) -> None:
    Path("a=b.png").write_text("")
    words = ["photos", "a=b.png", "objective=color", "+judges=x", "~objective.crops", "~/x.png", "none.png", "a.b=[1]"]
    assert split_arguments(words) == (
        ["photos", "a=b.png", "~/x.png", "none.png"],
        ["objective=color", "+judges=x", "~objective.crops", "a.b=[1]"],
    )


@pytest.mark.parametrize("column", ["image", "File_Name", "photo"])
def test_captions_of_photos(folder: Path, column: str) -> None:
    """By a path from the captions' folder, from the current one, or a bare name from elsewhere."""
    text = f'{column},text\nb.jpg,a boat\nphotos/c d.tif,"a car, red"\nmore/e.png,a house\n'
    (folder / "captions.csv").write_text(text)
    photos, notes = find_photos(["photos"], "photos/captions.csv")
    assert [(photo.path.name, photo.text) for photo in photos] == [
        ("a.PNG", ""),
        ("b.jpg", "a boat"),
        ("c d.tif", "a car, red"),
    ]
    assert notes[-1] == "1 of 3 rows of photos/captions.csv name no photo of this command"
    assert [photo.text for photo in find_photos([], "photos/captions.csv")[0]] == ["a boat", "a car, red", "a house"]
    Path("elsewhere.csv").write_text("image,text\nb.jpg,a ship\n")
    assert find_photos(["photos/b.jpg"], "elsewhere.csv")[0] == [Photo(Path("photos/b.jpg"), "a ship")]


def test_a_photo_may_have_several_captions(folder: Path) -> None:
    (folder / "captions.csv").write_text("image,text\nb.jpg,a boat\nb.jpg,a ship\n")
    assert [photo.text for photo in find_photos(["photos/b.jpg"], folder / "captions.csv")[0]] == ["a boat", "a ship"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "--captions: there is no file 'captions.csv'"),
        ("text\na boat\n", "expected a column of photos named image or file_name"),
        ("image,text\na.PNG,a boat\n,a car\n", "1 of 2 rows have none, the first is row 2"),
        (
            "image,text\na.PNG,a boat\nb.jpg,\n",
            "--captions: captions.csv, line 3: expected a text, .* --text",
        ),
        ("image,words\na.PNG,a boat\n", "expected a column named prompt or prompts or text or caption"),
    ],
)
def test_captions_that_cannot_be_used(folder: Path, content: str | None, words: str) -> None:
    if content is not None:
        Path("captions.csv").write_text(content)
    with pytest.raises(ConfigError, match=words):
        find_photos(["photos"], "captions.csv")


def test_missing_photos_of_captions_are_named_with_their_rows(folder: Path) -> None:
    """A photo of the command line, which no row names, is left to whoever opens it."""
    (folder / "captions.csv").write_text("image,text\nnone.png,a cat\nb.jpg,a boat\nno/x.png,a car\n")
    with pytest.raises(ConfigError) as caught:
        find_photos([], folder / "captions.csv")
    first, second = caught.value.problems
    assert "--captions: photos/captions.csv, row 1: expected an image file, but 'none.png' does not exist" in first
    assert "row 3: expected an image file, but 'no/x.png'" in second
    assert [photo.text for photo in find_photos(["photos/b.jpg"], folder / "captions.csv")[0]] == ["a boat"]


def test_rows_have_their_own_seeds_and_negative_prompts(folder: Path) -> None:
    text = "image,text,seed,negative_prompt\nb.jpg,a boat,5,fog\nb.jpg,a boat,,\n"
    (folder / "captions.csv").write_text(text)
    path = folder / "b.jpg"
    assert find_photos([path], folder / "captions.csv")[0] == [
        Photo(path, "a boat", 5, "fog"),
        Photo(path, "a boat"),
    ]
