"""Scores of a method's results, and their means over the data set in Lightning's logs."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
from torchmetrics import Metric
from torchmetrics.aggregation import MeanMetric

from sgool.diffusion import Chain
from sgool.methods.starts import network_prompts
from sgool.metrics.base import gather_states
from sgool.metrics.panel import JudgePanel
from sgool.types import PairResult, PromptSeed


class ScoredModule(L.LightningModule):
    """A module whose results judges score.

    Args:
        chain: The denoising chain.
        judges: Name -> a CLIP tower or metrics, or a whole `JudgePanel`; they score the first and the final images.

    Attributes:
        panel: The judges, or None.
        objective_mean: Mean of the objective over all pairs, on their final images.
        objective_initial_mean: The same on their first images.
    """

    def __init__(self, chain: Chain, judges: JudgePanel | Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.chain = chain
        self.panel = judges if isinstance(judges, JudgePanel) or judges is None else JudgePanel(judges)
        self.objective_mean, self.objective_initial_mean = _mean(), _mean()

    def score(self, results: Sequence[PairResult]) -> list[dict[str, float]]:
        """Scores results: returns each one's metrics for its record, and counts those that ended well in the means."""
        rows: list[dict[str, float]] = [{} for _ in results]
        if self.panel is not None:
            # Judges get a black image in place of one that is not finite, and its scores do not count.
            first, final = (
                torch.stack([torch.where(image.isfinite().all(), image, 0) for image in images]).to(self.chain.device)
                for images in ([r.initial_image for r in results], [r.final_image for r in results])
            )
            latents = [(result.initial_latents, result.final_latents) for result in results]
            well = [result.error is None for result in results]
            rows = self.panel.judge(first, final, [result.pair for result in results], latents, counted=well)
            rows = [row if _is_finite(result) else {} for row, result in zip(rows, results, strict=True)]
        for row, result in zip(rows, results, strict=True):
            if result.pair.start is not None:
                row |= result.pair.start.metrics
            if result.history:
                row["objective_initial"] = result.history[0]["selection"]
                row["objective"] = result.history[result.best_step]["selection"]
                means = {"objective_initial": self.objective_initial_mean, "objective": self.objective_mean}
                for key, mean in means.items() if result.error is None else ():
                    if math.isfinite(row[key]):  # a first score need not be: another candidate's counts
                        mean.update(row[key])
            row |= self.unread(result.pair)
        return rows

    def unread(self, pair: PromptSeed) -> dict[str, float]:
        """Counts the characters of a prompt that the pipeline (``truncated``) and the objective's terms do not read.

        ``negative_prompt/truncated`` is the same of the negative prompt, where there is guidance. Most terms read with
        a network that judges as well; what a judge does not read stands beside its score.
        """
        prompt, negative = pair.prompt, pair.negative_prompt if self.chain.is_guided else ""
        cut, left_out = self.chain.truncated([*network_prompts([pair]), negative])
        row = {"truncated": float(len(cut))} if cut else {}
        row |= {"negative_prompt/truncated": float(len(left_out))} if left_out else {}
        objective = getattr(self, "objective", None)
        if objective is not None:
            said = [] if self.panel is None else [text for (text,) in self.panel.truncated([prompt]).values()]
            for name, (text,) in objective.truncated([prompt]).items():
                if text and text not in said:
                    row[f"objective/{name}/truncated"] = float(len(text))
        return row

    def means(self) -> dict[str, Metric]:
        """Returns, by name, the metrics whose ``compute`` is the mean over all pairs so far that ended well.

        Without a process group those that counted nothing are left out; with one, every process has all of them.
        """
        found: dict[str, Metric] = {} if self.panel is None else dict(self.panel.named_metrics())
        found |= {"objective": self.objective_mean, "objective_initial": self.objective_initial_mean}
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return found
        return {name: metric for name, metric in found.items() if _counted(metric)}

    def reset_means(self) -> None:
        """Begins all means anew; Lightning does so after an epoch of training or a test, not after a prediction."""
        if self.panel is not None:
            self.panel.reset()
        self.objective_mean.reset()
        self.objective_initial_mean.reset()

    def _log_means(self) -> None:
        for name, metric in self.means().items():
            self.log(name, metric)

    def on_train_epoch_end(self) -> None:
        """Logs the judges' means over the data set."""
        self._log_means()

    def on_test_epoch_end(self) -> None:
        """Logs the judges' means over the data set."""
        self._log_means()

    def on_predict_epoch_end(self) -> None:
        """Gives the means to the loggers: Lightning has no ``self.log`` while it predicts."""
        values = {name: float(metric.compute()) for name, metric in self.means().items()}
        if not values:
            return
        for logger in self.trainer.loggers:
            logger.log_metrics(values)
            logger.save()


def _is_finite(result: PairResult) -> bool:
    return bool(result.initial_image.isfinite().all() and result.final_image.isfinite().all())


def _mean() -> MeanMetric:
    metric = MeanMetric(nan_strategy="disable", dist_sync_fn=gather_states)
    metric.set_dtype(torch.float64)
    metric.persistent(True)
    return metric


def _counted(metric: Metric) -> bool:
    """Whether a mean has counted anything; one that has not computes NaN."""
    with warnings.catch_warnings():
        # Sums that came from a checkpoint were not updated here.
        warnings.filterwarnings("ignore", message="The ``compute`` method of metric")
        return not bool(torch.as_tensor(metric.compute()).isnan().all())
