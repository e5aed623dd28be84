"""Options of the methods that search among first latents or particles, without gradients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from sgool.config.options import Config, option
from sgool.config.rules import choice, flag, integer, number, optional, text
from sgool.config.suggest import did_you_mean
from sgool.diffusion.options import SAMPLERS
from sgool.methods.base_options import MethodOptions, optimizing_methods


@dataclass(frozen=True, kw_only=True)
class SearchOptions(MethodOptions):
    """Options of all methods that try one set of first latents after the other."""

    sees: ClassVar[tuple[str, ...]] = ("method",)
    works_on_streams = True

    use_saliency: bool = option(False, flag())
    num_candidates: int | None = option(None, optional(integer(1)))
    same_budget_as: str = option("doodl", text())

    def problems(self, where: str, config: Config) -> Iterator[str]:
        """Finds that there is neither a number of candidates nor an optimisation whose network calls it may spend."""
        known = optimizing_methods(config)
        if self.num_candidates is None and self.same_budget_as not in known:
            hint = did_you_mean(self.same_budget_as, known) or "."
            yield (
                f"`{where}.same_budget_as`: expected a method of kind optimize, got {self.same_budget_as!r}{hint} "
                f"Those are: {', '.join(known) or 'none; set num_candidates'}."
            )


@dataclass(frozen=True, kw_only=True)
class BestOfNOptions(SearchOptions):
    """Options of choosing among many seeds by the objective."""

    builder = "sgool.methods.best_of_n.BestOfN"


@dataclass(frozen=True, kw_only=True)
class ZeroOrderOptions(SearchOptions):
    """Options of going from neighbour to neighbour of the best noise."""

    builder = "sgool.methods.zero_order.ZeroOrder"

    num_neighbours: int = option(4, integer(1))
    threshold: float = option(0.6, number(least=0, below=1))


@dataclass(frozen=True, kw_only=True)
class EvolutionOptions(SearchOptions):
    """Options of a genetic search."""

    builder = "sgool.methods.evolution.Evolution"

    population: int = option(8, integer(2))
    num_elites: int = option(2, integer(0))
    mutation: float = option(0.3, number(least=0, most=1))

    def problems(self, where: str, config: Config) -> Iterator[str]:
        """Finds a generation without children, beside what is wrong with any search."""
        yield from super().problems(where, config)
        if self.num_elites >= self.population:
            yield (
                f"`{where}.num_elites`: expected fewer than the {self.population} of population, got "
                f"{self.num_elites}: there would be no children"
            )


@dataclass(frozen=True, kw_only=True)
class FKSteeringOptions(MethodOptions):
    """Options of resampling particles while they are denoised."""

    builder = "sgool.methods.fk_steering.FKSteering"
    sees: ClassVar[tuple[str, ...]] = ("sampler",)

    use_saliency: bool = option(False, flag())
    particles: int = option(4, integer(1))
    potential: str = option("max", choice("max", "difference", "sum"))
    scale: float = option(10.0, number(least=0))
    resample_every: int = option(3, integer(1))
    resampling: str = option("systematic", choice("systematic", "ssp", "multinomial"))
    ess_threshold: float = option(1.0, number(above=0, most=1))
    eta: float = option(1.0, number(above=0, most=1))

    def problems(self, where: str, config: Config) -> Iterator[str]:
        """Finds a sampler without a step that has fresh noise."""
        sampler = config["sampler"]
        if SAMPLERS.options(sampler) is not SAMPLERS.components["ddim"]:
            yield (
                f"`{where}`: expected sampler=ddim, whose steps can have fresh noise (eta), without which copies of a "
                f"particle stay equal, got {sampler['name']}; use sampler=ddim, or leave "
                f"{where.removeprefix('method.')} out of `methods`"
            )
