"""What is said of an override or a file that cannot be used: the words, and that the override it prints works."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from sgool.config.quoting import hydra_quoted, list_override
from sgool.errors import ConfigError
from sgool.run.config import load_config, to_plain


def problems(*overrides: str, config_dir: Path | None = None) -> str:
    """The message about overrides that cannot be used."""
    with pytest.raises(ConfigError) as caught:
        load_config(overrides, config_dir)
    return str(caught.value)


def plain(*overrides: str, config_dir: Path | None = None) -> dict[str, Any]:
    return to_plain(load_config(overrides, config_dir))


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return folder


@given(st.text(alphabet=st.sampled_from([*"ab\\\"'${}~[](), =:#?é\n"]), max_size=12).filter(lambda text: text != "???"))
def test_a_quoted_text_is_read_back_as_it_is(text: str) -> None:
    override = OverridesParser.create().parse_overrides([f"key={hydra_quoted(text)}"])[0]
    config = OmegaConf.create({"key": None})
    OmegaConf.update(config, "key", override.value())
    assert config.key == text


@pytest.mark.parametrize(
    "path",
    ["~/runs/x", "runs/été", "runs/a (1)", "runs/[x]", "[x]/runs", "runs/it's", "runs/a=b", "a,b", "a;b", "runs/a#b"],
)
def test_the_override_that_a_message_prints_works(path: str) -> None:
    message = problems(f"run_dir={path}")
    printed = [word for word in shlex.split(message[message.index("'run_dir=") :]) if word.startswith("run_dir=")]
    assert plain(printed[0].rstrip(";,"))["run_dir"] == str(Path(path).expanduser())


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("methods=vanilla", "a list is written 'methods=[vanilla]'"),
        ("methods=vanilla,sgool", "a list is written 'methods=[vanilla,sgool]'"),
        ("methods=vanilla sgool", "a list is written 'methods=[vanilla,sgool]'"),
        ("method=sgool", "choose those to run with 'methods=[sgool]'"),
        ("data.seeds=0,1", "a list is written 'data.seeds=[0,1]'"),
        ("judges=lpips,change", "a list is written 'judges=[lpips,change]'"),
        ("name=2024", "a text like that is written 'name=\"2024\"'"),
        ("run_dir=[x]", "a text like that is written 'run_dir=\"[x]\"'"),
        ("hydra/launcher=submitit_slurm", "add -m"),
        ("hydra.launcher.timeout_min=3", "add -m"),
    ],
)
def test_how_a_value_is_written(override: str, words: str) -> None:
    assert words in problems(override)


@pytest.mark.parametrize("override", ["optimization.lr=1,2", "sampler=ddim,edict"])
def test_several_values_without_m_say_how_a_sweep_is_made(override: str) -> None:
    message = problems(override)
    assert f"sgool fit -m {override}" in message and "a list" not in message


def test_a_list_in_a_printed_override_is_quoted_for_the_shell() -> None:
    assert shlex.split(list_override("data.seeds", "0,1")) == ["data.seeds=[0,1]"]
    assert list_override("data.seeds", "0,1") == "'data.seeds=[0,1]'"


# A list where one choice is meant


@pytest.mark.parametrize(
    "group", ["sampler", "engine", "objective", "saliency", "optimization", "data", "models", "trainer", "experiment"]
)
def test_a_list_where_one_choice_is_meant_is_refused(group: str) -> None:
    names = {
        "sampler": "ddim,edict",
        "engine": "direct,checkpoint",
        "objective": "color,symmetry",
        "saliency": "center,spectral_residual",
        "optimization": "fast,doodl",
        "data": "emoji_world,drawbench",
        "models": "emoji_world,sd14",
        "trainer": "default,default2",
        "experiment": "demo,paper",
    }[group]
    message = problems(f"{group}=[{names}]")
    assert group in message
    if group != "trainer":  # there is one file
        first, last = names.split(",")
        assert f"`{group}`: expected one choice, got {first}, {last}; write {group}={last}" in message


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("sampler=[edict,belm]", "`sampler`: expected one choice, got edict, belm; write sampler=belm"),
        ("sampler=edit", "`sampler`: there is no choice 'edit'"),
        ("sampler=edict,belm", "one run has one value per key"),
        ("sampler.name=edict", "use `sampler=edict`"),
    ],
)
def test_nothing_is_said_of_the_keys_of_a_refused_choice(override: str, words: str) -> None:
    for lines in ([override], [override, "sampler.mixing_coeff=0.9"]):
        message = problems(*lines)
        assert words in message and "unknown key" not in message and "problems" not in message
    assert "unknown key `lr`" in problems(override, "lr=1")  # other keys are still checked


def test_a_list_in_a_file_is_refused_without_more_problems(tmp_path: Path) -> None:
    write(tmp_path, "experiment/two.yaml", "# @package _global_\ndefaults:\n  - override /sampler: [edict, belm]\n")
    message = problems("experiment=two", config_dir=tmp_path)
    assert message.startswith("`sampler`: expected one choice, got edict, belm") and "unknown key" not in message


# What a shell makes of it


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("a cat", "a cat"),
        ("cat", "cat"),
        ("prompt=a cat", "a cat"),
        ("data.prompt=a cat", "a cat"),
        ("data.prompts=a green cat", "a green cat"),
        ("data.prompts='a green cat. Asleep.'", "a green cat. Asleep."),
        ("prompt=null", "a green cat"),
    ],
)
def test_a_prompt_that_is_no_override_is_explained(override: str, text: str) -> None:
    assert f'or one prompt: sgool fit --prompt "{text}"' in problems(override)


@pytest.mark.parametrize("override", ["data.prompts=my prompts.csv", "data.prompts=emoji_world/dmo", "sampler"])
def test_what_is_no_prompt_is_not_taken_for_one(override: str) -> None:
    assert "--prompt" not in problems(override)


def test_a_prompt_is_quoted_for_the_shell() -> None:
    message = problems('a "green" cat')
    assert shlex.split(message[message.index("--prompt ") :])[1] == 'a "green" cat'


@pytest.mark.parametrize("words", ["sampler = ddim", "sampler= ddim", "sampler =ddim"])
def test_spaces_around_the_equals_sign(words: str) -> None:
    message = problems(*words.split())
    assert message == f"`{words}`: expected KEY=VALUE with no spaces around the =; write sampler=ddim"
    assert "2 problems" in problems("lr=1", *words.split())
    assert "`=`: expected KEY=VALUE with no spaces around the =; got no KEY" in problems("name=x", "=")
    assert plain("data.negative_prompt=", "name=x")["data"]["negative_prompt"] == ""


def test_a_list_of_one_choice_is_that_choice() -> None:
    assert plain("sampler=[edict]")["sampler"]["name"] == "edict"


def test_a_list_in_a_file_is_refused_too(tmp_path: Path) -> None:
    write(tmp_path, "experiment/two.yaml", "# @package _global_\ndefaults:\n  - override /sampler: [ddim, edict]\n")
    assert "`sampler`: expected one choice, got ddim, edict" in problems("experiment=two", config_dir=tmp_path)


def test_a_file_may_build_on_another_of_its_group(tmp_path: Path) -> None:
    write(tmp_path, "objective/mine.yaml", "defaults:\n  - color\n  - _self_\ncrops: {num: 3}\n")
    assert plain("objective=mine", config_dir=tmp_path)["objective"]["crops"]["num"] == 3


def test_loggers_may_be_several(tmp_path: Path) -> None:
    logger = plain("logger=[csv,wandb]", "logger.project=mine")["logger"]
    assert (logger["name"], logger["project"]) == (["csv", "wandb"], "mine")
    assert plain("logger=[wandb,csv,wandb]")["logger"]["name"] == ["wandb", "csv"]
    write(tmp_path, "experiment/both.yaml", "# @package _global_\ndefaults:\n  - override /logger: [csv, wandb]\n")
    assert plain("experiment=both", config_dir=tmp_path)["logger"]["name"] == ["csv", "wandb"]
    assert "none stands for no logger" in problems("logger=[csv,none]")
    assert "there is no choice 'tensorboard'" in problems("logger=[csv,tensorboard]")


def test_judges_may_be_several() -> None:
    names = set(plain("judges=[change,lpips]")["models"]["judges"])
    assert names >= set(plain("judges=change")["models"]["judges"]) | set(plain("judges=lpips")["models"]["judges"])


# Files


def test_an_experiment_without_its_first_line(tmp_path: Path) -> None:
    write(tmp_path, "experiment/mine.yaml", "name: x\noptimization: {lr: 1}\n")
    message = problems("experiment=mine", config_dir=tmp_path)
    assert message.startswith("`experiment`: expected `# @package _global_` as the first line of ")
    assert str(tmp_path / "experiment/mine.yaml") in message and "unknown key" not in message


def test_an_experiment_without_its_first_line_that_overrides_a_choice(tmp_path: Path) -> None:
    write(tmp_path, "experiment/nopkg.yaml", "defaults:\n  - override /sampler: edict\n")
    write(tmp_path, "experiment/other.yaml", "name: x\n")
    message = problems("experiment=nopkg", config_dir=tmp_path)
    first = f"`experiment`: expected `# @package _global_` as the first line of {tmp_path / 'experiment/nopkg.yaml'}, "
    assert message.startswith(first) and "Could not override" not in message
    message = problems("experiment=other", config_dir=tmp_path)
    assert f"first line of {tmp_path / 'experiment/other.yaml'}, got none" in message and "nopkg" not in message


def test_a_judge_without_its_first_line(tmp_path: Path) -> None:
    write(tmp_path, "judges/mine.yaml", "mine: {type: pixels}\n")
    assert "`judges`: expected `# @package models.judges`" in problems("judges=mine", config_dir=tmp_path)
    write(tmp_path, "judges/mine.yaml", "# @package models.judges\nmine: {type: pixels}\n")
    assert plain("judges=mine", config_dir=tmp_path)["models"]["judges"]["mine"] == {"type": "pixels"}


def test_a_choice_without_override_or_without_a_slash(tmp_path: Path) -> None:
    write(tmp_path, "experiment/plain.yaml", "# @package _global_\nsampler: edict\n")
    assert "`- override /sampler: edict` in its `defaults`" in problems("experiment=plain", config_dir=tmp_path)
    write(tmp_path, "experiment/slash.yaml", "# @package _global_\ndefaults:\n  - override sampler: edict\n")
    assert "Write `override /sampler: ...`, with a slash." in problems("experiment=slash", config_dir=tmp_path)


def test_a_model_that_chooses_the_sampler(tmp_path: Path) -> None:
    own = "defaults:\n  - sd14\n  - override /sampler{}: native\n  - _self_\npath: emoji_world\n"
    write(tmp_path, "models/mine.yaml", own.format(""))
    message = problems("models=mine", config_dir=tmp_path)
    assert message.endswith("Write `override /sampler@_global_.sampler: ...`.")
    write(tmp_path, "models/mine.yaml", own.format("@_global_.sampler"))
    assert plain("models=mine", config_dir=tmp_path)["sampler"]["name"] == "native"
    assert plain("models=mine", "sampler=edict", config_dir=tmp_path)["sampler"]["name"] == "edict"
    found = plain("models=mine", "experiment=paper", config_dir=tmp_path)
    assert (found["sampler"]["name"], found["models"]["path"]) == ("edict", "emoji_world")


# Methods of one's own


@pytest.fixture
def hot(tmp_path: Path) -> Path:
    """A folder with a method file of the user's own."""
    return write(tmp_path, "method/hot.yaml", "kind: optimize\n")


