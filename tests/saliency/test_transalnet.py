from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from sgool.errors import ConfigError, SgoolError
from sgool.saliency.transalnet import TransalnetDetector, cut_back, fit_into, load_transalnet
from sgool.saliency.transalnet_network import ARCHITECTURES, TranSalNet

SMALL = ARCHITECTURES["densenet_small"]


def small_network(seed: int = 0) -> TranSalNet:
    """Random weights of the small size, with statistics of batch norms that are not those of a fresh network."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = TranSalNet(SMALL)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 1.5)
        for name, parameter in network.named_parameters():
            if name.endswith("position_embeddings"):
                nn.init.normal_(parameter)
    return network.eval()


def images(number: int = 2, height: int = 40, width: int = 56, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(number, 3, height, width, dtype=dtype, generator=torch.Generator().manual_seed(1))


# Layout of the published weights


def _published_decoder(channels: tuple[int, int, int]) -> dict[str, tuple[int, ...]]:
    """Names and shapes written down from the authors' description, independent of the code's formulas."""
    shapes: dict[str, tuple[int, ...]] = {}
    widths = (768, 768, 512, 256, 128, 64, 32, 1)
    for number in range(1, 8):
        before, after = widths[number - 1], widths[number]
        shapes[f"conv{number}.weight"], shapes[f"conv{number}.bias"] = (after, before, 3, 3), (after,)
        if number < 7:
            for name in ("weight", "bias", "running_mean", "running_var"):
                shapes[f"batchnorm{number}.{name}"] = (after,)
            shapes[f"batchnorm{number}.num_batches_tracked"] = ()
    coarse_first = zip(channels[::-1], (768, 768, 512), (9 * 12, 18 * 24, 36 * 48), strict=True)
    for number, (into, hidden, positions) in enumerate(coarse_first, start=1):
        top = f"TransEncoder{number}."
        shapes[f"{top}patch_embeddings.weight"] = (hidden, into, 1, 1)
        shapes[f"{top}patch_embeddings.bias"] = (hidden,)
        shapes[f"{top}position_embeddings"] = (1, positions, hidden)
        for layer in (0, 1):
            block = f"{top}transformer_encoder.layer.{layer}."
            linear = dict.fromkeys(("attn.query", "attn.key", "attn.value", "attn.out"), (hidden, hidden))
            linear |= {"ffn.fc1": (4 * hidden, hidden), "ffn.fc2": (hidden, 4 * hidden)}
            for name, shape in linear.items():
                shapes[f"{block}{name}.weight"], shapes[f"{block}{name}.bias"] = shape, shape[:1]
            for name in ("attention_norm", "ffn_norm"):
                shapes[f"{block}{name}.weight"] = shapes[f"{block}{name}.bias"] = (hidden,)
        for name in ("weight", "bias"):
            shapes[f"{top}transformer_encoder.encoder_norm.{name}"] = (hidden,)
    return {f"decoder.{name}": shape for name, shape in shapes.items()}


def _published_encoder(backbone: str) -> dict[str, tuple[int, ...]]:
    """Torchvision's own names, with the part of the backbone replaced by its number."""
    from torchvision import models

    numbers = {
        "resnet50": {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7},
        "densenet161": {
            "features.conv0": 0,
            "features.norm0": 1,
            "features.denseblock1": 4,
            "features.transition1": 5,
            "features.denseblock2": 6,
            "features.transition2": 7,
            "features.denseblock3": 8,
            "features.transition3": 9,
            "features.denseblock4": 10,
        },
    }[backbone]
    state = getattr(models, backbone)(weights=None).state_dict()
    return {
        f"encoder.encoder.{number}.{name.removeprefix(part + '.')}": tuple(value.shape)
        for name, value in state.items()
        for part, number in numbers.items()
        if name.startswith(part + ".")
    }


@pytest.mark.parametrize(
    ("backbone", "channels"), [("resnet50", (512, 1024, 2048)), ("densenet161", (768, 2112, 2208))]
)
def test_names_and_shapes_are_the_published_ones(backbone: str, channels: tuple[int, int, int]) -> None:
    with torch.device("meta"):
        state = TranSalNet(ARCHITECTURES[backbone]).state_dict()
        expected = _published_encoder(backbone) | _published_decoder(channels)
    assert {name: tuple(value.shape) for name, value in state.items()} == expected


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["resnet50", "densenet161"])
def test_the_published_sizes_load_and_run(backbone: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = TranSalNet(ARCHITECTURES[backbone]).eval()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    detector = load_transalnet(str(tmp_path / "weights.pth"), backbone)
    batch = images(1, 60, 90)
    assert torch.equal(detector(batch), TransalnetDetector(network, (288, 384))(batch))


# The network


def _block(state: dict[str, Tensor], prefix: str, tokens: Tensor, heads: int) -> Tensor:
    """A block of the transformer with loops over heads and an explicit softmax."""

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ state[f"{prefix}{name}.weight"].T + state[f"{prefix}{name}.bias"]

    def norm(name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return scaled * state[f"{prefix}{name}.weight"] + state[f"{prefix}{name}.bias"]

    x = norm("attention_norm", tokens)
    query, key, value = (linear(f"attn.{name}", x).chunk(heads, dim=-1) for name in ("query", "key", "value"))
    mixed = [
        (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(-1) @ v
        for q, k, v in zip(query, key, value, strict=True)
    ]
    tokens = tokens + linear("attn.out", torch.cat(mixed, -1))
    hidden = linear("ffn.fc1", norm("ffn_norm", tokens))
    return tokens + linear("ffn.fc2", hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))))


