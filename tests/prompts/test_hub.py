"""Data sets of the `datasets` library: real folders, a real cache, and a hub that is not there."""

from __future__ import annotations

import errno
import http.server
import shutil
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pandas as pd
import pytest
from PIL import Image

from sgool.errors import ConfigError
from sgool.prompts import PromptRow, hub, load_pairs, read_prompts

_ROWS = {"Prompts": ["a cat ", "Käse, grün"], "Category": ["X", "Y "], "n": [1, 2]}
_READ = [PromptRow("a cat", 0, "X"), PromptRow("Käse, grün", 1, "Y")]
_COMMIT, _OTHER = "a" * 40, "b" * 40


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, and no hub."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    return folder


@pytest.fixture
def cached(cache: Path, tmp_path: Path) -> str:
    """A data set that lies in the cache as one from the hub does: OWNER___NAME/SUBSET/VERSION/COMMIT."""
    (tmp_path / "drawn").mkdir()
    pd.DataFrame(_ROWS).to_csv(tmp_path / "drawn" / "a.csv", index=False)
    loaded = datasets.load_dataset(str(tmp_path / "drawn"))
    made = Path(loaded["train"].cache_files[0]["filename"]).parent
    shutil.copytree(made, cache / "owner___drawn" / "default" / "0.0.0" / _COMMIT)
    shutil.rmtree(tmp_path / "drawn")
    return "hub:owner/drawn"


def _problem(source: str | Path, **options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        read_prompts(source, **options)
    (problem,) = caught.value.problems
    assert "\n" not in problem
    return problem


@pytest.mark.parametrize("prefix", ["", "hub:"])
def test_a_folder_of_save_to_disk(tmp_path: Path, prefix: str) -> None:
    datasets.Dataset.from_dict(_ROWS).save_to_disk(tmp_path / "saved")
    rows = read_prompts(f"{prefix}{tmp_path / 'saved'}")
    assert rows == _READ
    assert rows[1].metadata == {"n": 2}
    # Saved without the name of its split: there is nothing to choose from.
    assert read_prompts(tmp_path / "saved", split="test") == _READ
    assert load_pairs(f"{prefix}{tmp_path / 'saved'}")[0].dataset == "saved"


def test_splits(tmp_path: Path) -> None:
    one, two = datasets.Dataset.from_dict(_ROWS), datasets.Dataset.from_dict({"text": ["b"]})
    datasets.DatasetDict({"train": one, "test": two}).save_to_disk(tmp_path / "both")
    assert read_prompts(tmp_path / "both", split="test") == [PromptRow("b", 0)]
    words = f"`data.split`: expected a split of {tmp_path / 'both'}, which has train, test; got"
    assert _problem(tmp_path / "both") == f"{words} null"
    assert _problem(tmp_path / "both", split="dev") == f"{words} 'dev'"
    datasets.DatasetDict({"train": one}).save_to_disk(tmp_path / "one")
    assert read_prompts(tmp_path / "one") == _READ
    assert _problem(tmp_path / "one", split="test").endswith("which has train; got 'test'")


@pytest.mark.parametrize("form", ["csv", "parquet", "jsonl"])
def test_a_folder_of_files(tmp_path: Path, form: str) -> None:
    for split in ("train", "test"):
        frame = pd.DataFrame({**_ROWS, "n": [split, split]})
        path = tmp_path / f"{split}.{form}"
        if form == "csv":
            frame.to_csv(path, index=False)
        elif form == "parquet":
            frame.to_parquet(path)
        else:
            frame.to_json(path, orient="records", lines=True)
    rows = read_prompts(tmp_path, split="test")
    assert rows == _READ
    assert rows[0].metadata == {"n": "test"}


def test_subsets_of_a_folder(tmp_path: Path) -> None:
    for name in ("short", "long"):
        (tmp_path / f"{name}.csv").write_text(f"prompt\na {name} cat\n", encoding="utf-8")
    configs = "".join(f"- config_name: {name}\n  data_files: {name}.csv\n" for name in ("short", "long"))
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configs}---\n", encoding="utf-8")
    assert read_prompts(tmp_path, subset="long") == [PromptRow("a long cat", 0)]
    assert "short" in _problem(tmp_path) and "long" in _problem(tmp_path)
    assert "short" in _problem(tmp_path, subset="middle")


