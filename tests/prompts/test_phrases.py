"""The phrases of prompts: by the rule, from a column, and by spaCy."""

from __future__ import annotations

import builtins
import csv
import json
from pathlib import Path
from typing import Any

import pytest

from sgool.config.paths import prompt_file
from sgool.errors import ConfigError
from sgool.prompts import load_data, load_pairs, read_prompts
from sgool.prompts.noun_chunks import chunk_phrases
from sgool.prompts.phrase_cells import read_phrases
from sgool.prompts.phrases import phrases_of, split_phrases
from sgool.results import RunFolder
from sgool.types import PromptSeed


@pytest.mark.parametrize(
    ("prompt", "phrases"),
    [
        # One phrase, with and without a colour, and plurals with their counts.
        ("a green cat", ("a green cat",)),
        ("elephants", ("elephants",)),
        ("two red stars", ("two red stars",)),
        ("3 cats and 2 dogs", ("3 cats", "2 dogs")),
        # Openings, and what the picture is called.
        ("there are two red cars on a black background", ("two red cars",)),
        ("here is a tree", ("a tree",)),
        ("A photo of the Moon", ("the Moon",)),
        ("a close up of a red panda", ("a red panda",)),
        ("Close-up of a hand", ("a hand",)),
        ("an old oil painting of an orange fox", ("an orange fox",)),
        # Relations, of one word and of several.
        ("a cat and a dog", ("a cat", "a dog")),
        ("three green stars to the left of a blue umbrella", ("three green stars", "a blue umbrella")),
        ("a drawing of a tree on top of a car", ("a tree", "a car")),
        ("a purple fish left of a green car on a brown background", ("a purple fish", "a green car")),
        ("a bowl of fruit in front of the window", ("a bowl of fruit", "the window")),
        ("a star on the right-hand side of a heart", ("a star", "a heart")),
        ("a panda underneath an umbrella; a house, next to it", ("a panda", "an umbrella", "a house")),
        # Grounds and places are no phrases.
        ("a cat in the middle", ("a cat",)),
        ("a dog in the foreground, a house in the background", ("a dog", "a house")),
        # What is denied.
        ("a table with no chairs", ("a table",)),
        ("a man without a hat or shoes and a red dog", ("a man", "a red dog")),
        ("The cat doesn't wear a hat, but a tie", ("The cat", "a tie")),
        ("a cat, not in a box", ("a cat",)),
        # Colours, and the verb between two things.
        ("a black and white cat next to a red, round ball", ("a black and white cat", "a red, round ball")),
        ("an astronaut riding a horse on the moon", ("an astronaut", "a horse", "the moon")),
        ("a red building beside a ring", ("a red building", "a ring")),
        ("a group of three dogs", ("a group of three dogs",)),
        ("a U.S. flag costs 1,000.5 dollars", ("a U.S. flag costs 1,000.5 dollars",)),
        ("a photo of Dr. Smith and a dog. A cat.", ("Dr. Smith", "a dog", "A cat")),
        ("the U.S. Capitol, Mrs. Brown, J. Doe", ("the U.S. Capitol", "Mrs. Brown", "J. Doe")),
        ("(a red cat:1.3), [a dog]", ("a red cat", "a dog")),
        ("a cat and another cat and a cat", ("a cat", "another cat", "a cat")),
        # Verbs alone name nothing, in the middle or at an end.
        ("A man is riding a horse", ("A man", "a horse")),
        ("a cat sitting and holding a fish, wearing two hats", ("a cat sitting", "a fish", "two hats")),
        ("a boy has been eating an apple", ("a boy", "an apple")),
        ("Washington is wearing boots", ("Washington", "boots")),
        ("Riding a bike", ("a bike",)),
        ("a dog, running", ("a dog",)),
        ("a ring and string beside a king", ("a ring", "string", "a king")),
        ("king with crown", ("king", "crown")),
        ('a sign that says "Hello World"', ("a sign", "Hello World")),
        # Words in -ing that are no verbs: after "there are", in front of a thing, names, and nouns.
        (
            "There are running horses, building blocks and wedding rings",
            ("running horses", "building blocks", "wedding rings"),
        ),
        ("a cake with icing in Beijing", ("a cake", "icing", "Beijing")),
        # What is said of a thing stays with it.
        ("The cat is red and the dog is black and white.", ("The cat is red", "the dog is black and white")),
        ("The cat is black and dogs are white", ("The cat is black", "dogs are white")),
        (
            "a cat that is happy, on a house which is made of wood",
            ("a cat that is happy", "a house which is made of wood"),
        ),
        ("The sky is not blue, the sun is on a hill", ("The sky", "the sun", "a hill")),
        ("there are cats that are a riddle", ("cats", "a riddle")),
        ("the flag is red, white and blue", ("the flag is red, white and blue",)),
        ("the sky is blue and white clouds float", ("the sky is blue", "white clouds float")),
        # Lists of what is denied, and where the denial ends.
        ("no glasses, red hair, green or blue eyes", ("red hair", "green or blue eyes")),
        ("a park with no cats, dogs or birds", ("a park",)),
        ("a street without people, cars, nor text and a bus", ("a street", "a bus")),
        ("no people, a red house or a blue barn", ("a red house", "a blue barn")),
        ("no people, red houses", ("red houses",)),
        ("a cat with no tail holding a fish", ("a cat", "a fish")),
        ("a cake that cannot be eaten", ("a cake",)),
        # Pronouns, and typographic apostrophes.
        ("a woman and she is holding a cat beside him", ("a woman", "a cat")),
        ("two dogs near each other", ("two dogs",)),
        ("It’s a red dog, there’s a child’s toy", ("a red dog", "a child’s toy")),
        # Nothing else is left: the whole prompt.
        ("Surfing", ("Surfing",)),
        ("", ("",)),
        ("no cats", ("no cats",)),
        ("a picture  on a black background", ("a picture on a black background",)),
        ("above", ("above",)),
        ("...", ("...",)),
        # Other languages are cut at commas alone.
        ("eine rote Katze, ein Hund", ("eine rote Katze", "ein Hund")),
        ("一只红猫，一条狗。", ("一只红猫", "一条狗")),
    ],
)
def test_the_rule(prompt: str, phrases: tuple[str, ...]) -> None:
    assert split_phrases(prompt) == phrases


