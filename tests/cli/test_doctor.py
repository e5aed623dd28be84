"""What is said about the embedded models."""

from __future__ import annotations

from pathlib import Path

from sgool.cli.doctor import asset_facts, prompt_facts


def test_missing_models_are_said_to_be_missing(tmp_path: Path) -> None:
    assert [size for _, _, size in asset_facts(tmp_path)] == ["missing"] * 5
    assert prompt_facts(tmp_path) == []


def test_sizes_count_each_file_once(tmp_path: Path) -> None:
    world = tmp_path / "emoji_world"
    for file, mebibytes in {"model_index.json": 0, "unet/w": 2, "guide/w": 1, "guide/open_clip_config.json": 0}.items():
        (world / file).parent.mkdir(parents=True, exist_ok=True)
        (world / file).write_bytes(bytes(mebibytes * 2**20))
    (world / "prompts").mkdir()
    (world / "prompts" / "some.csv").write_text("prompt\na\nb\n", encoding="utf-8")
    sizes = {name: size for name, _, size in asset_facts(tmp_path)}
    assert sizes["emoji_world"] == "2.0 MiB" and sizes["emoji_world/guide"] == "1.0 MiB"
    assert prompt_facts(tmp_path) == [("emoji_world/some", 2)]
