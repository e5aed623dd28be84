"""Variants, single files, other parts and other schedulers give the networks that diffusers itself gives."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderTiny,
    EulerAncestralDiscreteScheduler,
    LCMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from safetensors.torch import save_file
from torch import Tensor, nn

from sgool.diffusion import Chain, build_sampler
from sgool.errors import ConfigError, SgoolError
from sgool.models.load import load_models
from sgool.prompts.seeding import first_latents
from tests.single_files import single_file, single_file_pipeline
from tests.tiny_families import tiny_family

#: Families whose latents have 4 or 16 channels in an autoencoder of images, and the guidance they are called with.
WITH_TINY = {"sd": 4.0, "sdxl": 4.0, "sd3_without_t5": 4.0, "flux_schnell": 0.0, "pixart_sigma": 4.0}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pipelines as folders: xl, xl of another seed, and of each family with a tiny autoencoder."""
    root = tmp_path_factory.mktemp("folders")
    for name in WITH_TINY:
        tiny_family(name).save_pretrained(root / name)
    tiny_family("sdxl", seed=1).save_pretrained(root / "other")
    tiny_family("sdxl").save_pretrained(root / "fp16", variant="fp16")
    tiny_autoencoder(4).save_pretrained(root / "taesd")
    return root


def tiny_autoencoder(channels: int) -> AutoencoderTiny:
    """An AutoencoderTiny of factor 2, as the tiny pipelines' own autoencoders."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoencoderTiny(
            latent_channels=channels,
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1),
        ).eval()


def contiguous(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in network.state_dict().items()}


def assert_same(one: nn.Module, other: nn.Module) -> None:
    found, expected = one.state_dict(), other.state_dict()
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=0)


def test_the_only_variant_is_taken_and_said(folders: Path) -> None:
    with pytest.warns(UserWarning, match=r"`models\.variant`: .*fp16 has no plain weights, only those of .* fp16, so"):
        loaded = load_models(folders / "fp16", dtype=torch.float32)
    named = load_models(folders / "fp16", loading={"variant": "fp16"})
    assert_same(loaded.network, named.network)
    own = StableDiffusionXLPipeline.from_pretrained(folders / "fp16", variant="fp16")
    assert_same(named.network, own.unet)
    assert_same(named.vae, own.vae)


def test_variants_that_are_not_there_or_not_clear(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(SgoolError, match=r"`models\.variant`: expected one that .*, got 'bf16'; its variants: fp16"):
        load_models(folders / "fp16", loading={"variant": "bf16"})
    with pytest.raises(SgoolError, match=r"got 'fp16'; its variants: none \(null takes the plain weights\)"):
        load_models(folders / "sdxl", loading={"variant": "fp16"})
    both = shutil.copytree(folders / "fp16", tmp_path / "both")
    file = both / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    shutil.copy(file, file.with_name("diffusion_pytorch_model.bf16.safetensors"))
    for part in ("vae", "text_encoder", "text_encoder_2"):
        (name,) = (both / part).glob("*.safetensors")
        name.rename(name.with_name(name.name.replace(".fp16", "")))
    with pytest.raises(SgoolError, match=r"expected one, since .* without plain weights: unet has bf16, fp16"):
        load_models(both)
    # As in diffusers, networks without the variant are read from their plain weights.
    assert_same(
        load_models(both, loading={"variant": "fp16"}).network, load_models(both, loading={"variant": "bf16"}).network
    )


def test_a_single_file_with_its_pipelines_configuration(tmp_path: Path) -> None:
    pipeline = single_file_pipeline()
    pipeline.save_pretrained(tmp_path / "folder")
    single_file(pipeline, tmp_path / "model.safetensors")
    loaded = load_models(tmp_path / "model.safetensors", loading={"config": str(tmp_path / "folder")})
    assert_same(loaded.unet, pipeline.unet)
    assert_same(loaded.vae, pipeline.vae)
    assert_same(loaded.text_encoder, pipeline.text_encoder)
    assert loaded.name == str(tmp_path / "model.safetensors")
    with pytest.raises(SgoolError, match=r"do not fit the StableDiffusionPipeline that .* describes: .*missing"):
        save_file({"a": torch.zeros(2)}, tmp_path / "odd.safetensors")
        load_models(tmp_path / "odd.safetensors", loading={"config": str(tmp_path / "folder")})
    with pytest.raises(SgoolError, match=r"`models\.path`: there is no file '.*none\.ckpt'"):
        load_models(tmp_path / "none.ckpt")


@pytest.mark.parametrize("name", list(WITH_TINY))
def test_a_tiny_autoencoder_decodes_as_in_the_pipeline(name: str, folders: Path, tmp_path: Path) -> None:
    guidance = WITH_TINY[name]
    pipeline = tiny_family(name)
    channels = pipeline.vae.config.latent_channels
    pipeline.vae = tiny_autoencoder(channels)
    pipeline.vae.save_pretrained(tmp_path / "vae")
    chain = Chain.from_pretrained(
        folders / name,
        loading={"components": {"vae": str(tmp_path / "vae")}},
        sampler=build_sampler("native"),
        num_inference_steps=2,
        guidance_scale=guidance,
        height=16,
        width=16,
        device="cpu",
    )
    assert type(chain.family.vae).__name__ == "AutoencoderTiny"  # type: ignore[attr-defined]
    latents = first_latents(1, tuple(chain.latent_shape()))[None, None]
    latents.requires_grad_()
    image = chain.with_prompts(["a red cat"], [""] if guidance > 1 else None)(latents).images[0]
    binned: dict[str, Any] = {"use_resolution_binning": False, "clean_caption": False} if name == "pixart_sigma" else {}
    own = pipeline(
        "a red cat",
        num_inference_steps=2,
        guidance_scale=guidance,
        height=16,
        width=16,
        generator=torch.Generator().manual_seed(1),
        output_type="pt",
        **binned,
    ).images
    # float32 rounding of two different orders of summation; the pipeline clamps.
    torch.testing.assert_close(image.detach().clamp(0, 1).reshape(own.shape), own, rtol=0, atol=1e-5)
    # The gradient of the decoder alone, against plain autograd through diffusers' own code.
    last = first_latents(2, tuple(chain.latent_shape()))[None].requires_grad_()
    shift = float(chain.family.vae.config.shift_factor or 0)  # type: ignore[attr-defined]
    scaled = last / chain.family.vae.config.scaling_factor + shift  # type: ignore[attr-defined]
    (expected,) = torch.autograd.grad((pipeline.vae.decode(scaled)[0] / 2 + 0.5).square().sum(), last)
    (found,) = torch.autograd.grad(chain.family.decode(last).square().sum(), last)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert float(found.abs().max()) > 0
    assert chain.family.encode_images(torch.rand(1, 3, 16, 16)).shape == (1, channels, 8, 8)


def test_parts_from_folders_and_files(folders: Path, tmp_path: Path) -> None:
    other = tiny_family("sdxl", seed=1)
    save_file(
        {name: tensor.contiguous() for name, tensor in other.unet.state_dict().items()}, tmp_path / "a.safetensors"
    )
    torch.save(other.unet.state_dict(), tmp_path / "a.bin")
    for part in (
        str(folders / "other"),
        {"path": str(folders / "other"), "subfolder": "unet"},
        str(folders / "other" / "unet"),
        str(tmp_path / "a.safetensors"),
        {"path": str(tmp_path), "file": "a.bin"},
    ):
        loaded = load_models(folders / "sdxl", loading={"components": {"unet": part}})
        assert_same(loaded.network, other.unet)
        assert not loaded.network.training and not any(p.requires_grad for p in loaded.network.parameters())
    half = load_models(
        folders / "sdxl", dtype=torch.bfloat16, loading={"components": {"unet": str(tmp_path / "a.safetensors")}}
    )
    assert half.dtype == torch.bfloat16 and half.vae_dtype == torch.bfloat16
    mixed = load_models(
        folders / "sdxl",
        dtype=torch.bfloat16,
        vae_dtype=torch.float32,
        loading={"components": {"vae": str(folders / "other")}},
    )
    assert (mixed.dtype, mixed.vae_dtype) == (torch.bfloat16, torch.float32)
    assert_same(mixed.vae, other.vae)


def test_a_file_in_its_authors_layout_is_translated(tmp_path: Path) -> None:
    pipeline = single_file_pipeline()
    pipeline.save_pretrained(tmp_path / "folder")
    single_file(pipeline, tmp_path / "model.safetensors")
    for weights in (tmp_path / "folder" / "unet").glob("*.safetensors"):
        weights.unlink()  # not needed
    loaded = load_models(tmp_path / "folder", loading={"components": {"unet": str(tmp_path / "model.safetensors")}})
    assert_same(loaded.unet, pipeline.unet)


def test_parts_that_do_not_fit(folders: Path, tmp_path: Path) -> None:
    save_file(contiguous(tiny_family("sd").unet), tmp_path / "sd.safetensors")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"unet": str(tmp_path / "sd.safetensors")}, "do not fit UNet2DConditionModel: 4 missing: add_embedding"),
        ({"transformer": str(folders / "other")}, r"the pipeline has these parts: .*unet, vae; got transformer"),
        ({"vae": {"path": str(folders / "taesd"), "class": "Autoencoder"}}, r"vae\.class`: expected the name of a cl"),
        ({"vae": str(tmp_path / "none")}, r"`models\.components\.vae`"),
        ({"tokenizer": str(tmp_path / "sd.safetensors")}, r"tokenizer`: a .* is loaded from a folder, not from a file"),
    ]
    for components, words in cases:
        with pytest.raises(SgoolError, match=words):
            load_models(folders / "sdxl", loading={"components": components})


def test_another_scheduler_is_made_as_diffusers_makes_it(folders: Path) -> None:
    own = StableDiffusionXLPipeline.from_pretrained(folders / "sdxl").scheduler
    changes = {"class": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"}
    loaded = load_models(folders / "sdxl", loading={"scheduler": changes}).scheduler
    expected = EulerAncestralDiscreteScheduler.from_config(own.config, timestep_spacing="trailing")
    assert type(loaded) is EulerAncestralDiscreteScheduler and dict(loaded.config) == dict(expected.config)
    loaded = load_models(folders / "sdxl", loading={"scheduler": {"class": "LCMScheduler"}}).scheduler
    assert dict(loaded.config) == dict(LCMScheduler.from_config(own.config).config)
    loaded = load_models(folders / "sdxl", loading={"scheduler": {"timestep_spacing": "linspace"}}).scheduler
    assert type(loaded) is type(own) and loaded.config.timestep_spacing == "linspace"
    with pytest.raises(SgoolError, match=r"`models\.scheduler\.class`: expected a scheduler of diffusers.*got 'LCM'"):
        load_models(folders / "sdxl", loading={"scheduler": {"class": "LCM"}})
    with pytest.raises(SgoolError, match=r"`models\.scheduler`: EulerDiscreteScheduler has no spacing; its s"):
        load_models(folders / "sdxl", loading={"scheduler": {"spacing": "trailing"}})


def test_all_that_is_wrong_is_said_at_once(folders: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_models(folders / "sdxl", loading={"variant": "f p", "components": {"vae": 3}, "loras": [{"weight": "x"}]})
    for key in ("models.variant", "models.components.vae.path", "models.loras[0].path", "models.loras[0].weight"):
        assert f"`{key}`: expected" in str(caught.value)


def test_the_embedded_models_are_loaded_as_before(models: Any, pipeline_folder: Path) -> None:
    own = StableDiffusionPipeline.from_pretrained(pipeline_folder)
    for name in ("unet", "vae", "text_encoder"):
        assert_same(getattr(models, name), getattr(own, name))
