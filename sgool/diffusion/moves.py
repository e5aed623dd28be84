"""Moves: the one kind of operation that every sampler is made of.

DDIM, EDICT, BDIA, O-BELM and DPM-Solver++ differ in their coefficients alone. Each denoising step of each of them is
one or more *moves* on a state of K latents, linear but for one call of the network:

    state' = matrix · state + output · model_output(state[source], t)

So gradients (`pull_back`), the exact inverse (`source_before`, `undo`), the number of network calls and whether an
inverse exists at all follow from the coefficients, once for all samplers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sgool.models.schedule import Step

Row = tuple[float, ...]
State = tuple[Tensor, ...]
Gradients = tuple[Tensor | None, ...]


@dataclass(frozen=True)
class Move:
    """One move: ``state' = matrix · state + output · model_output(state[source], step.timestep)``.

    Attributes:
        matrix: L rows of K coefficients, where K is the number of latents before the move and L that after it. Mostly
            both are 1, or both 2.
        output: L coefficients of the network's output. If all are exactly 0, the network is not called.
        source: Index, among the K latents, of those that the network sees.
        step: The denoising step that the move belongs to.
    """

    matrix: tuple[Row, ...]
    output: Row
    source: int
    step: Step

    @property
    def calls_network(self) -> bool:
        """Whether the move needs the network's output."""
        return any(self.output)

    def apply(self, state: State, model_output: Tensor | None) -> State:
        """Applies the move and returns the state after it."""
        return _affine(self.matrix, state, self.output, model_output)

    @cached_property
    def inverse_matrix(self) -> tuple[Row, ...] | None:
        """Inverse of ``matrix``; None where there is none, or where more than two latents are involved."""
        if any(len(row) != len(self.matrix) for row in self.matrix) or len(self.matrix) > 2:
            return None
        if len(self.matrix) == 1:
            ((a,),) = self.matrix
            return ((1 / a,),) if a else None
        (a, b), (c, d) = self.matrix
        determinant = a * d - b * c
        if determinant == 0:
            return None
        return ((d / determinant, -b / determinant), (-c / determinant, a / determinant))

    @cached_property
    def invertible(self) -> bool:
        """Whether ``state`` can be computed from ``state'``.

        It can if the latents that the network saw are recovered without its output: the output's weight for them, in
        ``matrix⁻¹ · state'``, is exactly 0.
        """
        return self.inverse_matrix is not None and (not self.calls_network or self._undone_output[self.source] == 0)

    @cached_property
    def amplification(self) -> float:
        """Factor by which undoing the move enlarges rounding errors: the largest entry of the inverse matrix."""
        assert self.inverse_matrix is not None
        return max(abs(entry) for row in self.inverse_matrix for entry in row)

    @cached_property
    def _undone_output(self) -> Row:
        assert self.inverse_matrix is not None
        return tuple(sum(a * b for a, b in zip(row, self.output, strict=True)) for row in self.inverse_matrix)

    def source_before(self, state: State) -> Tensor:
        """Returns the latents that the network saw, computed from the state after an invertible move."""
        assert self.inverse_matrix is not None
        return _affine((self.inverse_matrix[self.source],), state, (0.0,), None)[0]

    def undo(self, state: State, model_output: Tensor | None) -> State:
        """Returns the state before the move, computed from the state after it and the network's output."""
        assert self.inverse_matrix is not None
        return _affine(self.inverse_matrix, state, tuple(-weight for weight in self._undone_output), model_output)

    def output_gradient(self, gradients: Gradients) -> Tensor | None:
        """Returns the gradient with respect to the network's output, from the gradients with respect to ``state'``."""
        return _combine(self.output, gradients)

    def pull_back(self, gradients: Gradients, source_gradient: Tensor | None) -> Gradients:
        """Returns the gradients with respect to ``state``; None means zero.

        Args:
            gradients: Gradients with respect to ``state'``.
            source_gradient: The network's part of the gradient of ``state[source]``.
        """
        columns = list(zip(*self.matrix, strict=True))
        return tuple(
            _combine((*column, 1.0 if k == self.source else 0.0), (*gradients, source_gradient))
            for k, column in enumerate(columns)
        )


def linear(matrix: tuple[Row, ...], step: Step) -> Move:
    """Returns a move without a network call."""
    return Move(matrix, (0.0,) * len(matrix), 0, step)


def _combine(weights: Sequence[float], tensors: Sequence[Tensor | None]) -> Tensor | None:
    """Returns Σ weight · tensor, or None if all weights are 0; a single tensor of weight 1 is not copied."""
    total: Tensor | None = None
    for weight, tensor in zip(weights, tensors, strict=True):
        if weight == 0 or tensor is None:
            continue
        if total is None:
            total = tensor if weight == 1 else tensor * weight
        else:
            total = total + tensor if weight == 1 else total.add(tensor, alpha=weight)
    return total


def _affine(matrix: tuple[Row, ...], state: State, weights: Row, output: Tensor | None) -> State:
    """Returns ``matrix · state + weights · output``."""
    rows = [_combine((*row, weight), (*state, output)) for row, weight in zip(matrix, weights, strict=True)]
    return tuple(torch.zeros_like(state[0]) if row is None else row for row in rows)
