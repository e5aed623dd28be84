"""The objective of videos: each frame that is looked at counts as an image of its pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sgool.results.sheets import chosen_frames, place_on_sheet
from sgool.types import ObjectiveOutput, PhraseMatch, PromptSeed

if TYPE_CHECKING:
    from sgool.objectives.objective import BoundObjective, Objective


class VideoObjective:
    """An objective bound to the pairs of B videos: the mean over the frames, with salient regions in each of them.

    Of F frames all, or `Objective.frames` at equal distances, are looked at. Each has random crops of its own, from its
    pair's generator, one frame after the other.

    Args:
        objective: The objective, not bound.
        pairs: The B pairs.
    """

    def __init__(self, objective: Objective, pairs: Sequence[PromptSeed]) -> None:
        self._objective, self._pairs = objective, tuple(pairs)
        self._bound: BoundObjective | None = None
        self._chosen: list[int] = []

    def __call__(self, videos: Tensor, generators: Sequence[torch.Generator], update: int) -> ObjectiveOutput:
        """Computes the loss of videos (B, 3, F, H, W); see `sgool.objectives.BoundObjective`.

        Returns:
            Losses and terms (B,); maps (B, 1, F, H, W), where a frame that is not looked at has the map of the nearest
            one that is; each video's regions, of all its frames together.
        """
        frames = self._frames(videos)
        output = self._of(len(self._chosen))(frames, [own for own in generators for _ in self._chosen], update)
        number, maps = len(self._chosen), output.saliency_map
        regions = [sum(output.regions[at : at + number], ()) for at in range(0, len(output.regions), number)]
        return ObjectiveOutput(
            self._mean(output.loss),
            {name: self._mean(value) for name, value in output.terms.items()},
            None if maps is None else self._whole(maps, videos.shape[2]),
            tuple(regions),
            self._matches(output.matches, videos),
        )

    def evaluate(self, videos: Tensor) -> Tensor:
        """Returns the selection scores (B,), without random crops and without gradient."""
        frames = self._frames(videos)
        return self._mean(self._of(len(self._chosen)).evaluate(frames))

    def find_phrases(self, videos: Tensor) -> tuple[tuple[PhraseMatch, ...], ...]:
        """Returns where each phrase is found: its mean distance, and the box in the frame where it is nearest.

        The box has the pixels of the contact sheet (`sgool.results.sheets`), which is what a run folder shows.
        """
        frames = self._frames(videos)
        return self._matches(self._of(len(self._chosen)).find_phrases(frames), videos)

    def state_dict(self) -> dict[str, Any]:
        """Returns the regions found last, frame by frame; empty before any detection."""
        own = {} if self._bound is None else self._bound.state_dict()
        if self._bound is None or not own:
            return {}
        return {"frames": self._bound.batch_size // len(self._pairs), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores a `state_dict`."""
        own = {name: value for name, value in state.items() if name != "frames"}
        self._of(state["frames"]).load_state_dict(own)

    def _frames(self, videos: Tensor) -> Tensor:
        """Returns the frames (B f, 3, H, W) that are looked at."""
        if videos.shape[:2] != (len(self._pairs), 3):
            raise ValueError(f"expected videos of shape ({len(self._pairs)}, 3, F, H, W), got {tuple(videos.shape)}")
        self._chosen = chosen_frames(videos.shape[2], self._objective.frames)
        return videos[:, :, self._chosen].transpose(1, 2).flatten(0, 1)

    def _of(self, number: int) -> BoundObjective:
        """Returns the objective that is bound to so many frames of each pair."""
        if self._bound is None or self._bound.batch_size != number * len(self._pairs):
            self._bound = self._objective.bind([pair for pair in self._pairs for _ in range(number)])
        return self._bound

    def _mean(self, values: Tensor) -> Tensor:
        return values.view(len(self._pairs), -1).mean(dim=1)

    def _whole(self, maps: Tensor, frames: int) -> Tensor:
        """Returns maps (B, 1, F, H, W) of maps (B f, 1, H, W)."""
        nearest = [
            min(range(len(self._chosen)), key=lambda at: abs(self._chosen[at] - frame)) for frame in range(frames)
        ]
        return maps.unflatten(0, (len(self._pairs), -1))[:, nearest].transpose(1, 2)

    def _matches(
        self, matches: tuple[tuple[PhraseMatch, ...], ...], videos: Tensor
    ) -> tuple[tuple[PhraseMatch, ...], ...]:
        if not matches:
            return ()
        number, (frames, height, width) = len(self._chosen), videos.shape[2:]
        joined = []
        for start in range(0, len(matches), number):
            own = []
            for found in zip(*matches[start : start + number], strict=True):  # of one phrase, frame by frame
                distances = [one.distance for one in found]
                at = distances.index(min(distances))
                region = found[at].region
                if region is not None:
                    top, left = place_on_sheet(self._chosen[at], frames, height, width)
                    region = replace(region, top=region.top + top, left=region.left + left)
                own.append(PhraseMatch(found[0].phrase, sum(distances) / number, region))
            joined.append(tuple(own))
        return tuple(joined)
