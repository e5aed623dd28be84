"""Prompt files of every format, and everything that can be wrong with them."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from sgool.config.paths import prompt_sets
from sgool.errors import ConfigError
from sgool.prompts import PromptRow, read_prompts


def _file(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def _problems(path: Path, **options: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_prompts(path, **options)
    return [problem.removeprefix(str(path)) for problem in caught.value.problems]


_SAME = [("a cat", "Animals"), ('a "red" car, parked', "Colors"), ("Bismarck-Schönhausen", "")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'Prompt,Category\n a cat ,Animals \n"a ""red"" car, parked",Colors\nBismarck-Schönhausen,\n'),
        (
            "a.csv",
            'category,PROMPTS\r\nAnimals,a cat\r\n\r\nColors,"a ""red"" car, parked"\r\n,Bismarck-Schönhausen\r\n',
        ),
        ("a.csv", '\ufeffprompts,phenomenon\na cat,Animals\n"a ""red"" car, parked",Colors\nBismarck-Schönhausen,'),
        ("a.TSV", 'text\tlabel\na cat\tAnimals\n"a ""red"" car, parked"\tColors\nBismarck-Schönhausen\t\n'),
        ("a.json", json.dumps([{"caption": p, "Category": c} for p, c in _SAME])),
        ("a.json", json.dumps({"prompts": [{"Prompt": f" {p} ", "label": c} for p, c in _SAME]}, ensure_ascii=False)),
        ("a.jsonl", "\n\n".join(json.dumps({"prompt": p, "category": c or None}) for p, c in _SAME) + "\n"),
        ("a.ndjson", "\ufeff" + "\r\n".join(json.dumps({"prompt": p, "category": c}) for p, c in _SAME)),
    ],
)
def test_all_formats_give_the_same_rows(tmp_path: Path, name: str, content: str) -> None:
    rows = read_prompts(_file(tmp_path, name, content))
    assert [(row.prompt, row.category, row.index) for row in rows] == [(p, c, i) for i, (p, c) in enumerate(_SAME)]
    assert all(row.metadata == {} for row in rows)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "\ufeffa cat\r\n\r\n  a dog, red\n"),
        ("a.json", '["a cat", "a dog, red"]'),
        ("a.jsonl", '"a cat"\n"a dog, red"'),
    ],
)
def test_prompts_alone(tmp_path: Path, name: str, content: str) -> None:
    assert read_prompts(_file(tmp_path, name, content)) == [PromptRow("a cat", 0), PromptRow("a dog, red", 1)]


def test_other_columns_become_metadata_and_scenes_are_parsed(tmp_path: Path) -> None:
    content = 'prompt,text,Scene,source\na cat,longer,"{""layout"": ""single"", ""objects"": [{}]}",x\na dog,,,\n'
    first, second = read_prompts(_file(tmp_path, "a.csv", content))
    assert first.prompt == "a cat"
    assert first.metadata == {"text": "longer", "Scene": {"layout": "single", "objects": [{}]}, "source": "x"}
    assert second.metadata == {}


@pytest.mark.parametrize("text", ["{x", "in the park", "12", "[1]", "{}", '{"n": 1}', '{"objects": []}'])
def test_a_scene_column_of_the_user_s_own_stays_text(tmp_path: Path, text: str) -> None:
    (row,) = read_prompts(_file(tmp_path, "a.tsv", 'prompt\tscene\na\t"' + text.replace('"', '""') + '"\n'))
    assert row.metadata == {"scene": text}


def test_json_keeps_the_types_of_metadata(tmp_path: Path) -> None:
    content = '{"prompt": "a", "label": 3, "scene": {"n": 1}, "score": 0.5}\n'
    (row,) = read_prompts(_file(tmp_path, "a.jsonl", content))
    assert (row.category, row.metadata) == ("3", {"scene": {"n": 1}, "score": 0.5})


def test_a_quoted_prompt_may_span_lines(tmp_path: Path) -> None:
    path = _file(tmp_path, "a.csv", 'prompt,x\n"two\nlines",\n" ",1\n')
    assert _problems(path) == [", line 4: empty prompt"]
    rows = read_prompts(_file(tmp_path, "b.csv", 'prompt\n"two\nlines"\nx\n'))
    assert [row.prompt for row in rows] == ["two\nlines", "x"]


@pytest.mark.parametrize(
    ("name", "content", "problems"),
    [
        ("a.csv", "prompt,category\n,Colors\na,b\n  ,x\n", [", line 2: empty prompt", ", line 4: empty prompt"]),
        (
            "a.csv",
            "name,kind\na,b\n",
            [", line 1: expected a column named prompt or prompts or text or caption, got name, kind"],
        ),
        ("a.csv", "prompt,Prompt\na,b\n", [", line 1: columns with the same name: prompt"]),
        ("a.csv", "prompt,category\na, b,c,d\n", [", line 2: 4 cells, but the header has 2; put quotes around commas"]),
        (
            "a.csv",
            "prompt,category,note\na,b,c\nd,e\nf\n",
            [
                ", line 3: 2 cells, but the header has 3; keep the commas of empty cells",
                ", line 4: 1 cell, but the header has 3; keep the commas of empty cells",
            ],
        ),
        ("a.csv", "category,prompt\na\nb,c\n", [", line 2: 1 cell, but the header has 2"]),
        ("a.tsv", "prompt\tcategory\na\n", [", line 2: 1 cell, but the header has 2; keep the tabs of empty cells"]),
        ("a.jsonl", '{"prompt": "a"}\n{"category": "b"}\n', [", line 2: expected a key named prompt"]),
        (
            "a.csv",
            "prompt,seed\na,1.5\nb,-1\nc,x\nd,9223372036854775808\n",
            [f", line {line}: seed: expected a whole number from 0 to 2^63 - 1" for line in (2, 3, 4, 5)],
        ),
        (
            "a.jsonl",
            '{"prompt": "a", "seed": true}\n{"prompt": "b", "seed": [0, 1]}\n',
            [", line 1: seed", ", line 2: seed"],
        ),
        (
            "a.json",
            '[{"prompt": "a", "negative_prompt": 3}, {"prompt": "b", "negative_prompt": "x\\u0001"}]',
            [
                ": item 1: negative prompt: expected text, got 3",
                ": item 2: negative prompt: the control character U+0001",
            ],
        ),
        ("a.json", '{"prompts": ["a"], "seed": 3, "name": "x"}', [": seed beside the list of prompts"]),
        ("a.csv", 'prompt\n"open\n', [", line 2: cannot be read as a table"]),
        ("a.csv", "prompt\n" + "x" * 200_000, [", line 2: cannot be read as a table"]),
        ("a.tsv", 'prompt\tx\n"open\n', [", line 2: cannot be read as a table"]),
        ("a.txt", "a\n" + "x" * 2001, [", line 2: 2001 characters, at most 2000 make a prompt: 'xxx"]),
        (
            "a.csv",
            "prompt,category\na\0b,x\na cat,y\x1by\n",
            [
                ", line 2: the control character U+0000 at position 2; is the file UTF-8?",
                ", line 3: category: the control",
            ],
        ),
        ("a.txt", b"a cat\ncaf\xc2\x82\n", [", line 2: the control character U+0082"]),
        ("a.json", r'["a \ud800"]', [": item 1: half of a surrogate pair U+D800 at position 3"]),
        ("a.json", "[" * 100_000, [": malformed JSON"]),
        ("a.txt", "a cat".encode("utf-16-le"), [", line 1: the control character U+0000"]),
        ("a.csv.gz", b"prompt\na\n", [": cannot be read (Not a gzipped file"]),
        ("a.csv.gz", gzip.compress(b"prompt\na\n", mtime=0)[:-4], [": cannot be read (Compressed file ended"]),
        ("a.parquet.gz", b"", [": expected a prompt file with one of the suffixes"]),
        ("a.csv", "", [": expected at least one prompt, found none"]),
        ("a.csv", "prompt\n", [": expected at least one prompt, found none"]),
        ("a.txt", "\n \n", [": expected at least one prompt, found none"]),
        ("a.json", "[]", [": expected at least one prompt, found none"]),
        ("a.json", '["a",\n}', [", line 2: malformed JSON"]),
        ("a.json", '{"items": ["a"]}', [": expected a JSON list of prompts"]),
        (
            "a.json",
            '["a", "", 3, {"name": "x"}]',
            [": item 2: empty", ": item 3: expected a prompt's text", ": item 4: expected a key"],
        ),
        (
            "a.jsonl",
            '{"prompt": "a"}\n{"prompt": }\n{"prompt": null}\n',
            [", line 2: malformed JSON", ", line 3: expected a prompt's"],
        ),
        (
            "a.txt",
            b"a cat\ncaf\xe9\nb\xff\n",
            [", line 2: expected UTF-8, got the byte 0xe9 at position 4", ", line 3: expected UTF-8"],
        ),
        ("a.csv", b"prompt,x\ncaf\xe9,\n \n,\n", [", line 2: expected UTF-8", ", line 4: empty prompt"]),
        ("a.txt", "a cat".encode("utf-16"), [": expected UTF-8, got UTF-16"]),
        ("a.xlsx", "x", [": expected a prompt file with one of the suffixes .csv"]),
        ("prompts", "x", [": expected a prompt file with one of the suffixes"]),
    ],
)
def test_every_problem_has_its_place(tmp_path: Path, name: str, content: str | bytes, problems: list[str]) -> None:
    found = _problems(_file(tmp_path, name, content))
    assert len(found) == len(problems), found
    assert all(got.startswith(expected) for got, expected in zip(found, problems, strict=True)), found


@pytest.mark.parametrize("name", ["a.csv.gz", "A.CSV.GZ"])
def test_text_may_be_packed(tmp_path: Path, name: str) -> None:
    assert read_prompts(_file(tmp_path, name, gzip.compress(b"prompt\na cat\n", mtime=0))) == [PromptRow("a cat", 0)]


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl"])
def test_line_ends_of_all_systems(tmp_path: Path, name: str, ending: str) -> None:
    lines = {"a.txt": ["a cat", "a dog"], "a.csv": ["prompt", "a cat", "a dog"], "a.jsonl": ['"a cat"', '"a dog"']}[
        name
    ]
    rows = read_prompts(_file(tmp_path, name, "\ufeff" + ending.join(lines) + ending))
    assert rows == [PromptRow("a cat", 0), PromptRow("a dog", 1)]


def test_a_tsv_whose_quotes_are_text(tmp_path: Path) -> None:
    content = 'Prompt\tCategory\n"Hi" on a sign\tSigns\nthe word "no"\t\n5" nails\tNails\n'
    rows = read_prompts(_file(tmp_path, "a.tsv", content))
    assert [row.prompt for row in rows] == ['"Hi" on a sign', 'the word "no"', '5" nails']
    assert [row.category for row in rows] == ["Signs", "", "Nails"]


_COLUMNS = "id,Text,Style ,prompt\n1,a cat,Oil,p1\n2,a dog,Ink,p2\n"


def test_columns_by_name(tmp_path: Path) -> None:
    path = _file(tmp_path, "a.csv", _COLUMNS)
    rows = read_prompts(path, prompt_column=" TEXT", category_column="style")
    assert [(row.prompt, row.category) for row in rows] == [("a cat", "Oil"), ("a dog", "Ink")]
    assert rows[0].metadata == {"id": "1", "prompt": "p1"}
    assert [row.prompt for row in read_prompts(path)] == ["p1", "p2"]
    lines = "".join(json.dumps(row) + "\n" for row in csv.DictReader(_COLUMNS.splitlines()))
    same = read_prompts(_file(tmp_path, "a.jsonl", lines), prompt_column="text", category_column="STYLE")
    assert same == rows


def test_wrong_names_list_the_columns_there_are(tmp_path: Path) -> None:
    prompt = "`data.prompt_column`: expected a column named titel, got id, Text, Style, prompt"
    category = "`data.category_column`: expected a column named kind, got id, Text, Style, prompt"
    table = _file(tmp_path, "a.csv", _COLUMNS)
    assert _problems(table, prompt_column="titel") == [f", line 1: {prompt}"]
    assert _problems(table, category_column="kind") == [f": {category}"]
    lines = "".join(json.dumps(row) + "\n" for row in csv.DictReader(_COLUMNS.replace("Style ", "Style").splitlines()))
    objects = _file(tmp_path, "a.jsonl", lines)
    assert _problems(objects, prompt_column="titel", category_column="kind") == [f": {category}", f": {prompt}"]
    (problem,) = _problems(_file(tmp_path, "a.txt", "a\nb\n"), prompt_column="titel", category_column="kind")
    assert problem == ": `data.prompt_column` and `data.category_column`: there are no columns, only prompts"


_TWICE = "prompt,category\na cat,X\na dog,X\n a cat ,X \na cat,Y\na cat,X\n"


def test_repeated_prompts_are_an_error(tmp_path: Path) -> None:
    hint = "'a cat' repeats line 2; data.duplicates=drop leaves repetitions out, data.duplicates=keep runs them"
    assert _problems(_file(tmp_path, "a.csv", _TWICE)) == [f", line 4: {hint}", f", line 6: {hint}"]
    assert _problems(_file(tmp_path, "a.json", '["a", "a"]'))[0].startswith(": item 2: 'a' repeats item 1;")


def test_repeated_prompts_may_stay_or_drop_out_and_no_index_changes(tmp_path: Path) -> None:
    path = _file(tmp_path, "a.csv", _TWICE)
    assert [row.index for row in read_prompts(path, duplicates="keep")] == [0, 1, 2, 3, 4]
    with pytest.warns(UserWarning, match="left out 2 repeated prompts: 'a cat', 'a cat'"):
        assert [(row.index, row.category) for row in read_prompts(path, duplicates="drop")] == [
            (0, "X"),
            (1, "X"),
            (3, "Y"),
        ]
    with pytest.raises(ConfigError, match=r"`data.duplicates`: expected error, keep, drop, got 'dorp'"):
        read_prompts(path, duplicates="dorp")


def test_a_flood_of_problems_is_cut(tmp_path: Path) -> None:
    problems = _problems(_file(tmp_path, "a.jsonl", "{\n" * 50))
    assert len(problems) == 21
    assert problems[-1] == ": and 30 more like these"


def test_a_missing_file_lists_the_built_in_sets(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither a file nor a built-in prompt set"):
        read_prompts(tmp_path / "none.csv")


@pytest.mark.parametrize("name", prompt_sets())
def test_built_in_sets_read_well(name: str) -> None:
    rows = read_prompts(name)
    assert len({row.prompt for row in rows}) == len(rows)
    # "Anything" is for images that a reference decides: there is no scene to find.
    assert all(
        row.category and isinstance(row.metadata.get("scene"), dict) for row in rows if row.category != "Anything"
    )


def test_a_parquet_row_without_a_prompt_is_named(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    import pandas as pd

    path = tmp_path / "a.parquet"
    pd.DataFrame({"prompt": ["a", None], "seed": [1, 2]}).to_parquet(path)
    assert _problems(path) == [": item 2: expected a prompt's text, got None"]
    pd.DataFrame({"prompt": ["a", "b", "c"], "seed": [1, None, 3]}).to_parquet(path)  # pandas makes 1.0 of 1
    assert [row.seed for row in read_prompts(path)] == [1, None, 3]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "prompt,Seed,Negative_Prompt,note\na,7,blurry,x\nb,,,\nc,0,,\n"),
        (
            "a.jsonl",
            '{"prompt": "a", "seed": 7, "negative_prompt": " blurry ", "note": "x"}\n'
            '{"prompt": "b", "seed": null, "negative_prompt": ""}\n{"prompt": "c", "seed": "0"}\n',
        ),
    ],
)
def test_a_row_has_a_seed_and_a_negative_prompt_of_its_own(tmp_path: Path, name: str, content: str) -> None:
    rows = read_prompts(_file(tmp_path, name, content))
    assert [(row.prompt, row.seed, row.negative_prompt) for row in rows] == [
        ("a", 7, "blurry"),
        ("b", None, None),
        ("c", 0, None),
    ]
    assert [dict(row.metadata) for row in rows] == [{"note": "x"}, {}, {}]
    none = read_prompts(_file(tmp_path, name, content), seed_column="", negative_prompt_column="")
    assert all(row.seed is None and row.negative_prompt is None for row in none)
    assert {key.lower() for key in none[0].metadata} == {"seed", "negative_prompt", "note"}


def test_the_columns_of_seeds_and_negative_prompts_may_be_named(tmp_path: Path) -> None:
    path = _file(tmp_path, "a.csv", "prompt,number,without\na,3,blur\n")
    (row,) = read_prompts(path, seed_column="Number", negative_prompt_column="without")
    assert (row.seed, row.negative_prompt, row.metadata) == (3, "blur", {})
    assert _problems(path, seed_column="no", negative_prompt_column="not") == [
        ": `data.seed_column`: expected a column named no, got prompt, number, without",
        ": `data.negative_prompt_column`: expected a column named not, got prompt, number, without",
    ]


def test_one_prompt_with_several_seeds_of_its_own_is_no_repetition(tmp_path: Path) -> None:
    path = _file(tmp_path, "a.csv", "prompt,seed,negative_prompt\na,0,\na,1,\na,1,x\n")
    assert [(row.seed, row.negative_prompt) for row in read_prompts(path)] == [(0, None), (1, None), (1, "x")]
    (problem,) = _problems(_file(tmp_path, "b.csv", "prompt,seed\na,0\na,0\n"))
    assert "repeats line 2" in problem


def test_columns_that_look_like_settings_and_are_not_used_are_named(tmp_path: Path) -> None:
    path = _file(tmp_path, "a.csv", "prompt,seed,guidance_scale,Steps,note\na,0,9,20,x\n")
    with pytest.warns(UserWarning) as caught:
        read_prompts(path)
    (warning,) = caught
    assert str(warning.message) == (
        f"{path}: columns that are not used: guidance_scale (`sampler.guidance_scale` counts for all prompts), Steps "
        "(`sampler.num_inference_steps` counts for all prompts)"
    )


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_the_header_says_what_separates_the_cells(tmp_path: Path, suffix: str, separator: str) -> None:
    lines = ["id{}Prompt{}category", '1{}"a cat{} asleep"{}x', "2{}two dogs. big{}y"]
    text = "\n".join(line.replace("{}", separator) for line in lines)
    (tmp_path / f"p{suffix}").write_text(text, encoding="utf-8")
    rows = read_prompts(tmp_path / f"p{suffix}")
    assert [(row.prompt, row.category) for row in rows] == [(f"a cat{separator} asleep", "x"), ("two dogs. big", "y")]


def test_semicolons_in_the_prompts_of_a_table_with_one_column(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("prompt\na cat; a dog\n", encoding="utf-8")
    assert [row.prompt for row in read_prompts(tmp_path / "p.csv")] == ["a cat; a dog"]


def test_prompts_given_as_text() -> None:
    rows = read_prompts("text:a green cat\n\n two red stars, big \n")
    assert [(row.prompt, row.index, row.category) for row in rows] == [
        ("a green cat", 0, ""),
        ("two red stars, big", 1, ""),
    ]
    with pytest.raises(ConfigError, match=r"`data.prompts`: expected at least one prompt, found none"):
        read_prompts("text: ")
    with pytest.raises(ConfigError, match=r"`data.prompts`, line 2: 'a' repeats line 1"):
        read_prompts("text:a\na")
