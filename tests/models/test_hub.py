"""Weights from the hub without the hub: one sentence, at once, and nothing beside it."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest

from sgool.config import paths
from sgool.config.network import out_of_reach
from sgool.models import hub
from sgool.models.hub import hub_access

#: What is loaded, in a process whose hub does not answer -> what the sentence begins with.
LOADED = {
    "from sgool.models.load import load_models; load_models('nobody/no-such-model')": "`models.path`: 'nobody/no-such",
    "from sgool.models.clip import load_clip; load_clip('ViT-B-32', 'laion2b_s34b_b79k')": "The CLIP 'ViT-B-32/laion2b",
    "from sgool.models.clip import load_clip; load_clip('hf-hub:nobody/clip')": "The CLIP 'nobody/clip'",
    "from sgool.models.preference import load_pick_score; load_pick_score('nobody/a', 'nobody/b')": "PickScore",
    "from sgool.models.image_reward import load_tokenizer; load_tokenizer('nobody/bert')": "The tokenizer 'nobody",
    "from sgool.models.classifier import load_classifier; load_classifier('timm', 'resnet18.a1_in1k')": "The class",
}


#: Tries each of the codes in its arguments; one process for all, since each start takes seconds.
SCRIPT = """
import sys
from sgool.errors import SgoolError
for code in sys.argv[1:]:
    try:
        exec(code)
    except SgoolError as error:
        print(error)
"""


@pytest.mark.parametrize("offline", ["1", "0"], ids=["HF_HUB_OFFLINE", "no network"])
def test_one_sentence_and_nothing_else(tmp_path: Path, offline: str) -> None:
    env = {
        "HF_HUB_OFFLINE": offline,
        "HF_ENDPOINT": "http://127.0.0.1:9",  # nobody listens there
        "HF_HOME": str(tmp_path),
        "PYTHONPATH": str(paths.PACKAGE.parent),
        "PATH": "/usr/bin:/bin",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, *LOADED]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=200)
    assert (done.returncode, done.stderr) == (0, "")
    why = "HF_HUB_OFFLINE is set" if offline == "1" else "[Errno 111] Connection refused"
    for line, begin in zip(done.stdout.splitlines(), LOADED.values(), strict=True):
        assert line.startswith(begin)
        assert f"is not complete in the cache {tmp_path}/hub, and the hub is out of reach ({why})" in line


def test_a_server_that_answers_is_within_reach() -> None:
    assert out_of_reach("http://127.0.0.1:9", 1) == "[Errno 111] Connection refused"
    assert out_of_reach("no address", 1)


def test_logging_and_the_hub_are_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "out_of_reach", lambda *_: "no network")
    handlers = list(logging.root.handlers)
    with pytest.raises(RuntimeError), hub_access() as why:
        assert why == "no network" and huggingface_hub.constants.HF_HUB_OFFLINE
        logging.root.addHandler(logging.NullHandler())
        raise RuntimeError
    assert huggingface_hub.constants.HF_HUB_OFFLINE is False and logging.root.manager.disable == 0
    assert logging.root.handlers == handlers


def test_a_hub_within_reach_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "out_of_reach", lambda *_: None)
    with hub_access() as why:
        assert why is None and huggingface_hub.constants.HF_HUB_OFFLINE is False
