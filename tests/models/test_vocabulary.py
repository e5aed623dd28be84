"""Words that the embedded model has never seen."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest

from experiments.emoji_world.captions import all_words, caption
from experiments.emoji_world.scenes import Scene, Thing
from experiments.emoji_world.words import BACKGROUNDS, LAYOUTS, NOUNS, TINTS
from sgool.config.paths import ASSETS
from sgool.models.vocabulary import known_words, note_on_words, unknown_words
from sgool.prompts import read_prompts


def test_the_list_is_that_of_the_captions() -> None:
    """Random captions of scenes of every kind have all words of the list, and no other."""
    rng = np.random.default_rng(0)
    seen: set[str] = set()
    for layout, noun, tint, background in product(LAYOUTS, NOUNS, TINTS, BACKGROUNDS):
        scene = Scene(layout, (Thing(noun, tint), Thing("cat"))[: 2 if "_" in layout else 1], background)
        seen.update(caption(scene, rng).text.split())
    assert sorted(seen) == all_words() == (ASSETS / "emoji_world" / "words.txt").read_text().split()


@pytest.mark.parametrize("name", ["demo", "heldout", "tune", "generic"])
def test_its_own_prompts_have_no_unknown_word(name: str) -> None:
    assert unknown_words("emoji_world", [row.prompt for row in read_prompts(f"emoji_world/{name}")]) == ([], 0)


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("an astronaut riding a horse", ["astronaut", "riding", "horse"]),
        ("A GREEN CAT, and two Blue stars!", []),
        ("3 cats", ["3"]),
        ("a photo of a cat's house", ["photo", "s"]),
        ("ein grünes Auto, 猫", ["ein", "grünes", "auto", "猫"]),
        ("", []),
    ],
)
def test_words_of_a_prompt(prompt: str, words: list[str]) -> None:
    assert unknown_words("emoji_world", [prompt]) == (words, bool(words))


def test_the_note_names_them_and_says_what_to_do() -> None:
    note = note_on_words("emoji_world", ["an astronaut riding a horse", "a green cat", "a horse", "a horse"])
    assert note.startswith("words that emoji_world has never seen: astronaut, riding, horse (in 2 of 3 prompts).")
    assert "It knows cat, panda" in note and note.endswith("models=sd14 (models.path=FOLDER for a copy on disk)")
    assert note_on_words("emoji_world", ["a green cat"]) == ""


def test_many_words_are_shortened() -> None:
    note = note_on_words("emoji_world", [" ".join(f"word{number}" for number in range(20))])
    assert "word11 and 8 more (in 1 of 1 prompts)" in note


def test_a_model_without_a_list_says_nothing(tmp_path: Path) -> None:
    """Such as every Stable Diffusion, from the hub or from a folder."""
    for path in ("CompVis/stable-diffusion-v1-4", str(tmp_path), ""):
        assert known_words(path) is None and note_on_words(path, ["an astronaut"]) == ""
    (tmp_path / "words.txt").write_text("a\ncat\n")
    assert note_on_words(str(tmp_path), ["a dog"]).startswith(f"words that {tmp_path} has never seen: dog (in 1 of 1")
