"""What PNG files of a run say of themselves, read by the PNG specification and by other tools' rules."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sgool import __version__
from sgool.results import RunFolder
from sgool.types import PromptSeed
from tests.fake_run import fake_config, fake_record

ORIGIN = {"model": "emoji_world", "sampler": "ddim", "num_inference_steps": 12, "guidance_scale": 4.0}


def written(run_dir: Path, prompt: str, origin: dict[str, Any] | None = None, **further: Any) -> Path:
    """The folder of one written pair."""
    run = RunFolder(run_dir).open(fake_config(), device="test device")
    record = fake_record(PromptSeed(prompt, 7), best_step=5)
    images = {"initial": np.zeros((3, 48, 64)), "final": np.ones((3, 48, 64))}
    return run.write(record, images, None, snapshots=[(3, np.ones((3, 48, 64)))], further=further, origin=origin)


def chunks(path: Path) -> dict[str, tuple[str, str]]:
    """Keyword -> (kind of chunk, text), by the PNG specification: lengths, checksums, encodings."""
    data, place, found = path.read_bytes(), 8, {}
    while place < len(data):
        (length,), kind = struct.unpack(">I", data[place : place + 4]), data[place + 4 : place + 8]
        content = data[place + 8 : place + 8 + length]
        assert zlib.crc32(kind + content) == struct.unpack(">I", data[place + 8 + length : place + 12 + length])[0]
        if kind in (b"tEXt", b"iTXt"):
            key, _, rest = content.partition(b"\0")
            if kind == b"iTXt":
                assert rest[:2] == b"\0\0"  # not compressed
                rest = rest[2:].split(b"\0", 2)[2]  # after language and translated keyword
            found[key.decode("latin-1")] = (kind.decode(), rest.decode("latin-1" if kind == b"tEXt" else "utf-8"))
        place += 12 + length
    return found


def test_each_fact_has_a_key_and_parameters_is_as_automatic1111_writes_it(tmp_path: Path) -> None:
    folder = written(tmp_path, "a green cat, by the sea", {**ORIGIN, "negative_prompt": "blurry"})
    texts = {key: text for key, (kind, text) in chunks(folder / "final.png").items() if kind == "tEXt"}
    assert texts == {
        "parameters": (
            "a green cat, by the sea\nNegative prompt: blurry\nSteps: 12, Sampler: DDIM, CFG scale: 4, Seed: 7, "
            f"Size: 64x48, Model: emoji_world, Method: sgool, Update: 5, Version: sgool {__version__}"
        ),
        "sgool_prompt": "a green cat, by the sea",
        "sgool_negative_prompt": "blurry",
        "sgool_seed": "7",
        "sgool_method": "sgool",
        "sgool_update": "5",
        "sgool_model": "emoji_world",
        "sgool_version": __version__,
        "Software": f"sgool {__version__}",
    }
    # The web UI's own pattern for the last line; it takes at least three of these for a line of parameters.
    pattern = r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)'
    assert dict(re.findall(pattern, texts["parameters"].split("\n")[-1]))["Seed"] == "7"


@pytest.mark.parametrize(
    ("name", "update", "method"),
    [("initial", "0", "vanilla"), ("final", "5", "sgool"), ("snapshots/0003", "3", "sgool")],
)
def test_each_picture_says_its_update(tmp_path: Path, name: str, update: str, method: str) -> None:
    """The first image is plain sampling's: the same file in every method."""
    texts = chunks(written(tmp_path, "a cat") / f"{name}.png")
    assert (texts["sgool_update"], texts["sgool_method"]) == (("tEXt", update), ("tEXt", method))


@pytest.mark.parametrize("prompt", ["une maison à côté", "猫と🐟", "two\nlines"])
def test_prompts_in_any_script_come_back(tmp_path: Path, prompt: str) -> None:
    path = written(tmp_path, prompt) / "final.png"
    assert chunks(path)["sgool_prompt"] == ("tEXt" if prompt.isascii() else "iTXt", prompt)
    with Image.open(path) as image:
        assert image.text["sgool_prompt"] == prompt  # type: ignore[attr-defined]
        assert image.text["parameters"].startswith(f"{prompt}\n")  # type: ignore[attr-defined]


def test_the_character_that_ends_a_text_is_left_out(tmp_path: Path) -> None:
    assert chunks(written(tmp_path, "a\0b") / "final.png")["sgool_prompt"] == ("tEXt", "a b")


def test_a_folder_gives_its_own_name_and_a_hub_id_the_whole(tmp_path: Path) -> None:
    for number, (path, name) in enumerate([("/home/me/models/sd, 1.4", "sd, 1.4"), ("owner/name", "owner/name")]):
        texts = chunks(written(tmp_path / str(number), "a cat", {"model": path}) / "final.png")
        assert texts["sgool_model"][1] == name
        assert f"Model: {name}, " in texts["parameters"][1].replace('"', "")
    assert (
        '"sd, 1.4"' in chunks(written(tmp_path / "0", "a cat", {"model": "/x/sd, 1.4"}) / "final.png")["parameters"][1]
    )


def test_the_same_pair_gives_the_same_bytes_and_a_photo_is_no_generated_image(tmp_path: Path) -> None:
    photo = np.full((3, 48, 64), 0.5)
    first, second = (written(tmp_path / name, "a cat", ORIGIN, input=photo, before_after=photo) for name in "ab")
    for name in ("initial", "final", "before_after", "input", "snapshots/0003"):
        assert (first / f"{name}.png").read_bytes() == (second / f"{name}.png").read_bytes()
    assert chunks(first / "input.png") == {} and "parameters" in chunks(first / "before_after.png")
