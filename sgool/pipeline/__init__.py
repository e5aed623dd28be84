"""The optimisation of first latents as a diffusers-like pipeline, for notebooks and scripts.

It is a thin layer on the parts of `sgool fit`: the same configuration, chain, modules, callbacks and Trainer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sgool.config.lazy import lazy_exports

if TYPE_CHECKING:
    from sgool.pipeline.output import SGOOLPipelineOutput as SGOOLPipelineOutput
    from sgool.pipeline.pipeline import SGOOLPipeline as SGOOLPipeline

_MODULES = {"SGOOLPipeline": "pipeline", "SGOOLPipelineOutput": "output"}

__all__ = ["SGOOLPipeline", "SGOOLPipelineOutput"]

__getattr__ = lazy_exports(__name__, _MODULES)