@pytest.mark.parametrize("name", ["demo", "heldout", "tune"])
def test_the_rule_finds_the_objects_of_the_embedded_worlds_scenes(name: str) -> None:
    with prompt_file(f"emoji_world/{name}").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        objects = json.loads(row["scene"])["objects"]
        found = split_phrases(row["prompt"])
        assert len(found) == len(objects), row["prompt"]
        for thing in objects:
            # "strawberries" and "butterflies" begin as the noun does, but for its last letter.
            named = [phrase for phrase in found if thing["noun"][:-1] in phrase and thing.get("tint", "") in phrase]
            assert named, (row["prompt"], thing)


def test_a_pairs_own_phrases_come_before_the_rule() -> None:
    assert phrases_of(PromptSeed("a cat and a dog")) == ("a cat", "a dog")
    assert phrases_of(PromptSeed("a cat and a dog", phrases=("a pet",))) == ("a pet",)
    assert PromptSeed("a cat", phrases=("a pet",)).pair_id == PromptSeed("a cat").pair_id
    with pytest.raises(TypeError, match=r"`phrases`: expected a tuple of texts, got the text 'a pet'; write \("):
        PromptSeed("a cat", phrases="a pet")  # type: ignore[arg-type]


def write(folder: Path, name: str, content: str) -> Path:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "prompt,Phrases,note\na cat and a dog, cat |a dog,x\nb,,\nc,one;two,\n"),
        ("a.csv", "prompt;Phrases;note\na cat and a dog;cat|a dog;x\nb;;\nc;one|two;\n"),
        (
            "a.jsonl",
            '{"prompt": "a cat and a dog", "phrases": ["cat", " a dog"], "note": "x"}\n'
            '{"prompt": "b", "phrases": null}\n{"prompt": "c", "phrases": "one;two"}\n',
        ),
    ],
)
def test_the_column(name: str, content: str, tmp_path: Path) -> None:
    path = write(tmp_path, name, content)
    rows = read_prompts(path)
    assert [row.phrases for row in rows] == [("cat", "a dog"), None, ("one", "two")]
    assert [dict(row.metadata) for row in rows] == [{"note": "x"}, {}, {}]
    pairs = load_pairs(path, seeds=2)
    assert [pair.phrases for pair in pairs[:3]] == [("cat", "a dog"), ("cat", "a dog"), None]
    assert [row.phrases for row in read_prompts(path, phrases_column="")] == [None] * 3


