"""Opening a run folder: one configuration per folder, provenance, clear refusals."""

from __future__ import annotations

import errno
import os
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import yaml

from sgool.errors import ConfigError, SgoolError
from sgool.results import RunFolder
from sgool.run.config import complete, load_config, to_plain
from tests.fake_run import blob, fake_config, fake_pairs, fake_record, random_image

PAIR = fake_pairs()[0]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run").open(fake_config(), device="test device")


def write(run: RunFolder, **changes: object) -> Path:
    return run.write(
        fake_record(PAIR, str(changes.pop("method", "sgool")), **changes),
        {"initial": random_image(PAIR, "vanilla"), "final": random_image(PAIR, "sgool")},
        blob(),
        [{"step": 0, "loss": 1.5}, {"step": 1, "loss": 0.1, "salient": 0.25}],
        {"initial": np.zeros((1, 4, 2, 2)), "best": np.full((1, 4, 2, 2), 0.1)},
    )


class TestOpen:
    def test_writes_config_and_environment(self, run: RunFolder) -> None:
        assert run.config() == fake_config()
        (environment,) = run.environments()
        assert environment["versions"]["torch"]
        assert environment["versions"]["open_clip"]
        assert environment["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
        assert environment["device"] == "test device"
        assert set(environment) == {"versions", "platform", "device", "cpu_count", "git_commit", "date"}

    @pytest.mark.parametrize(
        ("overrides", "is_refused"),
        [
            (["methods=[doodl,sgool]"], False),
            (["methods=[doodl,best_of_n]", "method.best_of_n.num_candidates=3"], False),
            (["methods=[doodl,best_of_n]", "budget.seconds=9"], False),
            (["methods=[doodl,best_of_n]"], True),
            (["methods=[doodl]", "budget.calls=400"], True),
            (["methods=[doodl]", "+method.doodl.budget.calls=400"], True),
        ],
    )
    def test_another_engine_has_other_updates_for_the_same_calls(
        self, tmp_path: Path, overrides: list[str], is_refused: bool
    ) -> None:
        first, second = (to_plain(load_config([*overrides, f"engine={name}"])) for name in ("checkpoint", "direct"))
        write(RunFolder(tmp_path / "run").open(first, device="test device"))
        if not is_refused:
            RunFolder(tmp_path / "run").open(second, device="test device")
            return
        with pytest.raises(ConfigError, match=r'engine\.name: was "checkpoint", is "direct"'):
            RunFolder(tmp_path / "run").open(second, device="test device")

    def test_each_change_of_the_engine_keeps_the_configuration_before_it(self, tmp_path: Path) -> None:
        """With a budget of calls the engine decides on the results, so that none of the three may be forgotten."""
        path = tmp_path / "run"
        for number, name in enumerate(("checkpoint", "direct", "reversible")):
            overrides = ["methods=[doodl]", "budget.calls=100", "sampler=edict", f"engine={name}"]
            folder = RunFolder(path).open(to_plain(load_config(overrides)), device="cpu", accept_changes=True)
            if not number:
                write(folder, method="doodl")
        earlier = {yaml.safe_load(file.read_text())["engine"]["name"] for file in path.glob("config-*.yaml")}
        assert earlier == {"checkpoint", "direct"} and folder.config()["engine"]["name"] == "reversible"

    def test_methods_of_a_start_that_made_nothing_are_forgotten(self, tmp_path: Path) -> None:
        for methods in (["vanilla", "doodl", "sgool"], ["vanilla"]):
            folder = RunFolder(tmp_path / "run").open(fake_config(methods), device="cpu")
        assert folder.config()["methods"] == ["vanilla"]
        write(folder, method="vanilla")
        folder.open(fake_config(["doodl"]), device="cpu")
        assert folder.config()["methods"] == ["vanilla", "doodl"]

    def test_takes_omegaconf_resolved(self, tmp_path: Path) -> None:
        from omegaconf import OmegaConf

        config = OmegaConf.create({"steps": 5, "twice": {"steps": "${steps}"}, "methods": ["vanilla"]})
        run = RunFolder(tmp_path / "run").open(config, device="test device")
        assert run.config() == {"steps": 5, "twice": {"steps": 5}, "methods": ["vanilla"]}

    def test_the_same_configuration_again_changes_nothing(self, run: RunFolder) -> None:
        before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
        RunFolder(run.path).open(fake_config(), device="test device")
        assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before

    def test_another_machine_is_noted_beside_the_first(self, run: RunFolder) -> None:
        for _ in range(2):
            run.open(fake_config(), device="another device")
        assert [entry["device"] for entry in run.environments()] == ["test device", "another device"]

    def test_refuses_another_configuration_with_one_line_per_key(self, run: RunFolder) -> None:
        write(run)
        changed = fake_config(
            sampler={"name": "edict", "num_inference_steps": 50, "guidance_scale": 4.0, "mixing_coeff": 0.93},
            models={"path": "emoji_world", "guide": {"model": "emoji_world/guide", "pretrained": None}},
            trainer={"devices": [1]},
            run_dir="elsewhere",
        )
        with pytest.raises(ConfigError) as caught:
            RunFolder(run.path).open(changed)
        assert str(caught.value).splitlines() == [
            f"The run folder {run.path} was made by another configuration:",
            '  models.judges.judge.model: was "emoji_world/judge", is null',
            "  sampler.mixing_coeff: was null, is 0.93",
            '  sampler.name: was "ddim", is "edict"',
            "  sampler.num_inference_steps: was 20, is 50",
            f"Use another run_dir, delete the folder {run.path} to start again, or add --resume-with-changes (in "
            "Python accept_changes=True): then what is finished stays as it is, the rest is made with the new "
            "settings, and the report says so.",
        ]
        assert run.config() == fake_config()

    def test_keys_that_an_earlier_version_did_not_know_have_their_defaults(self, tmp_path: Path) -> None:
        new = to_plain(load_config(["models.device=cpu", "methods=[clip_guidance]", f"run_dir={tmp_path}"]))
        old = deepcopy(new)
        for node, key in ((old["optimization"], "clamp_images"), (old["models"], "vae_dtype")):
            del node[key]
        del old["method"]["clip_guidance"]["estimate_from"]
        folder = RunFolder(tmp_path).open(old, device="cpu")
        write(folder)
        with pytest.raises(ConfigError, match=r"optimization\.clamp_images: was null, is false"):
            folder.open(new, device="cpu")
        folder.open(new, device="cpu", complete=complete)
        new["optimization"]["clamp_images"] = True
        with pytest.raises(ConfigError, match=r"optimization\.clamp_images: was false, is true"):
            folder.open(new, device="cpu", complete=complete)

    def test_other_prompts_of_the_command_line_are_no_other_configuration(self, tmp_path: Path) -> None:
        texts = [fake_config(data={"prompts": f"text:{text}", "seeds": [0]}) for text in ("a cat", "a dog\na hen")]
        write(RunFolder(tmp_path / "run").open(texts[0]))
        RunFolder(tmp_path / "run").open(texts[1])
        with pytest.raises(ConfigError, match=r'data\.prompts: was "text:", is "a\.csv"'):
            RunFolder(tmp_path / "run").open(fake_config(data={"prompts": "a.csv", "seeds": [0]}))

    @pytest.mark.parametrize(
        "change",
        [
            {"run_dir": "other", "name": "other", "resume": False, "debug": True},
            {"trainer": {"devices": [1], "threads": 2}},
            {"logger": {"wandb": True}},
            {"data": {"prompts": "prompts.csv", "seeds": [0, 1], "limit": 4}},
        ],
    )
    def test_keys_that_change_no_result_do_not_count(self, run: RunFolder, change: dict) -> None:
        run.open(fake_config(**change))
        assert run.config() == fake_config(**change)

    @pytest.mark.parametrize("text", [None, "a: [1"])
    def test_a_start_that_left_no_record_binds_nobody(self, run: RunFolder, text: str | None) -> None:
        if text is not None:
            run.config_path.write_text(text)
        other = fake_config(optimization={"num_optimization_steps": 1, "keep": "last"})
        assert run.open(other, device="test device").config() == other
        write(run)
        with pytest.raises(ConfigError, match=r"optimization\.keep: was \"last\", is \"best\""):
            run.open(fake_config())

    def test_methods_may_be_added(self, tmp_path: Path) -> None:
        run = RunFolder(tmp_path / "run").open(fake_config(["vanilla"]), device="test device")
        write(run, method="vanilla")
        run.open(fake_config(["sgool", "vanilla"]), device="test device")
        assert run.config()["methods"] == ["vanilla", "sgool"]

    def test_settings_of_a_method_that_has_not_run_yet_may_change(self, tmp_path: Path) -> None:
        def opened(candidates: int | None, *methods: str, **more: bool) -> RunFolder:
            method = {"vanilla": {"kind": "vanilla"}, "best_of_n": {"num_candidates": candidates}}
            return RunFolder(tmp_path).open(fake_config(methods, method=method), device="test device", **more)

        write(opened(None, "vanilla"), method="vanilla")
        write(opened(2, "vanilla", "best_of_n"), method="best_of_n")
        refused = r"(?s)configuration:\n  method\.best_of_n\.num_candidates: was 2, is {}\nUse"
        # Also where the method is left out, and after another change was accepted: its results are there.
        for methods in (["best_of_n"], ["vanilla"]):
            with pytest.raises(ConfigError, match=refused.format(3)):
                opened(3, *methods)
        opened(2, "vanilla")
        opened(4, "vanilla", accept_changes=True)
        with pytest.raises(ConfigError, match=r"num_candidates: was 4, is 2"):
            opened(2, "best_of_n")

    def test_a_method_may_be_added_with_settings_of_its_own(self, run: RunFolder) -> None:
        write(run)
        RunFolder(run.path).open(fake_config(["hot"], method={"hot": {"kind": "optimize"}}), device="test device")
        with pytest.raises(ConfigError, match=r'method\.hot\.kind: was "optimize", is null'):
            RunFolder(run.path).open(fake_config())

    @pytest.mark.parametrize(("follows", "is_refused"), [("doodl", True), ("reno", False)])
    def test_a_method_whose_cost_another_one_spends_counts_as_run(
        self, tmp_path: Path, follows: str, is_refused: bool
    ) -> None:
        own = {"best_of_n": {"num_candidates": None, "same_budget_as": follows}}
        first, second = (
            fake_config(["best_of_n"], method=own | {"doodl": {"optimization": {"num_optimization_steps": steps}}})
            for steps in (5, 6)
        )
        write(RunFolder(tmp_path).open(first, device="test device"), method="best_of_n")
        second["methods"] = ["best_of_n", "doodl"]
        if not is_refused:
            assert RunFolder(tmp_path).open(second, device="test device").config() == second
            return
        with pytest.raises(ConfigError, match=r"method\.doodl\.optimization\.num_optimization_steps: was 5, is 6"):
            RunFolder(tmp_path).open(second)

    @pytest.mark.parametrize("old", [1, 1.0, True, "1", None])
    @pytest.mark.parametrize("new", [1, 1.0, True, "1", None])
    def test_values_compare_with_their_type(self, tmp_path: Path, old: object, new: object) -> None:
        run = RunFolder(tmp_path / "run").open({"key": old}, device="test device")
        write(run)
        if type(old) is type(new):
            run.open({"key": new}, device="test device")
        else:
            with pytest.raises(ConfigError, match="key: was"):
                run.open({"key": new})

    @pytest.mark.parametrize("value", [1e-05, 1e30, float("nan"), [1, [2, None]], {}, "a: b\n", "2026-11-22", "é"])
    def test_values_survive_the_file(self, tmp_path: Path, value: object) -> None:
        run = RunFolder(tmp_path / "run").open({"key": value}, device="test device")
        write(run)
        run.open({"key": value}, device="test device")
        assert repr(run.config()["key"]) == repr(value)

    def test_refuses_results_without_config(self, run: RunFolder) -> None:
        write(run)
        run.config_path.unlink()
        with pytest.raises(SgoolError, match=r"no config\.yaml.*Use another run_dir"):
            run.open(fake_config())

    @pytest.mark.parametrize("text", ["a: [1", "- list", ""])
    def test_refuses_a_damaged_config(self, run: RunFolder, text: str) -> None:
        write(run)
        run.config_path.write_text(text)
        with pytest.raises(SgoolError, match=r"config\.yaml.*Use another run_dir"):
            run.open(fake_config())

    def test_a_file_in_its_place(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(SgoolError, match="is a file"):
            RunFolder(tmp_path / "file").open(fake_config())

    def test_a_path_below_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(SgoolError, match=r"Cannot write to the run folder .*Not a directory.*where you may write"):
            RunFolder(tmp_path / "file" / "run").open(fake_config())

    def test_an_unwritable_folder_is_found_before_the_configuration_is_looked_at(
        self, run: RunFolder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(source: object, target: object) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        monkeypatch.setattr(os, "replace", refuse)
        with pytest.raises(SgoolError, match=r"Cannot write to the run folder .*Permission denied"):
            run.open({"other": "configuration"})
        assert not list(run.path.glob(".*"))
