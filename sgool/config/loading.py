"""What a model is loaded from beside its folder: a variant, other parts, a scheduler, LoRAs, quantised weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from typing import Any

from sgool.config.rules import Each, Rule, Schema, Variants, check, choice, list_of, mapping, matching, optional, text
from sgool.config.rules import number as finite
from sgool.errors import ConfigError

_COMPONENT: dict[str, Schema] = {
    "path": text(),
    "file": optional(text()),
    "subfolder": optional(text()),
    "class": optional(text()),
}
_LORA: dict[str, Schema] = {"path": text(), "file": optional(text()), "weight": finite()}
_PARTS = optional(list_of(text()))
_QUANTIZATION = Variants(
    "backend",
    {
        "bitsandbytes": {"weights": choice("nf4", "fp4"), "parts": _PARTS},
        "torchao": {"weights": choice("int8", "int4", "float8"), "parts": _PARTS},
    },
)

#: Rules of `models` for these keys, one level deep; `loading_problems` checks what is below.
LOADING: dict[str, Rule] = {
    "config": optional(text()),
    "variant": optional(matching(r"[\w-]+", "a word that stands in the names of files, such as fp16")),
    "components": optional(mapping("folders or files by the names of the pipeline's parts")),
    "scheduler": optional(mapping("a scheduler's class and settings")),
    "loras": optional(Rule("a list of mappings with path and weight", lambda value: isinstance(value, list))),
    "quantization": optional(mapping("backend and weights")),
}


@dataclass(frozen=True)
class Component:
    """A part of a pipeline that comes from elsewhere.

    Attributes:
        path: A folder, a pipeline's folder, a file of weights, or a hub id.
        file: The file of weights within the folder or hub repository; None: ``path`` is the part itself.
        subfolder: Where the part lies below ``path``; None: at its top or, in a pipeline's folder, by its name.
        kind: Name of its class in diffusers or transformers; None: what its own configuration says.
    """

    path: str
    file: str | None = None
    subfolder: str | None = None
    kind: str | None = None


@dataclass(frozen=True)
class Lora:
    """A low-rank change of the networks' weights.

    Attributes:
        path: A file, a folder or a hub id.
        weight: Factor on the change.
        file: The file within the folder or hub repository; None: the one that is there.
    """

    path: str
    weight: float = 1.0
    file: str | None = None


@dataclass(frozen=True)
class Loading:
    """How a model is loaded beside its path; each attribute is the key of `models` with that name.

    Attributes:
        config: Folder or hub id with the configuration of a single file's pipeline.
        variant: Variant of the weights' files, such as "fp16".
        components: Parts in place of the pipeline's own, by their names.
        scheduler: Name of another scheduler's ``class``, and settings that differ from the model's.
        loras: In the order in which they are fused.
        quantization: ``backend``, ``weights`` and ``parts`` of quantised weights.
    """

    config: str | None = None
    variant: str | None = None
    components: Mapping[str, Component] = field(default_factory=dict)
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    loras: Sequence[Lora] = ()
    quantization: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any] | None) -> Loading:
        """Reads these keys from the configuration's ``models``, or from a mapping with any of them.

        Raises:
            ConfigError: A value follows no rule; all problems at once.
        """
        given = {key: value for key, value in (options or {}).items() if key in LOADING and value is not None}
        if problems := _value_problems(given):
            raise ConfigError(problems)
        given = expanded(given)
        return cls(
            **{
                **given,
                "components": {
                    name: Component(part["path"], part["file"], part["subfolder"], part["class"])
                    for name, part in given.get("components", {}).items()
                },
                "loras": tuple(Lora(**lora) for lora in given.get("loras", ())),
            }
        )


#: Keys of `models` that say how a model is loaded.
KEYS = tuple(entry.name for entry in fields(Loading))


def expanded(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns options with the short forms of components and LoRAs, a path alone, as mappings; others as they are."""
    done = dict(options)
    if isinstance(parts := options.get("components"), Mapping):
        blank = {"path": None, "file": None, "subfolder": None, "class": None}
        done["components"] = {name: blank | _with_path(part) for name, part in parts.items()}
    if isinstance(loras := options.get("loras"), list):
        done["loras"] = [{"path": None, "file": None, "weight": 1.0} | _with_path(lora) for lora in loras]
    if isinstance(how := options.get("quantization"), Mapping):
        done["quantization"] = {"parts": None} | dict(how)
    return done


