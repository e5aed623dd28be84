"""The network of TranSalNet (Lou et al. 2022), with module names for which the published weights load strictly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Architecture:
    """One size of the network.

    Attributes:
        layers: Makes the backbone's layers, randomly initialised.
        taps: Indices of the layers whose outputs are decoded, at 1/8, 1/16 and 1/32 of the input's sides.
        channels: Channels of these outputs.
        input_size: (H, W) of the input in pixels, multiples of 32; the position embeddings have this size.
        hidden: Width of the transformer on each output, from 1/8 to 1/32.
        head_width: Number of channels of an attention head.
        depth: Number of blocks of each transformer.
    """

    layers: Callable[[], Sequence[nn.Module]]
    taps: tuple[int, int, int]
    channels: tuple[int, int, int]
    input_size: tuple[int, int] = (288, 384)
    hidden: tuple[int, int, int] = (512, 768, 768)
    head_width: int = 64
    depth: int = 2


def _resnet50() -> list[nn.Module]:
    from torchvision.models import resnet50

    return list(resnet50(weights=None).children())[:8]


def _densenet161() -> list[nn.Module]:
    from torchvision.models import densenet161

    return list(densenet161(weights=None).features.children())[:-1]


def _densenet_small() -> list[nn.Module]:
    from torchvision.models import DenseNet

    network = DenseNet(growth_rate=12, block_config=(3, 4, 6, 4), num_init_features=24)
    return list(network.features.children())[:-1]


#: Backbone -> architecture. The first two are the published ones.
ARCHITECTURES: dict[str, Architecture] = {
    "resnet50": Architecture(_resnet50, (5, 6, 7), (512, 1024, 2048)),
    "densenet161": Architecture(_densenet161, (6, 8, 10), (768, 2112, 2208)),
    "densenet_small": Architecture(
        _densenet_small,
        taps=(6, 8, 10),
        channels=(78, 111, 103),
        input_size=(128, 128),
        hidden=(64, 96, 96),
        head_width=32,
    ),
}


class TranSalNet(nn.Module):
    """The saliency network: a convolutional backbone, a transformer at each of three scales, a convolutional decoder.

    Args:
        architecture: Size of the network; see `ARCHITECTURES`.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.encoder = _Encoder(architecture)
        self.decoder = _Decoder(architecture)

    def forward(self, images: Tensor) -> Tensor:
        """Returns maps (B, 1, H, W) in (0, 1) of images (B, 3, H, W) in [0, 1], of the architecture's input size."""
        return self.decoder(*self.encoder(images))


class _Encoder(nn.Module):
    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(architecture.layers())
        self._taps = architecture.taps

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for index, layer in enumerate(self.encoder):
            x = layer(x)
            if index in self._taps:
                features.append(x)
        return features


class _Decoder(nn.Module):
    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        fine, middle, coarse = architecture.hidden
        widths = (coarse, middle, fine, fine // 2, fine // 4, fine // 8, fine // 16)
        for number, (before, after) in enumerate(pairwise(widths), start=1):
            self.add_module(f"conv{number}", nn.Conv2d(before, after, 3, padding=1))
            self.add_module(f"batchnorm{number}", nn.BatchNorm2d(after))
        self.conv7 = nn.Conv2d(widths[-1], 1, 3, padding=1)
        self.TransEncoder1 = _TransEncoder(architecture, 2)
        self.TransEncoder2 = _TransEncoder(architecture, 1)
        self.TransEncoder3 = _TransEncoder(architecture, 0)

    def forward(self, fine: Tensor, middle: Tensor, coarse: Tensor) -> Tensor:
        x = self._double(self._convolve(1, self.TransEncoder1(coarse)))
        x = self._double(self._convolve(2, (x * self.TransEncoder2(middle)).relu()))
        x = self._double(self._convolve(3, (x * self.TransEncoder3(fine)).relu()))
        x = self._double(self._convolve(4, x))
        x = self._double(self._convolve(5, x))
        return self.conv7(self._convolve(6, x)).sigmoid()

    def _convolve(self, number: int, x: Tensor) -> Tensor:
        return getattr(self, f"batchnorm{number}")(getattr(self, f"conv{number}")(x)).relu()

    @staticmethod
    def _double(x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2.0, mode="nearest")


class _TransEncoder(nn.Module):
    """A transformer over the cells of the backbone's feature map at one scale, 0 (finest) to 2."""

    def __init__(self, architecture: Architecture, scale: int) -> None:
        super().__init__()
        hidden, stride = architecture.hidden[scale], 8 * 2**scale
        height, width = architecture.input_size
        self.patch_embeddings = nn.Conv2d(architecture.channels[scale], hidden, 1)
        self.position_embeddings = nn.Parameter(torch.zeros(1, (height // stride) * (width // stride), hidden))
        self.transformer_encoder = _Transformer(hidden, hidden // architecture.head_width, architecture.depth)

    def forward(self, x: Tensor) -> Tensor:
        cells = self.patch_embeddings(x)
        tokens = cells.flatten(2).transpose(1, 2) + self.position_embeddings
        return self.transformer_encoder(tokens).transpose(1, 2).reshape(cells.shape)


class _Transformer(nn.Module):
    def __init__(self, hidden: int, heads: int, depth: int) -> None:
        super().__init__()
        self.layer = nn.ModuleList(_Block(hidden, heads) for _ in range(depth))
        self.encoder_norm = nn.LayerNorm(hidden, eps=1e-6)

    def forward(self, tokens: Tensor) -> Tensor:
        for block in self.layer:
            tokens = block(tokens)
        return self.encoder_norm(tokens)


class _Block(nn.Module):
    """Attention and a perceptron, each after a layer norm and around a shortcut."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(hidden, eps=1e-6)
        self.attn = _Attention(hidden, heads)
        self.ffn_norm = nn.LayerNorm(hidden, eps=1e-6)
        self.ffn = _Perceptron(hidden)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attn(self.attention_norm(tokens))
        return tokens + self.ffn(self.ffn_norm(tokens))


class _Attention(nn.Module):
    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(hidden, hidden) for _ in range(4))

    def forward(self, tokens: Tensor) -> Tensor:
        shape = (*tokens.shape[:2], self._heads, -1)
        query, key, value = (part(tokens).view(shape).transpose(1, 2) for part in (self.query, self.key, self.value))
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.out(mixed.transpose(1, 2).reshape(tokens.shape))


class _Perceptron(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(hidden, 4 * hidden)
        self.fc2 = nn.Linear(4 * hidden, hidden)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(tokens)))