def _reference_decoder(state: dict[str, Tensor], features: list[Tensor], head_width: int) -> Tensor:
    """The published data flow, from the state dict alone."""
    state = {name.removeprefix("decoder."): value for name, value in state.items() if name.startswith("decoder.")}

    def transformer(number: int, x: Tensor) -> Tensor:
        top = f"TransEncoder{number}."
        cells = F.conv2d(x, state[f"{top}patch_embeddings.weight"], state[f"{top}patch_embeddings.bias"])
        tokens = cells.flatten(2).permute(0, 2, 1) + state[f"{top}position_embeddings"]
        for layer in (0, 1):
            heads = cells.shape[1] // head_width
            tokens = _block(state, f"{top}transformer_encoder.layer.{layer}.", tokens, heads)
        tail = f"{top}transformer_encoder.encoder_norm."
        tokens = F.layer_norm(tokens, tokens.shape[-1:], state[f"{tail}weight"], state[f"{tail}bias"], 1e-6)
        return tokens.permute(0, 2, 1).unflatten(2, cells.shape[-2:])

    def convolve(number: int, x: Tensor) -> Tensor:
        norm = [state[f"batchnorm{number}.{n}"] for n in ("running_mean", "running_var", "weight", "bias")]
        x = F.conv2d(x, state[f"conv{number}.weight"], state[f"conv{number}.bias"], padding=1)
        return F.batch_norm(x, *norm).relu()

    def double(x: Tensor) -> Tensor:
        return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)

    f3, f4, f5 = features
    x = double(convolve(1, transformer(1, f5)))
    x = double(convolve(2, (x * transformer(2, f4)).relu()))
    x = double(convolve(3, (x * transformer(3, f3)).relu()))
    x = convolve(6, double(convolve(5, double(convolve(4, x)))))
    return F.conv2d(x, state["conv7.weight"], state["conv7.bias"], padding=1).sigmoid()


def test_agrees_with_an_independent_decoder() -> None:
    network = small_network().double()
    batch = images(2, *SMALL.input_size, dtype=torch.float64)
    features, x = [], batch
    for index, layer in enumerate(network.encoder.encoder):
        x = layer(x)
        features += [x] if index in (6, 8, 10) else []
    expected = _reference_decoder(network.state_dict(), features, SMALL.head_width)
    result = network(batch)
    assert result.shape == (2, 1, *SMALL.input_size)
    # float64, some twenty layers of sums in another order.
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-12)


# Preprocessing and the way back


def test_a_wide_image_is_padded_above_and_below() -> None:
    result = fit_into(torch.full((1, 3, 50, 200), 0.5), (288, 384))
    # 50 * 384 // 200 = 96 rows, 96 above and below.
    torch.testing.assert_close(result[..., 96:192, :], torch.full((1, 3, 96, 384), 0.5))  # float32 interpolation
    assert torch.all(result[..., :96, :] == 1 / 255) and torch.all(result[..., 192:, :] == 1 / 255)


def test_a_tall_image_is_padded_left_and_right() -> None:
    result = fit_into(torch.full((1, 3, 101, 70), 0.5), (288, 384))
    # 70 * 288 // 101 = 199 columns (199.6 rounded down), 92 on the left, 93 on the right.
    torch.testing.assert_close(result[..., 92:291], torch.full((1, 3, 288, 199), 0.5))
    assert torch.all(result[..., :92] == 1 / 255) and torch.all(result[..., 291:] == 1 / 255)


def _published_input(image: np.ndarray, resize: Callable) -> np.ndarray:
    """What the published preprocessing does to an array (h, w, 3) in [0, 255], but for rounding to whole levels."""
    padded = np.ones((288, 384, 3), np.float32)
    height, width = image.shape[:2]
    if height / 288 > width / 384:
        columns = width * 288 // height
        left = (384 - columns) // 2
        padded[:, left : left + columns] = resize(image, (columns, 288))
    else:
        rows = height * 384 // width
        top = (288 - rows) // 2
        padded[top : top + rows] = resize(image, (384, rows))
    return padded / 255


