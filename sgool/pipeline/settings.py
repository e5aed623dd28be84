"""Which settings a model gets: those of the shipped configuration that fits, else the defaults of its family."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sgool.config.compose import config_folders
from sgool.config.families import FAMILIES, REPLAY, family_for, known_families
from sgool.config.paths import asset_path
from sgool.config.quoting import hydra_quoted
from sgool.config.suggest import did_you_mean
from sgool.errors import ConfigError

#: The configuration of real models that says nothing of a size.
_BASE = "sd15"
#: Keys of `models` that say how a model is loaded; a pipeline object is loaded already.
_LOADING = (
    "config", "variant", "components", "scheduler", "loras", "quantization", "vae_dtype", "vae_tile_size", "offload",
)  # fmt: skip
_OFF = ("offload_text_encoders", "channels_last", "compile")
_NULL = "null"
_NUMBERS = ("num_inference_steps", "guidance_scale")


@dataclass(frozen=True)
class Settings:
    """Where the settings of a pipeline come from.

    Attributes:
        overrides: Of the configuration, in Hydra's grammar.
        source: What was taken, for people.
        family: The family of a pipeline object; None: that of the folder.
    """

    overrides: tuple[str, ...]
    source: str
    family: str | None = None


def shipped_models(config_dir: str | Path | None = None) -> dict[str, Mapping[str, Any]]:
    """Returns the model configurations by name: those that ship with sgool, and those of a folder of the user's."""
    import yaml

    files = [file for folder in config_folders(config_dir) for file in sorted((folder / "models").glob("*.yaml"))]
    return {file.stem: yaml.safe_load(file.read_text(encoding="utf-8")) or {} for file in files}


def of_path(path: str, models: str | None = None, config_dir: str | Path | None = None) -> Settings:
    """Returns the settings of a model by its name among the configurations, or of a folder, file or hub id.

    Args:
        path: "emoji_world", "sdxl_turbo", a folder that diffusers saved, a single file of weights, or a hub id.
        models: Name of the configuration; None: the one whose model has this id or this folder's name.
        config_dir: A folder of the user's with further configurations.

    Raises:
        ConfigError: There is no such configuration, or nothing by this name.
    """
    known = shipped_models(config_dir)
    _check_name(models, known)
    if models is None and path in known:
        return Settings((f"models={path}",), f"models={path}")
    local = Path(asset_path(path)).expanduser().exists()
    if not local and (path.count("/") != 1 or path.startswith((".", "~", "/"))):
        hint = did_you_mean(path, known) or "."
        raise ConfigError(
            [
                f"`path`: expected a model's name ({', '.join(known)}), an existing folder or file, or a hub id "
                f"(owner/name), got {path!r}{hint}"
            ]
        )
    found = models or _best(path, known, None)
    if found is None:
        return Settings(tuple(_defaults({}, path)), f"the defaults of the pipeline in {path}")
    how = "as asked for" if models else "recognised by its name"
    return Settings((f"models={found}", f"models.path={hydra_quoted(path)}"), f"models={found} ({how})")


def of_pipeline(
    pipeline: Any, models: str | None = None, family: str | None = None, config_dir: str | Path | None = None
) -> Settings:
    """Returns the settings of a loaded diffusers pipeline.

    Args:
        pipeline: The pipeline.
        models: Name of a configuration; None: the one that fits the id or folder that it was loaded from, its
            scheduler and its parts.
        family: Name of its family; None: that of its class.
        config_dir: A folder of the user's with further configurations.

    Raises:
        ConfigError: It is no pipeline of a known family, or there is no such configuration.
    """
    known = shipped_models(config_dir)
    kinds = [kind.__name__ for kind in type(pipeline).__mro__]
    chosen = family or family_for(*kinds)
    _check_name(models, known, *_pipeline_problems(pipeline, kinds[0], family, chosen))
    assert chosen is not None
    given = [
        f"models.path=given/{kinds[0]}",
        f"models.family={chosen}",
        *(f"models.{key}={_NULL}" for key in _LOADING),
        *(f"models.{key}=false" for key in _OFF),
        f"models.dtype={_dtype(pipeline, chosen)}",
    ]
    found = None if chosen == REPLAY and models is None else models or _best(_name(pipeline), known, pipeline)
    if found is None:
        numbers = _call_defaults(pipeline)
        return Settings((*_defaults(numbers), *given), f"the defaults of {kinds[0]}", chosen)
    how = "as asked for" if models else f"recognised by the pipeline's name {_name(pipeline)!r}"
    native = ["sampler=native"] if chosen == REPLAY else []
    return Settings((f"models={found}", *native, *given), f"models={found} ({how})", chosen)


def _check_name(models: str | None, known: Mapping[str, Any], *problems: str) -> None:
    found = list(problems)
    if models is not None and models not in known:
        hint = did_you_mean(models, known) or "."
        found.append(f"`models`: expected one of {', '.join(known)}, got {models!r}{hint}")
    if found:
        raise ConfigError(found)


def _pipeline_problems(pipeline: Any, kind: str, family: str | None, chosen: str | None) -> list[str]:
    if not isinstance(getattr(pipeline, "components", None), Mapping):
        return [
            f"`pipeline`: expected a loaded pipeline of diffusers, got a {kind}; a name or a folder goes to "
            "SGOOLPipeline.from_pretrained"
        ]
    if family is not None and family not in FAMILIES:
        hint = did_you_mean(family, FAMILIES) or "."
        return [f"`family`: expected one of {', '.join(FAMILIES)}, got {family!r}{hint}"]
    if chosen is None:
        return [
            f"`pipeline`: there is no model family for {kind}; expected one of {known_families()}. "
            f'SGOOLPipeline(pipeline, family="{REPLAY}") runs any pipeline\'s own call'
        ]
    return []