def test_classes_are_read_by_name_and_images_not_at_all(tmp_path: Path) -> None:
    features = datasets.Features(
        {
            "caption": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["Colors", "Text "]),
            "image": datasets.Image(),
            "boxes": datasets.List(datasets.Value("int32")),
        }
    )
    columns = {
        "caption": ["a", "b"],
        "label": [1, None],
        "image": [Image.new("RGB", (2, 2))] * 2,
        "boxes": [[1, 2], []],
    }
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(tmp_path / "saved")
    rows = read_prompts(tmp_path / "saved")
    assert rows == [PromptRow("a", 0, "Text"), PromptRow("b", 1, "")]
    assert rows[0].metadata == {"boxes": [1, 2]}


def test_problems_of_the_rows_and_columns(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"prompt": ["a", "", "a"]}).save_to_disk(tmp_path / "saved")
    with pytest.raises(ConfigError) as caught:
        read_prompts(tmp_path / "saved")
    assert [problem.partition("; ")[0] for problem in caught.value.problems] == [
        f"{tmp_path / 'saved'}: item 2: empty prompt",
        f"{tmp_path / 'saved'}: item 3: 'a' repeats item 1",
    ]
    assert _problem(tmp_path / "saved", prompt_column="x").endswith("expected a column named x, got prompt")


def test_folders_that_are_no_data_set(tmp_path: Path) -> None:
    assert "cannot be read as a data set" in _problem(tmp_path)
    datasets.Dataset.from_dict(_ROWS).save_to_disk(tmp_path / "saved")
    for file in (tmp_path / "saved").glob("*.arrow"):
        file.write_bytes(file.read_bytes()[:100])
    assert "cannot be read as a data set" in _problem(tmp_path / "saved")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.parquet").write_bytes(b"PAR1")
    problem = _problem(tmp_path / "broken")
    assert "cannot be read as a data set" in problem and "Parquet" in problem


def test_a_cached_data_set_is_read_without_a_network(cached: str) -> None:
    assert read_prompts(cached) == _READ
    assert read_prompts(cached, split="train", subset="default", revision=_COMMIT) == _READ
    assert load_pairs(cached, name=None)[0].pair_id.startswith("drawn-00000-")
    assert _problem(cached, split="test").endswith("expected a split of hub:owner/drawn, which has train; got 'test'")
    assert "other" in _problem(cached, subset="other")
    assert _problem(cached, revision=_OTHER) == (
        f"`data.revision`: expected {_OTHER} of owner/drawn, but the cache has {_COMMIT}"
    )


def test_without_a_network_an_unknown_set_is_refused_at_once(cache: Path) -> None:
    problem = _problem("hub:owner/other")
    assert problem.startswith(
        f"`data.prompts`: hub:owner/other is not in the cache {cache}, and the hub is out of reach"
    )
    assert "(HF_HUB_OFFLINE is set)" in problem and "data.prompts=PATH" in problem


@pytest.mark.parametrize("source", ["hub:", "hub:a/b/c", "hub:/nowhere/at/all", "hub:a b", "hub:../x"])
def test_what_is_no_id(source: str) -> None:
    assert _problem(source).startswith("`data.prompts`: expected hub:OWNER/NAME or hub:FOLDER, got")


def _hub_at(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(hub, "_PATIENCE", 0.3)


@pytest.mark.parametrize(
    ("listening", "reason"), [(False, f"[Errno {errno.ECONNREFUSED}] Connection refused"), (True, "timed out")]
)
def test_a_hub_out_of_reach_never_keeps_us_waiting(
    cached: str, monkeypatch: pytest.MonkeyPatch, listening: bool, reason: str
) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if listening:
            server.listen()  # takes connections and never answers
        _hub_at(server.getsockname()[1], monkeypatch)
        assert f"the hub is out of reach ({reason})" in _problem("hub:owner/other")
        assert read_prompts(cached) == _READ
    assert datasets.config.HF_HUB_OFFLINE is False


class _KnowsNothing(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def empty_hub() -> Iterator[int]:
    """The port of a server that has no data set."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _KnowsNothing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_an_id_that_the_hub_does_not_know(empty_hub: int, monkeypatch: pytest.MonkeyPatch) -> None:
    _hub_at(empty_hub, monkeypatch)
    problem = _problem("hub:owner/other")
    # datasets 4.0 says the second, where it did not ask the hub itself.
    known = "(Dataset 'owner/other' doesn't exist", "(Couldn't reach 'owner/other' on the Hub"
    assert problem.startswith(tuple(f"`data.prompts`: hub:owner/other cannot be loaded {text}" for text in known))


def test_without_the_library_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert _problem("hub:owner/drawn").endswith("data sets need the datasets library: pip install 'sgool[hub]'")