def test_a_column_of_lists_in_parquet(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"prompt": ["a", "b"], "phrases": [["x", "y"], None]}), tmp_path / "a.parquet")
    assert [row.phrases for row in read_prompts(tmp_path / "a.parquet")] == [("x", "y"), None]


def test_another_column(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "prompt,things\na cat,cat|ear\n")
    (row,) = read_prompts(path, phrases_column="Things")
    assert row.phrases == ("cat", "ear")
    with pytest.raises(ConfigError, match=r"`data\.phrases_column`: expected a column named nouns, got prompt, things"):
        read_prompts(path, phrases_column="nouns")


def test_all_bad_cells_are_reported_together(tmp_path: Path) -> None:
    entries = [["a", 3], ["a", " "], [], 7, "a||b", "a\x07"]
    lines = [json.dumps({"prompt": f"p{number}", "phrases": entry}) for number, entry in enumerate(entries)]
    path = write(tmp_path, "a.jsonl", "\n".join(lines))
    with pytest.raises(ConfigError) as caught:
        read_prompts(path)
    assert [problem.removeprefix(f"{path}, ") for problem in caught.value.problems] == [
        "line 1: phrases: number 2 is 3, expected a text",
        "line 2: phrases: number 2 is empty; is there a | or ; too many?",
        "line 3: phrases: expected at least one phrase, got an empty list; leave them out where a rule shall count",
        "line 4: phrases: expected a list of texts, or a text with | or ; between phrases, got 7",
        "line 5: phrases: number 2 is empty; is there a | or ; too many?",
        "line 6: phrases: number 1: the control character U+0007 at position 2; is the file UTF-8?",
    ]


@pytest.mark.parametrize("value", [None, "", "  ", float("nan")])
def test_an_empty_cell(value: Any) -> None:
    assert read_phrases(value) == (None, [])


def test_the_run_folder_says_the_phrases_that_no_rule_has_found(tmp_path: Path) -> None:
    data = load_data(write(tmp_path, "a.csv", "prompt,phrases,seed\na,x|y,\nb,,\nc,z,3\n"), seeds=2)
    folder = RunFolder(tmp_path / "run")
    folder.set_dataset(data.ids)
    assert folder.dataset() == data.ids
    known = json.loads((tmp_path / "run/dataset.json").read_text())["phrases"]
    assert sorted(known.values()) == [["x", "y"], ["z"]] and all(name.startswith("a-0000") for name in known)
    folder.set_dataset(load_data(write(tmp_path, "b.csv", "prompt\na\n")).ids)
    assert "phrases" not in json.loads((tmp_path / "run/dataset.json").read_text())


def test_words_that_are_no_way_to_find_phrases(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"`data\.phrases`: expected rule, or spacy: and a pipeline of spaCy, got 'nltk'"
    ):
        load_pairs("text:a cat", phrases="nltk")


