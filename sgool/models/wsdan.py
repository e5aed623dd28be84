"""WS-DAN (Hu et al. 2019, "See Better Before Looking Closer"), a classifier of fine-grained kinds.

It consists of Inception-v3 up to Mixed_6e, attention maps, bilinear attention pooling and one linear layer. Two public
layouts are read:

- GuYuc/WS-DAN.PyTorch: ``features.N``, ``attentions``, ``fc``; a convolution of its own makes the attention maps.
- wvinzh/WS_DAN_PyTorch (which DOODL uses): torchvision's names, ``Mixed_7a`` and ``fc_new``; the attention maps are the
  first channels of ``Mixed_7a.branch3x3_1``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.inception import BasicConv2d, InceptionA, InceptionB, InceptionC, InceptionD

from sgool.models.checkpoints import below, first_tensor, load_strictly
from sgool.models.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from sgool.models.resize import Resize

_CHANNELS = 768
#: Factor on the normalised features before the linear layer, as in training.
_SCALE = 100.0
_EPSILON = 1e-12
#: Both layouts are evaluated on images that are squashed to 512 pixels a side, of which the middle 448 are seen.
_RESIZE = Resize(size=448, interpolation="bilinear", resize_size=512, mode="squash")


def attention_pool(features: Tensor, attentions: Tensor) -> Tensor:
    """Pools features (N, C, h, w) by attention maps (N, M, h, w) to vectors (N, M * C) of unit norm.

    This is bilinear attention pooling. Before the signed square root, entry m * C + c is the mean over the positions
    of ``attentions[m] * features[c]``.
    """
    places = features.shape[-2] * features.shape[-1]
    pooled = torch.einsum("nmhw,nchw->nmc", attentions, features).flatten(1) / places
    return F.normalize(pooled.sign() * (pooled.abs() + _EPSILON).sqrt(), dim=1)


class WsDan(nn.Module):
    """The network of either layout, up to the class logits of the whole view.

    The paper's second pass over the attended part of the image is left out.

    Args:
        num_classes: Number of classes of the head.
        num_attentions: Number of attention maps.
        separate_attentions: Whether the layout has ``features``, ``attentions`` and ``fc``, or torchvision's names.
        head: Name of the linear layer, ``fc`` or ``fc_new``.
        bias: Whether the linear layer has a bias.
    """

    def __init__(
        self, num_classes: int, num_attentions: int, *, separate_attentions: bool, head: str, bias: bool
    ) -> None:
        super().__init__()
        self._head, self._num_attentions = head, num_attentions
        parts = _inception_parts()
        if separate_attentions:
            self.features = nn.Sequential(*parts.values())
            self.attentions = BasicConv2d(_CHANNELS, num_attentions, kernel_size=1)
        else:
            self._parts = [name for name in parts if not name.startswith("pool")]
            for name in self._parts:
                self.add_module(name, parts[name])
            self.Mixed_7a = InceptionD(_CHANNELS)
        self.add_module(head, nn.Linear(num_attentions * _CHANNELS, num_classes, bias=bias))

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits (N, classes) of preprocessed images."""
        if hasattr(self, "attentions"):
            features = self.features(images)
            attentions = self.attentions(features)
        else:
            features = images
            for name in self._parts:
                features = self.get_submodule(name)(features)
                if name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3"):
                    features = F.max_pool2d(features, kernel_size=3, stride=2)
            attentions = self.Mixed_7a.branch3x3_1(features)[:, : self._num_attentions]
        return self.get_submodule(self._head)(attention_pool(features, attentions) * _SCALE)


def build_wsdan(state: Mapping[str, Tensor], source: str) -> tuple[WsDan, Preprocess]:
    """Builds the network of a checkpoint with its weights, and the preprocessing of its images.

    Args:
        state: State dict, as `sgool.models.checkpoints.read_state` returns it.
        source: File of the checkpoint, for messages.

    Raises:
        SgoolError: The layout is neither of the two, or tensors are missing, unexpected or of another shape.
    """
    head_weight = first_tensor(state, ("fc_new.weight", "fc.weight"), source, "WS-DAN checkpoint")
    head = "fc_new" if "fc_new.weight" in state else "fc"
    separate = bool(below(state, "features."))
    network = WsDan(
        head_weight.shape[0],
        head_weight.shape[-1] // _CHANNELS,
        separate_attentions=separate,
        head=head,
        bias=f"{head}.bias" in state,
    )
    # The auxiliary classifier is used in training only, not for the logits.
    load_strictly(network, {k: v for k, v in state.items() if not k.startswith("AuxLogits.")}, source)
    if separate:
        return network, Preprocess(448, IMAGENET_MEAN, IMAGENET_STD, resize=_RESIZE)
    # That layout changes ImageNet's normalisation to mean and std 0.5 inside the network, as torchvision's
    # transform_input does. Its views have 512 pixels, as in DOODL's code; whole images are seen as above.
    return network, Preprocess(512, (0.5,) * 3, (0.5,) * 3, resize=_RESIZE)


def _inception_parts() -> OrderedDict[str, nn.Module]:
    """Builds the parts of torchvision's Inception-v3 from the image to Mixed_6e, without the classifiers after it."""
    return OrderedDict(
        Conv2d_1a_3x3=BasicConv2d(3, 32, kernel_size=3, stride=2),
        Conv2d_2a_3x3=BasicConv2d(32, 32, kernel_size=3),
        Conv2d_2b_3x3=BasicConv2d(32, 64, kernel_size=3, padding=1),
        pool1=nn.MaxPool2d(kernel_size=3, stride=2),
        Conv2d_3b_1x1=BasicConv2d(64, 80, kernel_size=1),
        Conv2d_4a_3x3=BasicConv2d(80, 192, kernel_size=3),
        pool2=nn.MaxPool2d(kernel_size=3, stride=2),
        Mixed_5b=InceptionA(192, pool_features=32),
        Mixed_5c=InceptionA(256, pool_features=64),
        Mixed_5d=InceptionA(288, pool_features=64),
        Mixed_6a=InceptionB(288),
        Mixed_6b=InceptionC(_CHANNELS, channels_7x7=128),
        Mixed_6c=InceptionC(_CHANNELS, channels_7x7=160),
        Mixed_6d=InceptionC(_CHANNELS, channels_7x7=160),
        Mixed_6e=InceptionC(_CHANNELS, channels_7x7=192),
    )