def _call_defaults(pipeline: Any) -> dict[str, Any]:
    """Returns the number of steps and the guidance that a pipeline's call has by default, where it has them."""
    parameters = inspect.signature(type(pipeline).__call__).parameters
    found = {name: parameters[name].default for name in _NUMBERS if name in parameters}
    network = getattr(pipeline, "transformer", None)
    if type(network).__name__ == "FluxTransformer2DModel" and not network.config.guidance_embeds:  # type: ignore[union-attr]
        found["guidance_scale"] = 0.0  # FLUX.1 schnell is told no scale, whatever the default says
    return {name: value for name, value in found.items() if isinstance(value, (int, float))}


def _defaults(numbers: Mapping[str, Any], path: str | None = None) -> list[str]:
    """Returns overrides that leave steps, guidance, size and scheduler to the pipeline.

    Args:
        numbers: The steps and the guidance where they are known; else they are found when the model is loaded.
        path: Where the model is loaded from, if it is not.
    """
    place = [] if path is None else [f"models.path={hydra_quoted(path)}", "models.dtype=float32"]
    preset = [f"models.preset.{name}={numbers.get(name, _NULL)}" for name in _NUMBERS]
    return [f"models={_BASE}", "sampler=native", *place, *preset]


def _dtype(pipeline: Any, family: str) -> str:
    row = FAMILIES[family]
    network = getattr(pipeline, row.denoiser, None) if row.denoiser else None
    return str(getattr(network, "dtype", None) or pipeline.dtype).removeprefix("torch.")


def _name(pipeline: Any) -> str:
    return str(pipeline.config.get("_name_or_path") or "")


def _best(path: str, known: Mapping[str, Mapping[str, Any]], pipeline: Any) -> str | None:
    """Returns the configuration whose model has this id or a folder's name, and that says most of what is there."""
    last = _last(path)
    fitting = [
        (_agreement(own, pipeline), -number, name)
        for number, (name, own) in enumerate(known.items())
        if last and last == _last(str(own.get("path", "")))
    ]
    found = [entry for entry in fitting if entry[0] >= 0]
    return max(found)[2] if found else None


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2].lower()


def _agreement(own: Mapping[str, Any], pipeline: Any) -> int:
    """Returns how many parts of a configuration a pipeline has; -1 where it lacks one."""
    points = 0
    for name, part in (own.get("components") or {}).items():
        wanted = part if isinstance(part, str) else str(part.get("path"))
        loaded = getattr(getattr(pipeline, name, None), "config", {})
        if _last(wanted) != _last(str(loaded.get("_name_or_path") or "")):
            return -1
        points += 1
    kind = (own.get("scheduler") or {}).get("class")
    if kind is None or pipeline is None:
        return points
    if type(pipeline.scheduler).__name__ != kind:
        # A scheduler alone does not make another model: SDXL-Turbo runs with several.
        return points if not own.get("components") else -1
    return points + 1


def of_loading(device: Any, dtype: Any, torch_dtype: Any, variant: str | None) -> tuple[list[str], list[str]]:
    """Returns overrides for the arguments of `from_pretrained` that say how a model is loaded, and their problems."""
    problems = []
    if dtype is not None and torch_dtype is not None:
        problems.append(f"`torch_dtype`: expected None where `dtype` is given, got {torch_dtype} and {dtype}")
    kind = torch_dtype if dtype is None else dtype
    found = {
        "device": None if device is None else str(device),
        "dtype": None if kind is None else str(kind).removeprefix("torch."),
        "variant": None if variant is None else hydra_quoted(variant),
    }
    return [f"models.{key}={value}" for key, value in found.items() if value is not None], problems


def joined(base: Sequence[str], own: Sequence[str]) -> list[str]:
    """Returns overrides, without the choices of groups of ``base`` that ``own`` makes anew."""
    chosen = {line.partition("=")[0] for line in own if "=" in line}
    return [*(line for line in base if line.partition("=")[0] not in chosen), *own]


def as_hydra(value: Any) -> str:
    """Returns a value as Hydra's grammar has it in an override."""
    if isinstance(value, str):
        return hydra_quoted(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {as_hydra(own)}" for name, own in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(as_hydra, value)) + "]"
    return _NULL if value is None else str(value).lower() if isinstance(value, bool) else repr(value)


def together(problems: Sequence[str], find: Callable[[], Settings]) -> Settings:
    """Returns the settings; raises their problems together with those found before."""
    try:
        found = find()
    except ConfigError as error:
        raise ConfigError([*error.problems, *problems]) from error
    if problems:
        raise ConfigError(problems)
    return found


def described(config: Mapping[str, Any], settings: Settings, *, judged: bool) -> str:
    """Returns lines for people that say which settings were taken.

    Args:
        config: The configuration of a call.
        settings: Where it comes from.
        judged: Whether judges score the images.
    """
    sampler, models = config["sampler"], config["models"]
    numbers = {name: sampler[name] for name in _NUMBERS}
    own = ", ".join(f"{k}: {'the default of the model' if v is None else v}" for k, v in numbers.items())
    judges = ", ".join(models["judges"]) if judged else ""
    return (
        f"  settings: {settings.source}\n  sampler: {sampler['name']}, {own}\n"
        f"  guide: {models['guide']['model']}, judges: {judges or 'none'}"
    )
