"""The arguments of a call: checked all at once, and turned into overrides of the configuration."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Generator, Tensor

from sgool.errors import ConfigError
from sgool.objectives.function import FunctionTerm
from sgool.objectives.terms import Term
from sgool.pipeline.callbacks import TENSORS
from sgool.pipeline.output import OUTPUT_TYPES

#: Arguments that are whole numbers above 0, if given.
_COUNTS = ("num_inference_steps", "height", "width", "candidates", "num_optimization_steps")
_NUMBERS = (*_COUNTS, "num_images_per_prompt", "guidance_scale", "budget")
#: Columns of a history that are no terms.
_COLUMNS = ("image", "prompt", "update", "loss", "selection", "latent_norm", "gradient_norm", "candidate", "regions")
#: Groups and keys that have an argument of their own, or that a pipeline cannot change from call to call.
_TAKEN = {
    "models": "SGOOLPipeline.from_pretrained(NAME)",
    "methods": "method=",
    "data": "prompt=, negative_prompt= and generator=",
    "run_dir": "the result, which is in memory; `sgool fit` writes a run folder",
    "logger": "result.history; `sgool fit` writes logs",
}


@dataclass
class Arguments:
    """The arguments of `sgool.pipeline.SGOOLPipeline.__call__`, whose docstring says what they are."""

    prompt: Any
    negative_prompt: Any = None
    num_inference_steps: Any = None
    guidance_scale: Any = None
    height: Any = None
    width: Any = None
    num_images_per_prompt: Any = 1
    generator: Any = None
    latents: Any = None
    output_type: Any = "pil"
    callback_on_step_end: Any = None
    callback_on_step_end_tensor_inputs: Any = ("latents",)
    method: Any = "sgool"
    objective: Any = None
    budget: Any = None
    num_optimization_steps: Any = None
    candidates: Any = None
    saliency: Any = None
    sampler: Any = None
    overrides: Any = ()
    prompts: list[str] = field(init=False, default_factory=list)
    negatives: list[str] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        vars(self).update({name: _plain(vars(self)[name]) for name in _NUMBERS})
        problems = [*self._of_prompts(), *self._of_numbers(), *self._of_noise(), *self._of_parts(), *self._of_output()]
        if problems:
            raise ConfigError(problems)
        each = self.num_images_per_prompt
        self.prompts = [prompt for prompt in _texts(self.prompt) for _ in range(each)]
        negatives = _texts(self.negative_prompt or "")
        negatives = negatives * len(_texts(self.prompt)) if len(negatives) == 1 else negatives
        self.negatives = [text for text in negatives for _ in range(each)]

    @property
    def num_images(self) -> int:
        """How many images are asked for; 0 where the prompts or their number are wrong."""
        each = self.num_images_per_prompt if _is_count(self.num_images_per_prompt) else 0
        return len(_texts(self.prompt)) * each

    def _of_prompts(self) -> Iterator[str]:
        prompts = _texts(self.prompt)
        if not prompts or not all(isinstance(text, str) for text in prompts):
            yield f"`prompt`: expected a text or a list of at least one text, got {_short(self.prompt)}"
        if not _is_count(self.num_images_per_prompt):
            yield f"`num_images_per_prompt`: expected a whole number of at least 1, got {self.num_images_per_prompt!r}"
        if self.negative_prompt is None:
            return
        negatives = _texts(self.negative_prompt)
        if not all(isinstance(text, str) for text in negatives) or len(negatives) not in (1, len(prompts)):
            yield (
                f"`negative_prompt`: expected a text, or a list with one for each of the {len(prompts)} prompts, got "
                f"{_short(self.negative_prompt)}"
            )

    def _of_numbers(self) -> Iterator[str]:
        for name in _COUNTS:
            if getattr(self, name) is not None and not _is_count(getattr(self, name)):
                yield f"`{name}`: expected a whole number of at least 1, got {getattr(self, name)!r}"
        scale = self.guidance_scale
        if scale is not None and not (_is_number(scale) and scale >= 0):
            yield f"`guidance_scale`: expected a number of at least 0, got {scale!r}"
        yield from self._of_budget()

    def _of_budget(self) -> Iterator[str]:
        given = self.budget
        if given is None or (_is_count(given)):
            return
        limits = given if isinstance(given, Mapping) else {}
        right = set(limits) <= {"calls", "seconds"} and len(limits) > 0
        right = right and (limits.get("calls") is None or _is_count(limits["calls"]))
        seconds = limits.get("seconds")
        if not (right and (seconds is None or (_is_number(seconds) and seconds > 0))):
            yield (
                "`budget`: expected a number of network calls such as 400, or a mapping such as {'calls': 400} or "
                f"{{'seconds': 30}}, got {_short(given)}"
            )

    def _of_noise(self) -> Iterator[str]:
        given, number = self.generator, self.num_images
        if isinstance(given, (list, tuple)):
            if not all(isinstance(own, Generator) for own in given) or (number and len(given) != number):
                yield (
                    f"`generator`: expected a torch.Generator, or a list with one for each of the {number} images, got "
                    f"{_short(given)}"
                )
            elif len({id(own) for own in given}) < len(given):
                yield "`generator`: expected a list of different generators, got the same one twice"
        elif given is not None and not isinstance(given, Generator):
            yield f"`generator`: expected a torch.Generator or a list of them, got {_short(given)}"
        if self.latents is not None and not (isinstance(self.latents, Tensor) and self.latents.is_floating_point()):
            yield f"`latents`: expected a floating-point tensor (N, C, h, w), got {_short(self.latents)}"

    def _of_parts(self) -> Iterator[str]:
        for name in ("method", "objective", "saliency", "sampler"):
            if getattr(self, name) == "":
                yield f"`{name}`: expected a name, got an empty text"
        if not isinstance(self.method, str):
            yield f'`method`: expected a name such as "sgool", got {_short(self.method)}'
        if self.saliency is not None and not (isinstance(self.saliency, str) or callable(self.saliency)):
            yield f"`saliency`: expected a name, or a detector that is called with images, got {_short(self.saliency)}"
        if self.sampler is not None and not isinstance(self.sampler, str) and not hasattr(self.sampler, "moves"):
            yield f"`sampler`: expected a name, or a sampler (sgool.diffusion.sampler), got {_short(self.sampler)}"
        for part in _parts_of(self.objective):
            if not _is_objective(part):
                yield (
                    '`objective`: expected a name such as "color", a function of images, a term '
                    f"(sgool.objectives.Term), or a list or mapping of those, got {_short(part)}"
                )
        names = [part for part in _parts_of(self.objective) if isinstance(part, str)]
        if names and isinstance(self.objective, Mapping):
            yield f'`objective`: a name stands in a list, beside functions and terms: ["{names[0]}", function]'
        if len(names) > 1:
            yield f"`objective`: expected at most one name beside functions and terms, got {', '.join(names)}"

    def _of_output(self) -> Iterator[str]:
        if self.output_type not in OUTPUT_TYPES:
            yield f"`output_type`: expected one of {', '.join(OUTPUT_TYPES)}, got {self.output_type!r}"
        if self.callback_on_step_end is not None and not callable(self.callback_on_step_end):
            yield f"`callback_on_step_end`: expected a function, got {_short(self.callback_on_step_end)}"
        names = self.callback_on_step_end_tensor_inputs
        names = [names] if isinstance(names, str) else list(names or ())
        if unknown := [name for name in names if name not in TENSORS]:
            yield (
                f"`callback_on_step_end_tensor_inputs`: expected some of {', '.join(TENSORS)}, got "
                f"{', '.join(map(str, unknown))}"
            )
        lines = self.overrides
        if isinstance(lines, str) or not isinstance(lines, Sequence) or not all(isinstance(o, str) for o in lines):
            yield f'`overrides`: expected a list of texts such as ["optimization.lr=2"], got {_short(lines)}'
            return
        for line in lines:
            key = line.lstrip("+~").partition("=")[0]
            if key in _TAKEN or key.startswith("data."):
                yield f"`overrides`: {line!r} has an argument of its own; use {_TAKEN[key.partition('.')[0]]}"

    def config_overrides(self) -> list[str]:
        """Returns the overrides of the configuration that these arguments stand for, without those of the method."""
        given = {
            "sampler.num_inference_steps": self.num_inference_steps,
            "sampler.guidance_scale": self.guidance_scale,
            "models.height": self.height,
            "models.width": self.width,
        }
        budget = self.budget if isinstance(self.budget, Mapping) else {"calls": self.budget}
        given |= {f"budget.{key}": value for key, value in budget.items()}
        lines = [f"{key}={value}" for key, value in given.items() if value is not None]
        names = [part for part in _parts_of(self.objective) if isinstance(part, str)]
        groups = {"objective": names[0] if names else None, "saliency": self.saliency, "sampler": self.sampler}
        lines += [f"{group}={name}" for group, name in groups.items() if isinstance(name, str)]
        return [f"methods=[{self.method}]", *lines, *self.overrides]

    def method_overrides(self, entry: Mapping[str, Any], optimizes: bool) -> list[str]:
        """Returns the overrides of the method's own settings.

        Args:
            entry: What stands below ``method.NAME``.
            optimizes: Whether the method makes updates.

        Raises:
            ConfigError: The method has no such setting.
        """
        where, lines, problems = f"method.{self.method}", [], []
        if self.budget is not None and optimizes and self.num_optimization_steps is not None:
            problems.append("`num_optimization_steps`: expected None beside `budget`, which decides on their number")
        if self.budget is not None and self.candidates is not None and "num_candidates" in entry:
            problems.append(f"`candidates`: expected None beside `budget`, which decides how many {self.method} tries")
        if self.candidates is not None and "num_candidates" in entry:
            lines.append(f"{where}.num_candidates={self.candidates}")
        elif self.candidates is not None and optimizes:
            own = {"candidates": self.candidates, "search_share": "null", "max_updates": "null"}
            lines += [f"++{where}.optimization.{key}={value}" for key, value in own.items()]
        elif self.candidates is not None and "particles" in entry:
            problems.append(
                f"`candidates`: expected None, since {self.method} has particles; their number is set by "
                f'overrides=["{where}.particles={self.candidates}"]'
            )
        elif self.candidates is not None:
            problems.append(f"`candidates`: expected None, since {self.method} tries no candidates")
        if self.num_optimization_steps is not None and optimizes:
            lines.append(f"++{where}.optimization.num_optimization_steps={self.num_optimization_steps}")
        elif self.num_optimization_steps is not None:
            problems.append(f"`num_optimization_steps`: expected None, since {self.method} makes no updates")
        if problems:
            raise ConfigError(problems)
        return lines

    @property
    def terms(self) -> dict[str, tuple[Term, float]]:
        """The objective's terms that are given as objects, with their weights.

        A name that is a column of the history already, such as "loss", gets ``_term`` at its end.
        """
        given = self.objective
        named = given.items() if isinstance(given, Mapping) else [(None, entry) for entry in _entries_of(given)]
        found: dict[str, tuple[Term, float]] = {}
        for name, value in named:
            part, weight = value if _is_weighted(value) else (value, 1.0)
            if isinstance(part, str):
                continue
            term: Any = part if isinstance(part, Term) else FunctionTerm(part, name)
            own = name or str(term.name)
            own += "_term" if own in _COLUMNS else ""
            found[own if own not in found else f"{own}_{len(found)}"] = (term, float(weight))
        return found

    @property
    def replaces_objective(self) -> bool:
        """Whether only the given terms are optimised, and not those of the configuration."""
        return self.objective is not None and not any(isinstance(part, str) for part in _parts_of(self.objective))


def _texts(given: Any) -> list[Any]:
    if isinstance(given, str):
        return [given]
    return list(given) if isinstance(given, (list, tuple)) else []


def _entries_of(objective: Any) -> list[Any]:
    """Returns an objective's names, functions and terms, those with a weight as pairs."""
    if objective is None:
        return []
    values = list(objective.values()) if isinstance(objective, Mapping) else objective
    return values if isinstance(values, list) else [values]


def _parts_of(objective: Any) -> list[Any]:
    """Returns an objective's names, functions and terms, without weights."""
    return [entry[0] if _is_weighted(entry) else entry for entry in _entries_of(objective)]


def _is_weighted(entry: Any) -> bool:
    return isinstance(entry, tuple) and len(entry) == 2 and _is_number(entry[1])


def _is_objective(part: Any) -> bool:
    return isinstance(part, (str, Term)) or callable(part)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _plain(value: Any) -> Any:
    """Returns a number of NumPy, also inside a mapping such as a budget, as the number of Python that it is."""
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return value.item() if isinstance(value, (np.integer, np.floating)) else value


def _short(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)} of {value.dtype}"
    text = repr(value)
    return text if len(text) <= 80 else f"a {type(value).__name__}"


#: What a callback on the end of an update is called with: pipeline, update, updates at most, tensors.
StepEnd = Callable[[Any, int, int, dict[str, Tensor]], Any]
