"""The run's configuration: composed by Hydra, checked as a whole before anything heavy is imported."""

from __future__ import annotations

from sgool.run.config.load import load_config, to_plain, with_quoted_prompts
from sgool.run.config.schema import complete

__all__ = ["complete", "load_config", "to_plain", "with_quoted_prompts"]
