"""LoRAs are added to the weights: the same images as with live adapters, and none for another base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import Tensor

from sgool.config.loading import Lora, loading_problems
from sgool.errors import SgoolError
from sgool.models.load import load_models
from sgool.models.schedule import Step
from tests.tiny_families import tiny_family

STEP = Step(0, 500, 0.6, 0.8, 0.8, 0.6)
KINDS = {"sdxl": StableDiffusionXLPipeline, "sd": StableDiffusionPipeline, "flux_dev": FluxPipeline}


def adapt(network: Any, layers: list[str], *, in_peft_format: bool) -> dict[str, Tensor]:
    """Adds a LoRA of rank 2 with drawn weights to a network, and returns them."""
    peft = pytest.importorskip("peft", reason="peft is not installed: pip install 'sgool[lora]'")
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict

    network.add_adapter(peft.LoraConfig(r=2, lora_alpha=2, target_modules=layers))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for key, weight in network.named_parameters():
            if "lora_" in key:
                weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    state: dict[str, Tensor] = get_peft_model_state_dict(network)
    return state if in_peft_format else convert_state_dict_to_diffusers(state)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of each kind a pipeline, and a LoRA of rank 2 for it in ``lora_NAME``."""
    root = tmp_path_factory.mktemp("loras")
    for name, kind in KINDS.items():
        tiny_family(name).save_pretrained(root / name)
        part = "transformer" if name == "flux_dev" else "unet"
        network = getattr(tiny_family(name), part)
        state = adapt(network, ["to_q", "to_k", "to_v", "to_out.0"], in_peft_format=part == "transformer")
        kind.save_lora_weights(root / f"lora_{name}", **{f"{part}_lora_layers": state})
    return root


def predicted(models: Any) -> tuple[Tensor, Tensor]:
    """The network's output and the gradient of its sum of squares."""
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
    conditioning, _ = models.encode(["a red cat"], None, 1.0, 16, 16)
    output = models.predict(latents, STEP, conditioning)
    (gradient,) = torch.autograd.grad(output.square().sum(), latents)
    return output.detach(), gradient


def test_a_lora_of_flux_changes_its_text_encoder_too(folders: Path, tmp_path: Path) -> None:
    pipeline = tiny_family("flux_dev")
    states = {}
    for part, targets in (("transformer", ["to_q"]), ("text_encoder", ["q_proj", "v_proj"])):
        network = getattr(pipeline, part)
        states[part] = adapt(network, targets, in_peft_format=part == "transformer")
    layers = {f"{part}_lora_layers": state for part, state in states.items()}
    FluxPipeline.save_lora_weights(tmp_path, **layers)
    fused = load_models(folders / "flux_dev", device="cpu", loading={"loras": [{"path": str(tmp_path)}]})
    plain = load_models(folders / "flux_dev", device="cpu")
    pooled = [models.pipeline.text_encoder(torch.tensor([[1, 2, 3]])).pooler_output for models in (fused, plain)]
    live = pipeline.text_encoder(torch.tensor([[1, 2, 3]])).pooler_output
    assert torch.allclose(pooled[0], live, atol=1e-5)  # float32: a sum of weights, or a sum of outputs
    assert not torch.allclose(pooled[0], pooled[1], atol=1e-3)


def test_a_fused_lora_is_a_live_one(folders: Path) -> None:
    lora = {"path": str(folders / "lora_sdxl"), "weight": 0.7}
    fused = load_models(folders / "sdxl", device="cpu", loading={"loras": [lora]})
    live = load_models(folders / "sdxl", device="cpu")
    file = "pytorch_lora_weights.safetensors"  # which diffusers 0.35 does not look for without a network
    live.pipeline.load_lora_weights(folders / "lora_sdxl", weight_name=file, adapter_name="live")
    live.pipeline.set_adapters(["live"], [0.7])
    live.pipeline.unet.requires_grad_(False)
    without = predicted(load_models(folders / "sdxl", device="cpu"))
    for found, expected, plain in zip(predicted(fused), predicted(live), without, strict=True):
        # The sum of weights is rounded to float32 once, the sum of outputs at each layer.
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
        assert float((found - plain).abs().max()) > 1e-2 * float(plain.abs().max())
    assert not [name for name, _ in fused.network.named_modules() if "lora" in name]
    assert not any(weight.requires_grad for weight in fused.network.parameters())


def test_loras_are_added_one_after_the_other(folders: Path) -> None:
    path = str(folders / "lora_sdxl")
    back = load_models(
        folders / "sdxl",
        device="cpu",
        loading={"loras": [{"path": path, "weight": 0.7}, {"path": path, "weight": -0.7}]},
    )
    own = load_models(folders / "sdxl", device="cpu")
    for found, expected in zip(back.network.parameters(), own.network.parameters(), strict=True):
        # w + d - d differs from w by the rounding of w + d.
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    whole = load_models(folders / "sdxl", device="cpu", loading={"loras": [path]})
    named = {"path": path, "file": "pytorch_lora_weights.safetensors", "weight": 1.0}
    again = load_models(folders / "sdxl", device="cpu", loading={"loras": [named]})
    file = load_models(folders / "sdxl", device="cpu", loading={"loras": [f"{path}/{named['file']}"]})
    for one, other, third in zip(*(m.network.parameters() for m in (whole, again, file)), strict=True):
        assert torch.equal(one, other) and torch.equal(one, third)


@pytest.mark.parametrize(
    ("base", "lora", "words"),
    [
        ("sdxl", "sd", "size mismatch for .*to_k"),
        ("sd", "sdxl", "size mismatch for .*to_k"),
        ("sdxl", "flux_dev", "these networks have 0 of the 7 layers that it changes"),
        ("flux_dev", "sdxl", "these networks have 0 of the .* layers that it changes"),
    ],
)
def test_a_lora_for_another_base_is_refused(base: str, lora: str, words: str, folders: Path) -> None:
    message = rf"`models\.loras`: '.*lora_{lora}' is a LoRA for another base model than this .*Pipeline: .*{words}"
    with pytest.raises(SgoolError, match=message):
        load_models(folders / base, device="cpu", loading={"loras": [str(folders / f"lora_{lora}")]})


def test_files_that_are_not_there_or_not_clear(folders: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.safetensors").touch()
    with pytest.raises(SgoolError, match=r"expected one file of weights in .*, got 2, a\.safetensors, b\.safet"):
        load_models(folders / "sdxl", device="cpu", loading={"loras": [str(tmp_path)]})
    lora = {"path": str(folders / "lora_sdxl"), "file": "none.safetensors"}
    with pytest.raises(SgoolError, match=r"`models\.loras`: could not load it from .*none\.safetensors"):
        load_models(folders / "sdxl", device="cpu", loading={"loras": [lora]})


def test_without_peft_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sgool.config.loading.find_spec", lambda name: None)
    words = "`models.loras` needs the package peft, which is not installed: pip install 'sgool[lora]'"
    assert list(loading_problems({"loras": ["a/b"]})) == [words]
    tiny_family("sdxl").save_pretrained(tmp_path)
    with pytest.raises(SgoolError) as caught:
        load_models(tmp_path, device="cpu", loading={"loras": [str(tmp_path)]})
    assert str(caught.value) == words
    assert Lora("a").weight == 1