def test_an_own_method_is_added_and_chosen(hot: Path) -> None:
    config = plain("+method@method.hot=hot", "methods=[sgool,hot]", config_dir=hot)
    assert config["method"]["hot"]["kind"] == "optimize" and config["methods"] == ["sgool", "hot"]


@pytest.mark.parametrize(
    "override",
    ["methods=[hot]", "method=hot", "+method=hot", "+method.hot=hot", "method.hot=hot", "+method@hot=hot"],
)
def test_every_other_way_to_an_own_method_says_what_works(hot: Path, override: str) -> None:
    assert "+method@method.hot=hot" in problems(override, config_dir=hot)


def test_a_method_that_is_added_but_not_chosen_does_not_pass_in_silence(hot: Path) -> None:
    assert "add 'methods=[hot]'" in problems("+method@method.hot=hot", config_dir=hot)


def test_an_own_method_without_its_folder() -> None:
    message = problems("+method@method.hot=hot", "methods=[hot]")
    assert "method/hot.yaml in a folder given with --config-dir" in message


# The home folder


def test_a_tilde_is_the_home_folder_in_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "p.csv").write_text("prompt\na cat\n")
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "head.pth").write_bytes(b"x")
    config = plain(
        'run_dir="~/x"',
        'data.prompts="~/p.csv"',
        "objective=image_alignment",
        'objective.terms.image_alignment.images=["~/a.png"]',
        'objective.terms.image_alignment.clip="~/clip"',
        'models.scene_reader="~/reader"',
        "judges=aesthetic",
        'models.judges.aesthetic.checkpoint="~/head.pth"',
        'data.negative_prompt="~/no path"',
    )
    home = str(tmp_path)
    assert config["run_dir"] == f"{home}/x" and config["data"]["prompts"] == f"{home}/p.csv"
    assert config["objective"]["terms"]["image_alignment"]["images"] == [f"{home}/a.png"]
    assert config["objective"]["terms"]["image_alignment"]["clip"]["model"] == f"{home}/clip"
    assert config["models"]["scene_reader"] == f"{home}/reader"
    assert config["models"]["judges"]["aesthetic"]["checkpoint"] == f"{home}/head.pth"
    assert config["data"]["negative_prompt"] == "~/no path"


def test_a_path_s_text_is_no_reference() -> None:
    assert plain(r'run_dir="runs/\${a}"')["run_dir"] == "runs/${a}"


def test_every_bracket_in_a_message_is_quoted() -> None:
    """Messages that are put together above; a bare `key=[` would be expanded by zsh."""
    texts = [problems("methods=vanilla"), problems("data.seeds=0,1"), problems("method=sgool")]
    assert [found for text in texts for found in re.findall(r"(?<![\w.'])[a-z][\w.]*=\[", text)] == []
