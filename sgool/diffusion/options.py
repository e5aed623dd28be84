"""Options and capabilities of samplers and gradient engines, and the rules for using them together.

Nothing here imports torch, so that a configuration can be checked before a network loads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from sgool.config.families import REPLAY
from sgool.config.kinds import Kind
from sgool.config.loading import LOADING
from sgool.config.options import Config, CustomOptions, Options, option, required
from sgool.config.pipeline import clipping_problems, guidance_problems, steps_problems
from sgool.config.rules import choice, flag, integer, list_of, number, optional
from sgool.config.sources import described_by, replaced_configs


@dataclass(frozen=True, kw_only=True)
class SamplerOptions(Options):
    """Options of every sampler, and its capabilities.

    Attributes:
        invertible: Whether its steps can be undone exactly, so that gradients may run backwards through them.
        has_inverse: Whether first latents of a given image can be found at all, exactly or approximately.
        guidable: Whether the noise of each of its steps may be changed by classifier guidance.
        adds_noise: Whether it may add noise on the way, as far as is known before a model loads.
    """

    sees: ClassVar[tuple[str, ...]] = ("models.path", *(f"models.{key}" for key in LOADING))
    invertible: ClassVar[bool | None] = False
    has_inverse: ClassVar[bool | None] = False
    guidable: ClassVar[bool | None] = False
    adds_noise: ClassVar[bool | None] = False

    num_inference_steps: int | None = required(integer(1))
    guidance_scale: float | None = required(number(least=0))

    def problems(self, where: str, config: Config) -> Iterator[str]:
        """Yields a problem if there are more denoising steps than the model was trained with."""
        yield from super().problems(where, config)
        if self.num_inference_steps is not None:
            yield from steps_problems(described_by(config["models"]), self.num_inference_steps)
        yield from guidance_problems(described_by(config["models"]), self.guidance_scale)


@dataclass(frozen=True, kw_only=True)
class DDIMOptions(SamplerOptions):
    """Options of DDIM without noise."""

    builder = "sgool.diffusion.ddim.DDIM"
    has_inverse = True
    guidable = True


@dataclass(frozen=True, kw_only=True)
class EDICTOptions(SamplerOptions):
    """Options of EDICT, the sampler with two coupled streams."""

    builder = "sgool.diffusion.edict.EDICT"
    invertible = True
    has_inverse = True

    mixing_coeff: float = option(0.93, number(above=0.5, most=1))
    leapfrog: bool = option(True, flag())
    decode: str = option("both", choice("both", "x"))


@dataclass(frozen=True, kw_only=True)
class BELMOptions(SamplerOptions):
    """Options of O-BELM, a two-step sampler."""

    builder = "sgool.diffusion.two_step.BELM"
    invertible = True
    has_inverse = True


@dataclass(frozen=True, kw_only=True)
class BDIAOptions(SamplerOptions):
    """Options of BDIA-DDIM, a two-step sampler."""

    builder = "sgool.diffusion.two_step.BDIA"
    invertible = True
    has_inverse = True

    gamma: float = option(1.0, number(above=0, most=1))


@dataclass(frozen=True, kw_only=True)
class DPMSolverOptions(SamplerOptions):
    """Options of DPM-Solver++(2M)."""

    builder = "sgool.diffusion.dpm_solver.DPMSolver"
    guidable = True


@dataclass(frozen=True, kw_only=True)
class NativeOptions(SamplerOptions):
    """Options of the model's own scheduler as a sampler."""

    builder = "sgool.diffusion.native.Native"
    adds_noise = True

    num_inference_steps: int | None = required(optional(integer(1)))
    guidance_scale: float | None = required(optional(number(least=0)))
    timesteps: list[float] | None = option(None, optional(list_of(number(least=0))))
    sigmas: list[float] | None = option(None, optional(list_of(number(least=0))))
    eta: float = option(0.0, number(least=0, most=1))

    def problems(self, where: str, config: Config) -> Iterator[str]:
        """Yields a problem for a scheduler that clips, and for timesteps or sigmas that do not fit the steps."""
        yield from super().problems(where, config)
        models = config["models"]
        if models.get("family") != REPLAY:  # a pipeline's own call may clip
            yield from clipping_problems(described_by(models), replaced_configs(models))
        if self.timesteps is not None and self.sigmas is not None:
            yield f"`{where}.timesteps`, `{where}.sigmas`: expected one of the two at most, got both"
        for name, values in (("timesteps", self.timesteps), ("sigmas", self.sigmas)):
            if values is not None and len(values) != self.num_inference_steps:
                yield (
                    f"`{where}.num_inference_steps`: expected {len(values)}, as many as `{where}.{name}` has, got "
                    f"{self.num_inference_steps}"
                )


