"""What a run says before it begins: which model it takes, what that model cannot read, and how much work is left."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgool.config.paths import asset_path
from sgool.config.variants import only_variant
from sgool.config.weights import chosen_variant
from sgool.config.words import counted
from sgool.methods.base_options import method_budget
from sgool.methods.options import METHODS, method_optimization
from sgool.models.vocabulary import is_embedded
from sgool.prompts.phrases import phrases_of
from sgool.run.progress import Work
from sgool.types import PairRecord, PromptSeed

if TYPE_CHECKING:
    import torch

#: Passes of the network that an update costs, in units of plain sampling: forward, recomputation, backward.
_PASSES_OF_AN_UPDATE = 3.0
#: Denoising steps that are assumed where the model's pipeline decides on them.
_STEPS = 20


def model_line(models: Mapping[str, Any]) -> str:
    """Returns which model runs, and for the embedded one what it is good for.

    Args:
        models: The configuration's ``models``.
    """
    path, given = str(models["path"]), {name: models[name] for name in ("width", "height") if models[name] is not None}
    size = f" at {given['width']} x {given['height']} pixels" if len(given) == 2 else ""
    size = "".join(f" at a {name} of {side} pixels" for name, side in given.items()) if len(given) == 1 else size
    if not is_embedded(path):
        return f"{path}{size}"
    return (
        f"{path}{size or ' (64 x 64 pixels)'}, the small model that ships with sgool and draws emoji only; "
        "models=sd14 takes Stable Diffusion"
    )


def note_on_variant(models: Mapping[str, Any]) -> str:
    """Returns a sentence if the model's folder has the weights of one variant alone; empty if it has plain ones.

    Args:
        models: The configuration's ``models``.
    """
    folder = Path(asset_path(str(models["path"])))
    if not (folder / "model_index.json").is_file():
        return ""
    wanted = models.get("variant")
    variant, problem = chosen_variant(folder, wanted, list(models.get("components") or ()))
    return "" if problem or variant == wanted else only_variant(folder, str(variant))


def note_on_bfloat16(config: Mapping[str, Any], device: torch.device) -> str:
    """Returns a sentence if networks work in bfloat16 on a processor that is slow at it; else an empty one.

    Torch has no fast kernels for bfloat16 on processors of Intel and AMD without AVX-512.

    Args:
        config: The configuration; ``trainer.precision``, ``models.dtype`` and ``models.vae_dtype`` count.
        device: Where the networks are.
    """
    keys = [f"models.{key}" for key in ("dtype", "vae_dtype") if config["models"].get(key) == "bfloat16"]
    half, whole = [f"{key}=bfloat16" for key in keys], [f"{key}=float32" for key in keys]
    if config["trainer"]["precision"] == "bf16-mixed":
        half, whole = [*half, "trainer.precision=bf16-mixed"], [*whole, "trainer.precision=32-true"]
    if not half or device.type != "cpu" or platform.machine().lower() not in ("x86_64", "amd64"):
        return ""
    import torch

    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "DEFAULT"):
        return ""
    return (
        f"{' and '.join(half)}: this processor has no AVX-512, without which bfloat16 is many times slower than "
        f"float32; use {' '.join(whole)}"
    )


def work_left(config: Mapping[str, Any], count: Callable[[str], int]) -> list[Work]:
    """Returns what is left of each method, with what a pair is expected to cost; vanilla is 1.

    Args:
        config: The plain configuration.
        count: Method -> how many of its pairs are left.
    """
    return [Work(name, count(name), _cost(config, name)) for name in config["methods"]]


def other_phrases(records: Iterable[PairRecord], pairs: Iterable[PromptSeed]) -> str:
    """Returns a sentence on pairs whose records have other phrases than they have now; empty if there are none."""
    now = {pair.pair_id: phrases_of(pair) for pair in pairs}
    made = {record.pair_id: tuple(found["phrase"] for found in record.phrases) for record in records if record.phrases}
    others = [name for name, phrases in made.items() if name in now and phrases != now[name]]
    if not others:
        return ""
    was, is_now = (" | ".join(phrases[others[0]]) for phrases in (made, now))
    return (
        f"{counted(len(others), 'pair')} finished with other phrases than the prompts have now, and stay as they are; "
        f"resume=false makes them anew. The first is {others[0]}: was {was!r}, is {is_now!r}"
    )


def cut_off(prompts: Sequence[str], cuts: Mapping[str, Sequence[str]], kind: str = "prompt") -> list[str]:
    """Returns one sentence for each prompt of which somebody does not read the end.

    Args:
        prompts: Different prompts.
        cuts: Reader -> for each prompt the text that it does not read, empty where it reads all.
        kind: What they are called.
    """
    sentences = []
    for number, prompt in enumerate(prompts):
        readers: dict[str, list[str]] = {}
        for reader, texts in cuts.items():
            if texts[number]:
                readers.setdefault(texts[number], []).append(reader)
        if readers:
            parts = [f"{_listed(names)} {_does(names)} not see {text!r}" for text, names in readers.items()]
            sentences.append(f"over-long {kind} {prompt!r}: {'; '.join(parts)}")
    return sentences


def _cost(config: Mapping[str, Any], name: str) -> float:
    method = config["method"][name]
    options = METHODS.options(method)
    settings, calls = method_optimization(config, name), method_budget(config, name)["calls"]
    updates, candidates = float(settings["num_optimization_steps"]), settings["candidates"]
    if calls is not None and (options.optimizes or "particles" in method or "num_candidates" in method):
        # Null steps are the pipeline's own number, which is not known before it loads; all methods share it.
        return max(1.0, calls / (config["sampler"]["num_inference_steps"] or _STEPS))
    if options.optimizes:
        return _PASSES_OF_AN_UPDATE * updates + 1 + (candidates if candidates > 1 else 0)
    if "particles" in method:
        return float(method["particles"])
    if "num_candidates" in method:  # else as many as the calls of an optimisation allow, two of them an update
        return float(method["num_candidates"] or 2 * updates + 1)
    return 1.0 if options.needs_objective is False else _PASSES_OF_AN_UPDATE


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _does(names: Sequence[str]) -> str:
    return "does" if len(names) == 1 else "do"
