"""One move by itself: its value, its inverse and its gradient, for any coefficients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sgool.diffusion import build_sampler
from sgool.diffusion.moves import Move, Row, linear
from sgool.models.schedule import Step, build_schedule
from tests.reference import assert_close, randn, scheduler64

STEP = Step(0, 981, 0.3, 0.95, 0.4, 0.9)
JACOBIAN = randn(6, 6, seed=9)

coefficients = st.one_of(st.sampled_from([0.0, 1.0, -1.0]), st.floats(-3, 3))


@st.composite
def moves(draw: st.DrawFn) -> Move:
    """Of one or two streams, with many coefficients that are 0 or 1."""
    size = draw(st.integers(1, 2))
    row = st.tuples(*[coefficients] * size)
    return Move(draw(st.tuples(*[row] * size)), draw(row), draw(st.integers(0, size - 1)), STEP)


@st.composite
def invertible_moves(draw: st.DrawFn) -> Move:
    """As samplers make them: the latents that the network saw are a combination of what stays."""
    size, source = 2, draw(st.integers(0, 1))
    away = st.floats(0.2, 3).map(lambda x: x if x > 1 else -x)
    a, b, weight = draw(away), draw(coefficients), draw(coefficients)
    # The source goes on by itself, in its own place or in the other one (two-step samplers); the other row is free.
    free: Row = tuple(b if k == source else a for k in range(size))
    kept: Row = tuple(1.0 if k == source else 0.0 for k in range(size))
    place = draw(st.integers(0, 1))
    matrix = (kept, free) if place == 0 else (free, kept)
    return Move(matrix, (0.0, weight) if place == 0 else (weight, 0.0), source, STEP)


def state_of(move: Move, seed: int = 0) -> tuple[Tensor, ...]:
    return tuple(randn(len(move.matrix), 6, seed=seed))


def network(latents: Tensor) -> Tensor:
    """Linear, so that its Jacobian is known."""
    return JACOBIAN @ latents


def by_hand(move: Move, state: tuple[Tensor, ...], output: Tensor) -> list[Tensor]:
    rows = zip(move.matrix, move.output, strict=True)
    return [sum(w * x for w, x in zip(row, state, strict=True)) + weight * output for row, weight in rows]  # type: ignore[misc]


@settings(deadline=None)  # a busy machine is no failure
@given(moves())
def test_apply_is_its_formula(move: Move) -> None:
    state = state_of(move)
    output = network(state[move.source])
    got = move.apply(state, output if move.calls_network else None)
    assert len(got) == len(state)
    for latents, expected in zip(got, by_hand(move, state, output), strict=True):
        torch.testing.assert_close(latents, expected, rtol=0, atol=1e-13)


@settings(deadline=None)  # a busy machine is no failure
@given(invertible_moves())
def test_undo_undoes(move: Move) -> None:
    assert move.invertible
    state = state_of(move)
    after = move.apply(state, network(state[move.source]) if move.calls_network else None)
    source = move.source_before(after)
    # The smallest pivot is 0.2: rounding of numbers up to 50, over 0.2.
    torch.testing.assert_close(source, state[move.source], rtol=0, atol=1e-12)
    before = move.undo(after, network(source) if move.calls_network else None)
    torch.testing.assert_close(torch.stack(before), torch.stack(state), rtol=0, atol=1e-12)


@settings(deadline=None)  # a busy machine is no failure
@given(moves())
def test_invertible_if_the_source_survives_without_the_output(move: Move) -> None:
    """Cramer's rule: the output's weight in the source, of the state before, is this over the determinant."""
    if len(move.matrix) == 1:
        determinant, share = move.matrix[0][0], move.output[0]
    else:
        (a, b), (c, d) = move.matrix
        first, second = move.output
        determinant, share = a * d - b * c, (d * first - b * second, a * second - c * first)[move.source]
    assert (move.inverse_matrix is None) == (determinant == 0)
    if determinant == 0 or (move.calls_network and abs(share) > 1e-9):
        assert not move.invertible
    elif not move.calls_network:
        assert move.invertible


@settings(deadline=None)  # a busy machine is no failure
@given(moves(), st.tuples(st.booleans(), st.booleans()))
def test_pull_back_is_the_gradient_of_apply(move: Move, present: tuple[bool, bool]) -> None:
    """Also where the gradient of some stream is None, which stands for zero."""
    leaves = [latents.requires_grad_(True) for latents in state_of(move)]
    after = by_hand(move, tuple(leaves), network(leaves[move.source]))
    given_gradients = tuple(g if there else None for g, there in zip(state_of(move, seed=1), present, strict=False))
    scalar = sum((g * a).sum() for g, a in zip(given_gradients, after, strict=True) if g is not None)
    expected = torch.autograd.grad(scalar, leaves) if isinstance(scalar, Tensor) else [torch.zeros(6) for _ in leaves]
    cotangent = move.output_gradient(given_gradients) if move.calls_network else None
    got = move.pull_back(given_gradients, None if cotangent is None else JACOBIAN.T @ cotangent)
    for gradient, true in zip(got, expected, strict=True):
        found = torch.zeros(6, dtype=torch.float64) if gradient is None else gradient
        torch.testing.assert_close(found, true.double(), rtol=0, atol=1e-12)


def test_what_stays_is_not_copied() -> None:
    """A row of one 1: the very same tensor, in the state and in its gradient."""
    move = Move(((0.5, 0.25), (1.0, 0.0)), (2.0, 0.0), 0, STEP)
    state = state_of(move)
    after = move.apply(state, network(state[0]))
    assert after[1] is state[0] and after[0] is not state[0]
    assert move.source_before(after) is state[0] and move.undo(after, network(state[0]))[0] is state[0]
    gradient = randn(6)
    swap = linear(((0.0, 1.0), (1.0, 0.0)), STEP)
    assert swap.apply(state, None) == (state[1], state[0])
    assert swap.pull_back((gradient, None), None)[1] is gradient
    assert swap.pull_back((gradient, None), None)[0] is None


def test_rows_of_zeros_are_zeros() -> None:
    move = linear(((0.0, 0.0), (0.0, 1.0)), STEP)
    assert torch.equal(move.apply(state_of(move), None)[0], torch.zeros(6, dtype=torch.float64))
    assert not move.calls_network and not move.invertible


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(
    ("name", "options", "invertible"),
    [
        ("ddim", {}, False),
        ("edict", {}, True),
        ("edict", {"mixing_coeff": 1.0, "leapfrog": False}, True),
        ("belm", {}, True),
        ("bdia", {"gamma": 0.7}, True),
        ("dpm_solver", {}, False),
    ],
)
def test_which_samplers_have_an_inverse(name: str, options: dict[str, Any], invertible: bool, prediction: str) -> None:
    sampler = build_sampler(name, **options)
    for steps in (1, 2, 7, 50):
        for offset in (0, 1):
            scheduler = scheduler64(steps_offset=offset, prediction_type=prediction)
            made = sampler.moves(build_schedule(scheduler, steps, sampler.spacing))
            network_moves = [move for move in made if move.calls_network]
            if invertible:
                assert all(move.invertible for move in made)
            elif network_moves:
                assert not any(move.invertible for move in network_moves)


def test_edict_mixes_one_stream_after_the_other() -> None:
    """x' = p x + (1 - p) y, then y' = (1 - p) x' + p y with the new x'."""
    (mixing,) = [m for m in build_sampler("edict").moves(build_schedule(scheduler64(), 1)) if not m.calls_network]
    x, y = state_of(mixing)
    mixed = 0.93 * x + 0.07 * y
    got = mixing.apply((x, y), None)
    assert_close(torch.stack(got), torch.stack([mixed, 0.07 * mixed + 0.93 * y]), 1e-14)