@dataclass(frozen=True, kw_only=True)
class CustomSamplerOptions(CustomOptions, SamplerOptions):
    """Options of a user's own sampler; its capabilities are known only when it is built."""

    invertible = None
    has_inverse = None
    guidable = None
    adds_noise = None

    decode: str = option("both", choice("both", "x"))


SAMPLERS: Kind[SamplerOptions] = Kind(
    word="a sampler",
    key="name",
    components={
        "ddim": DDIMOptions,
        "edict": EDICTOptions,
        "belm": BELMOptions,
        "bdia": BDIAOptions,
        "dpm_solver": DPMSolverOptions,
        "native": NativeOptions,
    },
    custom=CustomSamplerOptions,
    parts=("name", "num_streams", "accepted_streams", "spacing", "moves", "begin", "finish"),
    docs="docs/chain.md",
)


@dataclass(frozen=True, kw_only=True)
class EngineOptions(Options):
    """Options of every gradient engine, and its capability.

    Attributes:
        inverts: Whether the engine runs the sampler backwards, which must then be invertible.
    """

    sees: ClassVar[tuple[str, ...]] = ("sampler",)
    inverts: ClassVar[bool | None] = False

    gradient_steps: int | None = option(None, optional(integer(1)))
    split_guidance: bool = option(False, flag())
    block_checkpointing: bool = option(False, flag())

    def problems(self, where: str, config: Config) -> Iterator[str]:
        """Yields a problem for a sampler that the engine cannot run, and for more gradient steps than there are."""
        yield from super().problems(where, config)
        sampler, steps = config["sampler"]["name"], config["sampler"]["num_inference_steps"]
        if self.inverts and SAMPLERS.options(config["sampler"]).invertible is False:
            yield (
                f"`{where}`: {config['engine']['name']} needs a sampler with an exact inverse "
                f"({', '.join(SAMPLERS.able('invertible'))}), and {sampler} has none; use engine=checkpoint"
            )
        if self.gradient_steps is not None and steps is not None and self.gradient_steps > steps:
            yield (
                f"`{where}.gradient_steps`: expected at most `sampler.num_inference_steps`, {steps}, or null for all, "
                f"got {self.gradient_steps}"
            )


@dataclass(frozen=True, kw_only=True)
class DirectOptions(EngineOptions):
    """Options of the engine of plain autograd."""

    builder = "sgool.diffusion.engines.Direct"


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions(EngineOptions):
    """Options of the engine that makes network calls again in backward."""

    builder = "sgool.diffusion.engines.Checkpoint"

    memory_mib: float = option(0, number(least=0))


@dataclass(frozen=True, kw_only=True)
class ReversibleOptions(EngineOptions):
    """Options of the engine that runs the sampler backwards."""

    builder = "sgool.diffusion.engines.Reversible"
    inverts = True

    warn_drift: float = option(1e-3, number(above=0))
    max_drift: float = option(1e-2, number(above=0))

    def problems(self, where: str, config: Config) -> Iterator[str]:
        """Yields the problems of every engine, and one for thresholds in the wrong order."""
        yield from super().problems(where, config)
        if self.warn_drift > self.max_drift:
            yield (
                f"`{where}.warn_drift`: expected at most `{where}.max_drift`, {self.max_drift}, got {self.warn_drift}"
            )


@dataclass(frozen=True, kw_only=True)
class CustomEngineOptions(CustomOptions, EngineOptions):
    """Options of a user's own engine; its `check` says, before the first network call, whether it runs a sampler."""

    inverts = None


ENGINES: Kind[EngineOptions] = Kind(
    word="an engine",
    key="name",
    components={"direct": DirectOptions, "checkpoint": CheckpointOptions, "reversible": ReversibleOptions},
    custom=CustomEngineOptions,
    parts=("name", "check", "run"),
    docs="docs/chain.md",
)