def _with_path(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {"path": value}


def _value_problems(options: Mapping[str, Any]) -> list[str]:
    """Returns a sentence for each value that follows no rule."""
    given = {key: value for key, value in options.items() if value is not None}
    found = {key: check(value, LOADING[key], f"models.{key}") for key, value in given.items()}
    full = expanded({key: value for key, value in given.items() if not found[key]})
    deeper = check(full.get("components", {}), Each(_COMPONENT), "models.components")
    for number, lora in enumerate(full.get("loras", ())):
        deeper += check(lora, _LORA, f"models.loras[{number}]")
    if "quantization" in full:
        deeper += check(full["quantization"], _QUANTIZATION, "models.quantization")
    if "class" in (scheduler := full.get("scheduler", {})):
        a_class = matching(r"[A-Za-z]\w+", "the name of a scheduler's class in diffusers")
        deeper += check(scheduler["class"], a_class, "models.scheduler.class")
    return [problem.text for problem in [*(entry for entries in found.values() for entry in entries), *deeper]]


def loading_problems(models: Mapping[str, Any]) -> Iterator[str]:
    """Yields a problem for each of these keys that is wrong or that needs a package which is not installed.

    Args:
        models: The configuration's ``models``.
    """
    options = {key: models.get(key) for key in KEYS}
    if problems := _value_problems(options):
        yield from problems
        return
    loading = Loading.of(options)
    if loading.loras and loading.quantization:
        yield (
            "`models.loras`: expected none with `models.quantization`, since LoRAs are fused into whole weights; save "
            "the model with its LoRAs first (`pipe.fuse_lora()`, `pipe.save_pretrained(folder)`) and give that folder"
        )
    if loading.loras:
        yield from missing_package("peft", "`models.loras`", "lora")
    if loading.quantization:
        yield from missing_package(loading.quantization["backend"], "`models.quantization`", "quantization")
    if any(is_gguf(part) for part in loading.components.values()):
        yield from missing_package("gguf", "`models.components`: a GGUF file", "quantization")


def offload_problems(models: Mapping[str, Any]) -> Iterator[str]:
    """Yields a problem for each key with which networks cannot take turns on the device.

    Args:
        models: ``offload``, ``compile`` and ``quantization`` of the configuration's ``models``.
    """
    offload = models["offload"]
    if offload not in (None, "model"):
        yield f"`models.offload`: expected model or null, got {offload!r}"
    if offload is None:
        return
    if models["compile"]:
        yield (
            f"`models.compile`: expected false with models.offload={offload}, which moves the weights that compiled "
            f"code was made for, got {str(models['compile']).lower()}; use one of the two"
        )
    if models["quantization"]:
        yield (
            f"`models.quantization`: expected null with models.offload={offload}, since not all quantised weights can "
            "be moved; use models.offload_text_encoders=true"
        )


def is_gguf(part: Component) -> bool:
    """Whether a part comes from a GGUF file."""
    return (part.file or part.path).endswith(".gguf")


def missing_package(package: str, who: str, extra: str) -> Iterator[str]:
    """Yields a sentence with the extra to install if a package is not there.

    Args:
        package: Name of the module.
        who: What needs it, the subject of the sentence.
        extra: Extra of sgool that has it.
    """
    if find_spec(package) is None:
        yield f"{who} needs the package {package}, which is not installed: pip install 'sgool[{extra}]'"
