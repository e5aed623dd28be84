"""Engines against `direct`, in float64: gradients, what they recompute, what they keep."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor

from sgool.diffusion import build_engine
from sgool.diffusion.activations import activation_bytes
from sgool.diffusion.budget import differentiated_calls
from sgool.models.family import Conditioning
from sgool.models.schedule import Step
from sgool.models.stable_diffusion import StableDiffusion
from tests.diffusion.problem import Problem, counted, off, randn

REVERSIBLE = ("edict", "belm", "bdia")
SAMPLERS = ("ddim", "edict", "belm", "bdia", "dpm_solver")
ALL = (0, 1, 2)
# (sampler, steps, guidance, prediction), the rest. Each number of steps (3 and 7 do not divide 1000), guidance,
# prediction type, batch, offset and guidance mode meets each sampler; not all products. The tiny network's gradients
# stay near 10 even at guidance 7.5 and 30 steps: no case is chaotic.
CASES: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    (("ddim", 1, 7.5, "epsilon"), {"prompts": ALL}),
    (("ddim", 2, 1.0, "v_prediction"), {"offset": 0}),
    (("ddim", 4, 3.0, "sample"), {"split": True}),
    (("ddim", 5, 7.5, "v_prediction"), {"prompts": ALL, "split": True, "offset": 0}),
    (("ddim", 7, 1.0, "sample"), {"prompts": ALL}),
    (("ddim", 30, 7.5, "epsilon"), {}),
    (("edict", 1, 3.0, "v_prediction"), {"split": True}),
    (("edict", 2, 7.5, "sample"), {"prompts": ALL, "offset": 0}),
    (("edict", 3, 7.5, "epsilon"), {"mixing_coeff": 1.0}),
    (("edict", 4, 1.0, "epsilon"), {"leapfrog": False, "prompts": ALL}),
    (("edict", 5, 3.0, "sample"), {"leapfrog": False, "mixing_coeff": 1.0, "offset": 0}),
    (("edict", 10, 1.0, "v_prediction"), {"mixing_coeff": 0.8}),
    (("edict", 30, 7.5, "epsilon"), {}),
    (("belm", 1, 3.0, "sample"), {}),
    (("belm", 1, 3.0, "epsilon"), {"offset": 0}),
    (("belm", 2, 7.5, "epsilon"), {"prompts": ALL}),
    (("belm", 4, 1.0, "v_prediction"), {"offset": 0}),
    (("belm", 7, 3.0, "v_prediction"), {"split": True}),
    (("belm", 10, 7.5, "sample"), {"offset": 0}),
    (("belm", 30, 1.0, "epsilon"), {}),
    (("bdia", 1, 1.0, "v_prediction"), {}),
    (("bdia", 3, 7.5, "sample"), {"split": True, "prompts": ALL}),
    (("bdia", 5, 3.0, "epsilon"), {"gamma": 0.5, "offset": 0}),
    (("bdia", 30, 1.0, "epsilon"), {"gamma": 0.9}),
    (("dpm_solver", 1, 7.5, "epsilon"), {"prompts": ALL}),
    (("dpm_solver", 2, 1.0, "sample"), {}),
    (("dpm_solver", 5, 3.0, "v_prediction"), {"split": True, "offset": 0}),
    (("dpm_solver", 7, 7.5, "sample"), {"prompts": ALL}),
    (("dpm_solver", 10, 3.0, "epsilon"), {"offset": 0}),
    (("dpm_solver", 30, 1.0, "v_prediction"), {}),
]


def saved_by_one_call(problem: Problem) -> int:
    """Bytes that autograd keeps for one guided prediction, read off the graph's nodes."""
    latents = problem.start[0].clone().requires_grad_(True)
    output = problem.chain().network(latents, problem.schedule.steps[0])
    unet = problem.models.unet
    weights = {tensor.untyped_storage().data_ptr() for tensor in (*unet.parameters(), *unet.buffers())}
    sizes: dict[int, int] = {}
    nodes, seen = [output.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        nodes += [following for following, _ in node.next_functions]
        for name in dir(node):
            saved = getattr(node, name) if name.startswith("_saved_") else None
            for value in saved if isinstance(saved, tuple) else (saved,):
                if isinstance(value, Tensor):
                    sizes[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
    return sum(size for pointer, size in sizes.items() if pointer not in weights)


def keeping(problem: Problem, calls: float) -> Any:
    """A checkpoint engine with memory for the activations of so many calls."""
    return build_engine("checkpoint", memory_mib=calls * saved_by_one_call(problem) / 2**20)


@pytest.mark.parametrize(("case", "options"), CASES, ids=lambda part: "-".join(map(str, part)))
def test_engines_agree_with_direct(models64: StableDiffusion, case: tuple[Any, ...], options: dict[str, Any]) -> None:
    problem = Problem(models64, *case, **options)
    expected = problem.gradient("direct")
    assert float(expected.abs().max()) > 1e-3
    # The same operations but for the order of a few sums: some eps (2e-16), 1e-14 seen.
    for engine in ("checkpoint", keeping(problem, problem.calls // 2 + 0.5)):
        assert off(problem.gradient(engine), expected) <= 1e-12
    if problem.sampler.name in REVERSIBLE:
        # The network is asked at states that rounding has moved: eps times what undoing the moves amplifies, which is
        # 3e3 for O-BELM's short last step at offset 1 and 0.8^-20 = 90 for EDICT with p = 0.8, times the network's
        # curvature. 4e-11 seen.
        assert off(problem.gradient("reversible"), expected) <= 1e-9


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_network_passes_are_those_of_the_table(models64: StableDiffusion, sampler: str, split: bool) -> None:
    problem = Problem(models64, sampler, 4, split=split)
    calls, passes = problem.calls, 1 + split
    assert calls == (8 if sampler == "edict" else 4)
    last = calls // 4  # of one step
    engines = [
        # engine, calls in forward and backward together, gradients through the network
        (build_engine("direct"), calls, calls),
        (build_engine("checkpoint"), 2 * calls, calls),
        (keeping(problem, 3.5), 2 * calls - 3, calls),
        (keeping(problem, 100), calls, calls),
        (build_engine("direct", gradient_steps=1), calls, last),
        (build_engine("checkpoint", gradient_steps=3), calls + 3 * last, 3 * last),
        (build_engine("checkpoint", gradient_steps=9), 2 * calls, calls),
    ]
    if sampler in REVERSIBLE:
        engines.append((build_engine("reversible"), 2 * calls, calls))
        engines.append((build_engine("reversible", gradient_steps=2), calls + 2 * last, 2 * last))
    for engine, forward, backward in engines:
        chain = problem.chain(engine)
        chain._cuts.done = True  # the guard's two calls, once in a chain's life, are not the engine's
        with counted(models64.unet) as count:
            problem.gradient(chain)
        assert (chain.calls, len(count.forward), count.backward) == (forward, forward * passes, backward * passes)
        assert chain.network.backward_calls == backward
        assert differentiated_calls(chain.moves, chain.num_streams, engine) == backward
        assert set(count.forward) == ({1} if split else {2})


@pytest.mark.parametrize(("engine", "forward"), [("checkpoint", -1), ("reversible", 0)])
def test_a_stream_without_gradient_costs_no_backward_call(models64: StableDiffusion, engine: str, forward: int) -> None:
    """Without mixing, EDICT's last half-update of an odd number of steps is of y, on which x does not depend.

    `Chain.run_state` hands x alone to autograd; `Chain.denoise` stacks both, so that y has a gradient, of zeros.
    `reversible` needs the network all the same, to undo the half-update.
    """
    problem = Problem(models64, "edict", 3, mixing_coeff=1.0)
    gradients = []
    for whole in (True, False):
        chain, leaf = problem.chain(engine), problem.leaf()
        chain._cuts.done = True
        with counted(models64.unet) as count:
            if whole:
                state = chain.run_state(leaf)
                (problem.weight[0] * state[0]).sum().backward()
                assert (len(count.forward), count.backward) == (2 * problem.calls + forward, problem.calls - 1)
                assert chain.network.backward_calls == problem.calls - 1
            else:
                final = chain.denoise(leaf)
                (problem.weight[0] * final[0]).sum().backward()
                assert (len(count.forward), count.backward) == (2 * problem.calls, problem.calls)
        gradients.append(leaf.grad)
    assert gradients[0] is not None and gradients[1] is not None
    assert off(gradients[0], gradients[1]) <= 1e-14


@pytest.mark.parametrize(("split", "guidance"), [(False, 3.0), (True, 3.0), (False, 1.0)])
def test_activation_bytes_are_those_of_the_graph(models64: StableDiffusion, split: bool, guidance: float) -> None:
    problem = Problem(models64, "ddim", 1, guidance, split=split, prompts=ALL)
    with activation_bytes([models64.unet]) as measured:
        problem.chain().network.trace(problem.start[0], problem.schedule.steps[0])
    # 4 x 8 x 8 latents of three pairs in float64 are 6 KiB; the activations of a UNet are many times that.
    assert measured.total > 50 * problem.start.nbytes
    # To the byte, but for a few numbers that nodes show as tensors and that are none of the forward pass.
    assert measured.total == pytest.approx(saved_by_one_call(problem), abs=512)


def test_as_many_calls_are_kept_as_fit(models64: StableDiffusion) -> None:
    problem = Problem(models64, "ddim", 4)
    expected = problem.gradient("direct")
    with activation_bytes([models64.unet]) as measured:
        problem.chain().network.trace(problem.start[0], problem.schedule.steps[0])
    for bytes_, kept in [
        (1, 0),
        (measured.total - 1, 0),
        (measured.total, 1),
        (3 * measured.total - 1, 2),
        (3 * measured.total, 3),
        (4 * measured.total - 1, 3),
        (4 * measured.total, 4),
        (2**40, 4),
    ]:
        chain = problem.chain(build_engine("checkpoint", memory_mib=bytes_ / 2**20))
        gradient = problem.gradient(chain)
        assert chain.calls == 2 * problem.calls - kept
        assert off(gradient, expected) <= 1e-12


@pytest.mark.parametrize("kept", [0, 2, 100])
def test_a_second_backward_recomputes_what_the_first_freed(models64: StableDiffusion, kept: int) -> None:
    problem = Problem(models64, "edict", 2)
    chain, leaf = problem.chain(keeping(problem, kept)), problem.leaf()
    value = problem.value(leaf, chain)
    (first,) = torch.autograd.grad(value, leaf, retain_graph=True)
    assert chain.calls == 2 * problem.calls - min(kept, problem.calls)
    before = chain.calls
    (second,) = torch.autograd.grad(value, leaf)
    assert chain.calls - before == problem.calls
    assert off(second, first) <= 1e-12
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(value, leaf)


class ConstantAtFirst(StableDiffusion):
    """The network's output counts as a constant before a step."""

    first = 0

    def predict(self, x: Tensor, step: Step, conditioning: Conditioning) -> Tensor:
        output = super().predict(x, step, conditioning)
        return output if step.index >= self.first else output.detach()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_truncated_equals_plain_autograd_with_constant_outputs(models64: StableDiffusion, sampler: str) -> None:
    problem = Problem(models64, sampler, 4, 3.0)
    full = problem.gradient("direct")
    for steps in (1, 3, 4, 9):
        family = type("Constant", (ConstantAtFirst,), {"first": 4 - steps})
        own = {part.name: getattr(problem.models, part.name) for part in fields(problem.models) if part.init}
        expected = problem.gradient(problem.chain("direct", family(**own)))
        for engine in ("direct", "checkpoint", *(("reversible",) if sampler in REVERSIBLE else ())):
            gradient = problem.gradient(build_engine(engine, gradient_steps=steps))
            # As in the comparison of the engines above.
            assert off(gradient, expected) <= (1e-9 if engine == "reversible" else 1e-12)
        # Biased unless all steps are differentiated.
        assert (off(expected, full) <= 1e-12) == (steps >= 4)
        assert steps >= 4 or off(expected, full) > 1e-3


def test_streams_may_ask_for_gradients_one_by_one(models64: StableDiffusion) -> None:
    """A state of which one latent is a constant: its partner's gradient is that of direct."""
    problem = Problem(models64, "edict", 3)
    moves, y = problem.moves, randn(1, 4, 8, 8, seed=8)
    gradients: list[Tensor] = []
    for name in ("direct", "checkpoint", "reversible"):
        x = randn(1, 4, 8, 8, seed=9).requires_grad_(True)
        final = build_engine(name).run((x, y), moves, problem.chain().network)
        (final[0] * final[1]).sum().backward()
        assert x.grad is not None
        gradients.append(x.grad)
    assert all(off(gradient, gradients[0]) <= 1e-12 for gradient in gradients)


@pytest.mark.parametrize("engine", ["checkpoint", "reversible"])
def test_a_pair_whose_chain_ends_in_no_numbers_leaves_the_others_alone(models64: StableDiffusion, engine: str) -> None:
    both = Problem(models64, "edict", prompts=(0, 1))
    expected = both.gradient(engine)[:, 0]
    both.start[:, 1] = torch.finfo(torch.float64).max  # what the network makes of it overflows
    gradient = both.gradient(engine)
    assert torch.equal(gradient[:, 0], expected) and bool(gradient[:, 1].isnan().all())