def test_without_spacy_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    known = builtins.__import__

    def without_spacy(name: str, *more: Any) -> Any:
        if name.partition(".")[0] == "spacy":
            raise ImportError("No module named 'spacy'")
        return known(name, *more)

    monkeypatch.setattr(builtins, "__import__", without_spacy)
    with pytest.raises(ConfigError, match=r"needs spaCy: pip install 'sgool\[phrases\]'; data.phrases=rule needs none"):
        load_pairs("text:a cat", phrases="spacy:en_core_web_sm")
    assert [pair.phrases for pair in load_pairs("text:a cat")] == [None]  # the rule needs none


WORDS = {
    "DET": ["a", "the", "no"],
    "ADJ": ["red", "black"],
    "PRON": ["it"],
    "ADP": ["on", "of", "without"],
    "NOUN": ["cat", "dog", "picture", "background", "hat"],
}


def word_grammar(doc: Any) -> Any:
    """A parser for tests: articles and adjectives belong to the next noun, a noun to the preposition before it."""
    kinds = {word: part for part, words in WORDS.items() for word in words}
    for token in doc:
        token.pos_ = kinds.get(token.lower_, "X")
        token.dep_ = {"NOUN": "pobj", "PRON": "nsubj", "ADP": "prep"}.get(token.pos_, "amod")
    for token in doc:
        if token.pos_ in ("DET", "ADJ"):
            token.head = next(other for other in doc[token.i :] if other.pos_ == "NOUN")
        before = next((other for other in reversed(list(doc[: token.i])) if other.pos_ in ("ADP", "NOUN")), None)
        if before is not None and {token.pos_, before.pos_} == {"NOUN", "ADP"}:
            token.head = before
    return doc


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline of spaCy on disk with a parser of a dozen words: a trained one is not fetched for tests."""
    spacy = pytest.importorskip("spacy", reason="spaCy is not installed: pip install 'sgool[phrases]'")
    spacy.language.Language.component("word_grammar", func=word_grammar)
    nlp = spacy.blank("en")
    nlp.add_pipe("word_grammar")
    folder = tmp_path_factory.mktemp("spacy") / "words"
    nlp.to_disk(folder)
    return folder


def test_noun_chunks(pipeline: Path, tmp_path: Path) -> None:
    pairs = load_pairs(
        write(tmp_path, "a.csv", "prompt,phrases\na picture of a red cat on a black background,\nit,\na dog,pet\n"),
        phrases=f"spacy:{pipeline}",
    )
    assert [pair.phrases for pair in pairs] == [("a red cat",), ("it",), ("pet",)]
    assert chunk_phrases(["a cat without a hat", "no dog", ""], str(pipeline)) == [("a cat",), ("no dog",), ("",)]


def test_a_pipeline_that_is_missing_or_has_no_parser(tmp_path: Path) -> None:
    spacy = pytest.importorskip("spacy", reason="spaCy is not installed: pip install 'sgool[phrases]'")
    with pytest.raises(ConfigError, match=r"spacy:en_none cannot be loaded .*`python -m spacy download en_none`"):
        chunk_phrases(["a cat"], "en_none")
    spacy.blank("en").to_disk(tmp_path / "blank")
    with pytest.raises(ConfigError, match="finds no noun chunks: expected a pipeline with a parser"):
        chunk_phrases(["a cat"], str(tmp_path / "blank"))


def test_a_list_in_a_tables_cell() -> None:
    assert read_phrases('["a cat", " a dog "]') == (("a cat", "a dog"), [])
    assert read_phrases("[one] | two") == (("[one]", "two"), [])
    assert read_phrases("[V] dog; [W]") == (("[V] dog", "[W]"), [])
    assert read_phrases("[]")[0] is None
    found, problems = read_phrases("['a cat', 'a dog']")
    assert found is None and problems == [
        """expected a list in JSON, such as ["a cat", "a dog"], got "['a cat', 'a dog']\""""
    ]
    assert read_phrases('["a cat", 3]') == (None, ["number 2 is 3, expected a text"])