def _published_map(saliency: np.ndarray, height: int, width: int, resize: Callable) -> np.ndarray:
    if height / 288 > width / 384:
        columns = 384 * height // 288
        left = (columns - width) // 2
        return resize(saliency, (columns, height))[:, left : left + width]
    rows = 288 * width // 384
    top = (rows - height) // 2
    return resize(saliency, (width, rows))[top : top + height]


@pytest.mark.parametrize("shape", [(256, 256), (64, 64), (512, 512), (480, 640), (600, 200), (101, 470), (576, 768)])
def test_both_ways_agree_with_opencv(shape: tuple[int, int]) -> None:
    cv2 = pytest.importorskip("cv2")
    image, saliency = np.random.default_rng(0).random((*shape, 3)), np.random.default_rng(1).random((288, 384))
    batch = torch.from_numpy(image).permute(2, 0, 1)[None]
    expected = _published_input(image * 255, cv2.resize)
    # The reference's array is float32.
    np.testing.assert_allclose(fit_into(batch, (288, 384))[0].permute(1, 2, 0).numpy(), expected, atol=1e-7)
    expected = _published_map(saliency, *shape, cv2.resize)
    back = cut_back(torch.from_numpy(saliency)[None, None], shape)[0, 0].numpy()
    np.testing.assert_allclose(back, expected, atol=1e-12)  # float64, a few products


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 700), st.integers(1, 700))
def test_every_size_fits_and_comes_back(height: int, width: int) -> None:
    assert fit_into(torch.zeros(1, 3, height, width), (96, 128)).shape == (1, 3, 96, 128)
    assert cut_back(torch.zeros(1, 1, 96, 128), (height, width)).shape == (1, 1, height, width)


@settings(max_examples=25, deadline=None)
@given(st.integers(30, 200), st.integers(30, 200), st.floats(0.2, 0.8), st.floats(0.2, 0.8))
def test_a_spot_comes_back_to_its_place(height: int, width: int, down: float, right: float) -> None:
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    y, x = down * height, right * width
    spot = torch.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * (0.1 * min(height, width)) ** 2))
    back = cut_back(fit_into(spot.expand(1, 3, -1, -1), (96, 128))[:, :1], (height, width))[0, 0]
    peak_y, peak_x = divmod(int(back.argmax()), width)
    # Two roundings of sides by up to one pixel of the small image, which has at least 96 for the larger side.
    slack = 2 + 3 * max(height, width) / 96
    assert abs(peak_y - y) <= slack and abs(peak_x - x) <= slack


def test_gradients_of_both_ways() -> None:
    def there_and_back(x: Tensor) -> Tensor:
        return cut_back(fit_into(x, (12, 16))[:, :1], (x.shape[-2], x.shape[-1]))

    for shape in ((7, 9), (5, 12), (20, 9)):
        assert torch.autograd.gradcheck(there_and_back, images(1, *shape, dtype=torch.float64).requires_grad_())


# The detector


def test_the_whole_detector_is_differentiable() -> None:
    detector = TransalnetDetector(small_network().double(), SMALL.input_size)
    batch = (images(1, 24, 24, dtype=torch.float64) * 0.8 + 0.1).requires_grad_()
    weights = torch.rand(1, 1, 24, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    direction = torch.randn(1, 3, 24, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(4))

    def value(x: Tensor) -> Tensor:
        return (detector(x) * weights).sum()

    (gradient,) = torch.autograd.grad(value(batch), batch)
    step = 1e-6
    with torch.no_grad():
        difference = (value(batch + step * direction) - value(batch - step * direction)) / (2 * step)
    # Central differences: 1e-6 squared from curvature, 1e-16 / 1e-6 from rounding, relative to a sum over 576 pixels.
    torch.testing.assert_close((gradient * direction).sum(), difference, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("size", [(40, 56), (64, 64), (300, 128)])
def test_maps_have_the_images_size_and_maximum_one(size: tuple[int, int]) -> None:
    maps = TransalnetDetector(small_network(), SMALL.input_size)(images(2, *size))
    assert maps.shape == (2, 1, *size) and maps.dtype == torch.float32
    assert torch.equal(maps.amax((1, 2, 3)), torch.ones(2)) and maps.min() >= 0


def test_channel_order_is_that_of_the_network() -> None:
    network, batch = small_network(), images()
    bgr = TransalnetDetector(network, SMALL.input_size, "bgr")
    rgb = TransalnetDetector(network, SMALL.input_size, "rgb")
    assert torch.equal(bgr(batch), rgb(batch[:, [2, 1, 0]]))
    assert not torch.allclose(bgr(batch), rgb(batch))


def test_images_do_not_influence_each_other_and_batch_norms_stay() -> None:
    network = small_network().train()
    detector = TransalnetDetector(network, SMALL.input_size)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    batch = images(3)
    # float32: convolutions of other batch sizes may sum in another order.
    torch.testing.assert_close(detector(batch), torch.cat([detector(i[None]) for i in batch]), atol=1e-4, rtol=0)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_autocast_and_half_precision_change_nothing() -> None:
    detector = TransalnetDetector(small_network(), SMALL.input_size)
    batch = images().half()
    with torch.autocast("cpu", torch.bfloat16):
        inside = detector(batch)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, detector(batch.float()))


def test_images_that_are_not_finite_are_refused() -> None:
    batch = images()
    batch[1, 0, 3, 3] = float("nan")
    with pytest.raises(SgoolError, match="image 1 of 2 holds NaN"):
        TransalnetDetector(small_network(), SMALL.input_size)(batch)


def test_images_have_three_channels() -> None:
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\), got \(1, 1, 8, 8\)"):
        TransalnetDetector(small_network(), SMALL.input_size)(torch.zeros(1, 1, 8, 8))


