"""Where shipped files are found."""

from __future__ import annotations

from pathlib import Path

import pytest

from sgool.config.paths import asset_path, config_folder, prompt_file, prompt_sets
from sgool.errors import ConfigError


@pytest.fixture
def assets(tmp_path: Path) -> Path:
    """A folder of assets with two prompt sets."""
    folder = tmp_path / "assets" / "emoji_world" / "prompts"
    folder.mkdir(parents=True)
    for name in ("tune", "demo"):
        (folder / f"{name}.csv").write_text("prompt\na cat\n", encoding="utf-8")
    return tmp_path / "assets"


def test_the_shipped_configuration_is_found() -> None:
    assert (config_folder() / "config.yaml").is_file()


def test_built_in_sets_go_by_world_and_name(assets: Path) -> None:
    assert list(prompt_sets(assets)) == ["emoji_world/demo", "emoji_world/tune"]
    assert prompt_file("emoji_world/demo", assets) == assets / "emoji_world" / "prompts" / "demo.csv"


@pytest.mark.parametrize("name", ["emoji_world/guide", "emoji_world_turbo", "emoji_world_turbo/unet"])
def test_every_embedded_model_goes_by_its_name(
    name: str, assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert asset_path(name, assets) == name  # it is not there
    (assets / name).mkdir(parents=True)
    assert asset_path(name, assets) == str(assets / name)
    (tmp_path / name).mkdir(parents=True)  # a folder of the user's own wins
    assert asset_path(name, assets) == name


@pytest.mark.parametrize("path", ["", ".", "..", "/", "other/folder", "runs/emoji_world"])
def test_other_paths_stay_as_they_are(path: str, assets: Path) -> None:
    assert asset_path(path, assets) == path


def test_an_own_file_wins(assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "emoji_world" / "demo"
    own.parent.mkdir()
    own.write_text("mine", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert prompt_file("emoji_world/demo", assets).read_text(encoding="utf-8") == "mine"


def test_the_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.txt").write_text("a cat", encoding="utf-8")
    assert prompt_file("~/mine.txt") == tmp_path / "mine.txt"


def test_neither_lists_what_there_is(assets: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"got 'emoji_world/dem', .* Built-in sets: emoji_world/demo, emoji_world/tune"
    ):
        prompt_file("emoji_world/dem", assets)
    with pytest.raises(ConfigError, match="which is a folder"):
        prompt_file(assets, assets)
    with pytest.raises(ConfigError, match="none installed"):
        prompt_file("x.csv", assets / "nowhere")