# Loading


@pytest.mark.parametrize("layout", ["plain", "nested", "parallel", "safetensors"])
def test_loads_every_layout_and_leaves_the_global_generator(layout: str, tmp_path: Path) -> None:
    network = small_network(seed=5)
    state = network.state_dict()
    file = tmp_path / ("w.safetensors" if layout == "safetensors" else "w.pth")
    if layout == "safetensors":
        save_file(state, file)
    elif layout == "parallel":
        torch.save({f"module.{name}": value for name, value in state.items()}, file)
    else:
        torch.save({"state_dict": state} if layout == "nested" else state, file)
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    detector = load_transalnet(str(file), "densenet_small", "rgb")
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(detector(images()), TransalnetDetector(network, SMALL.input_size, "rgb")(images()))


def test_a_missing_file_is_named_with_its_source_and_key() -> None:
    with pytest.raises(ConfigError, match=r"(?s)saliency.detector.weights.*'no/TranSalNet_Res.pth'") as caught:
        load_transalnet("no/TranSalNet_Res.pth")
    for part in ("TranSalNet_Res.pth (", "TranSalNet_Dense.pth (", "published by the authors", "LJOVO/TranSalNet"):
        assert part in str(caught.value)


def test_another_layout_lists_a_few_keys(tmp_path: Path) -> None:
    state = small_network().state_dict()
    wrong = {name: value for name, value in state.items() if not name.startswith("decoder.conv")}
    wrong |= {"extra.weight": torch.zeros(1), "decoder.batchnorm1.bias": torch.zeros(7)}
    torch.save(wrong, tmp_path / "w.pth")
    with pytest.raises(SgoolError, match=r"saliency.detector.weights.*backbone=densenet_small") as caught:
        load_transalnet(str(tmp_path / "w.pth"), "densenet_small")
    message = str(caught.value)
    assert "14 missing" in message and "decoder.conv1.weight" in message and "8 more" in message
    assert "1 unexpected: extra.weight" in message
    assert "decoder.batchnorm1.bias (expected (96,), got (7,))" in message


def test_weights_of_the_other_backbone_are_refused(tmp_path: Path) -> None:
    torch.save(small_network().state_dict(), tmp_path / "w.pth")
    with pytest.raises(SgoolError, match=r"backbone=resnet50.*missing.*unexpected.*another shape"):
        load_transalnet(str(tmp_path / "w.pth"), "resnet50")


class _Evil:
    def __reduce__(self) -> tuple:
        return (print, ("ran",))


def test_files_that_would_run_code_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": _Evil()}, tmp_path / "w.pth")
    with pytest.raises(SgoolError, match=r"saliency.detector.weights.*refused"):
        load_transalnet(str(tmp_path / "w.pth"))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("suffix", "message"), [("pth", "is cut short"), ("safetensors", "is no safetensors file")])
def test_files_that_are_cut_off_are_refused(suffix: str, message: str, tmp_path: Path) -> None:
    (tmp_path / f"w.{suffix}").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(SgoolError, match=rf"saliency.detector.weights.*{message}"):
        load_transalnet(str(tmp_path / f"w.{suffix}"))


def test_unknown_settings() -> None:
    with pytest.raises(ConfigError, match=r"backbone must be one of resnet50, densenet161, .* got 'vgg'"):
        load_transalnet("w.pth", "vgg")
    with pytest.raises(ConfigError, match="channel_order must be 'bgr' or 'rgb', got 'gbr'"):
        TransalnetDetector(small_network(), SMALL.input_size, "gbr")  # type: ignore[arg-type]
