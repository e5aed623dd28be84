"""The guidance CLIP and the judge CLIP: open_clip models trained on different halves of the scenes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from open_clip.tokenizer import HFTokenizer
from torch import Tensor, nn

from experiments.emoji_world import words
from experiments.emoji_world.augment import augment
from experiments.emoji_world.captions import Caption, caption
from experiments.emoji_world.common import Stage, images_to_tensor
from experiments.emoji_world.scenes import Painted, Scene, Thing, mutate, training_scene

KINDS = ("position", "colour", "count", "object")
_TINTS = (None, *words.TINTS)

#: Model configurations in open_clip's format.
CONFIGS: dict[str, dict] = {
    "guide": {
        "model_cfg": {
            "embed_dim": 128,
            "vision_cfg": {"image_size": 64, "layers": [1, 1, 2, 1], "width": 24, "head_width": 48},
            "text_cfg": {"context_length": 32, "width": 128, "heads": 4, "layers": 4, "hf_tokenizer_name": "local"},
        },
        "preprocess_cfg": {
            "mean": [0.48145466, 0.4578275, 0.40821073],
            "std": [0.26862954, 0.26130258, 0.27577711],
            "interpolation": "bicubic",
            "resize_mode": "squash",
        },
    },
    "judge": {
        "model_cfg": {
            "embed_dim": 96,
            "vision_cfg": {
                "image_size": 64,
                "timm_model_name": "resnet10t",
                "timm_model_pretrained": False,
                "timm_pool": "avg",
                "timm_proj": "linear",
            },
            "text_cfg": {
                "context_length": 32,
                "width": 128,
                "heads": 4,
                "layers": 3,
                "pool_type": "eos",
                "eos_id": 3,
                "hf_tokenizer_name": "local",
            },
        },
        "preprocess_cfg": {
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "interpolation": "bicubic",
            "resize_mode": "squash",
        },
    },
}


def new_clip(name: str, vocab_size: int) -> open_clip.CLIP:
    """An untrained CLIP of this configuration for a vocabulary of this size."""
    config = CONFIGS[name]["model_cfg"]
    text = {k: v for k, v in config["text_cfg"].items() if not k.startswith("hf_")} | {"vocab_size": vocab_size}
    vision = {k: tuple(v) if isinstance(v, list) else v for k, v in config["vision_cfg"].items()}
    return open_clip.CLIP(embed_dim=config["embed_dim"], vision_cfg=vision, text_cfg=text)


def attributes(scene: Scene) -> list[int]:
    """Layout, noun, tint, second noun, second tint (-1: no second object) and background as integers."""
    nouns, backgrounds = list(words.NOUNS), list(words.BACKGROUNDS)
    a, b = scene.objects[0], scene.objects[-1] if scene.is_pair else None
    return [
        words.LAYOUTS.index(scene.layout),
        nouns.index(a.noun),
        _TINTS.index(a.tint),
        nouns.index(b.noun) if b else -1,
        _TINTS.index(b.tint) if b else -1,
        backgrounds.index(scene.background),
    ]


def stated(text: Caption) -> list[bool]:
    """Which of `attributes` the caption states."""
    return [text.relation, True, text.colours, True, text.colours, text.background]


def matches(facts: Tensor, flags: Tensor) -> Tensor:
    """(images, captions) bool: whether each image satisfies all that each caption states.

    ``facts`` (N, 6) integers, ``flags`` (N, 6) bool. A caption "a cat" is true of every image of one cat: such
    pairs are positives of the contrastive loss, not negatives.
    """
    same = facts[:, None, :] == facts[None, :, :]
    pair = (facts[:, None, 3] >= 0) & (facts[None, :, 3] >= 0)
    same[..., 0] |= pair & ~flags[None, :, 0]
    keep = flags.clone()
    keep[:, 0] = True
    return (same | ~keep[None]).all(dim=-1)


#: How many values each of `attributes` has.
SIZES = (len(words.LAYOUTS), *2 * (len(words.NOUNS), len(_TINTS)), len(words.BACKGROUNDS))


class AttributeHeads(nn.Module):
    """Linear classifiers of `attributes` on CLIP embeddings; they speed up learning and are thrown away."""

    def __init__(self, width: int, sizes: Sequence[int]) -> None:
        super().__init__()
        self.heads = nn.ModuleList([nn.Linear(width, size) for size in sizes])

    def forward(self, embeds: Tensor, facts: Tensor, flags: Tensor | None = None) -> Tensor:
        """Mean cross-entropy over the attributes that are present (and stated)."""
        total = embeds.new_zeros(())
        for i, head in enumerate(self.heads):
            target = facts[:, i] if flags is None else torch.where(flags[:, i], facts[:, i], -1)
            total = total + F.cross_entropy(head(embeds), target, ignore_index=-1)
        return total / len(self.heads)


class ClipStage(Stage):
    """Contrastive learning on groups of four scenes that differ in one fact, random scenes and crops of objects.

    Another world's CLIPs derive from it: what is special to this world's scenes is in `attributes`, `sizes` and the
    methods that begin with ``new_``.

    Args:
        name: "guide" or "judge".
        tokenizer: open_clip's wrapper of its tokenizer.
        painter: Paints the scenes.
        half: Which half of the training scenes it sees.
        groups: Groups of four variants in a batch.
        singles: Random scenes in a batch.
        crops: Crops of one object in a batch.
        vae: The autoencoder whose distortions are part of the augmentation, if any.
        vae_from: First step with them.
        kwargs: Of `Stage`.
    """

    sizes = SIZES
    attributes = staticmethod(attributes)
    stated = staticmethod(stated)

    def __init__(
        self,
        name: str,
        tokenizer: HFTokenizer,
        painter: Any,
        *,
        half: int,
        groups: int = 20,
        singles: int = 32,
        crops: int = 16,
        vae: nn.Module | None = None,
        vae_from: int = 0,
        **kwargs: object,
    ) -> None:
        super().__init__(**kwargs)  # type: ignore[arg-type]
        self.clip = new_clip(name, len(tokenizer.tokenizer)).to(memory_format=torch.channels_last)
        self.heads_image = AttributeHeads(CONFIGS[name]["model_cfg"]["embed_dim"], self.sizes)
        self.heads_text = AttributeHeads(CONFIGS[name]["model_cfg"]["embed_dim"], self.sizes)
        self.tokenizer, self.painter, self.scene_half = tokenizer, painter, half
        self.groups, self.singles, self.crops = groups, singles, crops
        self.size = CONFIGS[name]["model_cfg"]["vision_cfg"]["image_size"]
        pre = CONFIGS[name]["preprocess_cfg"]
        self.register_buffer("mean", torch.tensor(pre["mean"]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(pre["std"]).view(1, 3, 1, 1), persistent=False)
        self._vae, self._vae_from = (vae,), vae_from  # in a tuple: its weights are frozen and not this module's

    def new_scene(self, rng: np.random.Generator) -> Any:
        """A random scene of the half."""
        return training_scene(rng, half=self.scene_half)

    def new_group(self, rng: np.random.Generator) -> list[tuple[Any, Caption]]:
        """Up to four scenes that differ in one fact each, with captions."""
        scene = training_scene(rng, half=self.scene_half, weights=(3, 3, 3, 1, 1, 1))
        return [(s, caption(s, rng, relation=0.95, colours=0.97)) for s in variants(scene, mutate, rng)]

    def new_caption(self, scene: Any, rng: np.random.Generator) -> Caption:
        """A random caption."""
        return caption(scene, rng)

    def new_crop(self, rng: np.random.Generator) -> tuple[Any, Caption, np.ndarray]:
        """A crop of one object of several: what it shows, its caption, and it."""
        scene = training_scene(rng, half=self.scene_half, weights=(0, 1, 1, 1, 1, 1))
        painted = self.painter.paint(scene, rng)
        index = int(rng.integers(len(painted.masks)))
        thing = scene.objects[index] if scene.is_pair else scene.objects[0]
        single = Scene("single", (Thing(thing.noun, thing.tint),), scene.background)
        crop = object_crop(painted, index, int(rng.integers(3, 10)))
        return single, caption(single, rng), crop

    def batch(self, rng: np.random.Generator) -> tuple:
        """Images (B, 3, S, S), token ids (B, 32), facts (B, F), stated flags (B, F)."""
        pairs = [pair for _ in range(self.groups) for pair in self.new_group(rng)]
        singles = [self.new_scene(rng) for _ in range(self.singles)]
        pairs += [(scene, self.new_caption(scene, rng)) for scene in singles]
        images = [self.painter.paint(scene, rng).image for scene, _ in pairs]
        for _ in range(self.crops):
            scene, text, image = self.new_crop(rng)
            pairs.append((scene, text))
            images.append(image)
        facts = torch.tensor([self.attributes(scene) for scene, _ in pairs])
        flags = torch.tensor([self.stated(text) for _, text in pairs])
        vae = self._vae[0] if self.step >= self._vae_from else None
        tensor = augment(images_to_tensor(images), rng, self.size, vae)
        tokens = self.tokenizer([text.text for _, text in pairs])
        return (tensor - self.mean) / self.std, tokens, facts, flags

    def loss(  # type: ignore[override]
        self, images: Tensor, tokens: Tensor, facts: Tensor, flags: Tensor
    ) -> dict[str, Tensor]:
        """Symmetric cross-entropy with several positives per row, plus the attribute losses."""
        image = self.clip.encode_image(images).float()
        text = self.clip.encode_text(tokens).float()
        scale = self.clip.logit_scale.exp().clamp(max=100)
        logits = scale * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
        target = matches(facts, flags).float()
        rows = -(target * logits.log_softmax(1)).sum(1) / target.sum(1).clamp_min(1)
        columns = -(target * logits.log_softmax(0)).sum(0) / target.sum(0).clamp_min(1)
        contrastive = (rows.mean() + columns.mean()) / 2
        extra = self.heads_image(image, facts) + 0.3 * self.heads_text(text, facts, flags)
        group = logits.detach()[: 4 * self.groups].unfold(0, 4, 4)
        hard = torch.stack([group[i, 4 * i : 4 * i + 4].argmax(0) for i in range(len(group))])
        correct = (hard == torch.arange(4)).float().mean()
        return {"loss": contrastive + extra, "contrastive": contrastive, "extra": extra, "hard": correct}


def variants(
    scene: Any, change: Callable[[Any, str, np.random.Generator], Any | None], rng: np.random.Generator
) -> list[Any]:
    """The scene and up to three that ``change(scene, kind, rng)`` made of it or of one another, none held out."""
    scenes = [scene]
    for _ in range(20):
        kind = KINDS[rng.integers(4)]
        other = change(scenes[rng.integers(len(scenes))], kind, rng)
        if other and other not in scenes and not other.is_held_out():
            scenes.append(other)
        if len(scenes) == 4:
            break
    return scenes


def object_crop(painted: Painted, index: int, border: int) -> np.ndarray:
    """The square around one object, ``border`` pixels larger than it, resized to the size of the whole image."""
    size = painted.image.shape[0]
    rows, columns = np.nonzero(painted.masks[index] > 0.5)
    side = int(min(size, max(np.ptp(rows), np.ptp(columns)) + border))
    top = int(np.clip((rows.min() + rows.max() - side) // 2, 0, size - side))
    left = int(np.clip((columns.min() + columns.max() - side) // 2, 0, size - side))
    crop = torch.from_numpy(painted.image[top : top + side, left : left + side]).permute(2, 0, 1)[None]
    crop = F.interpolate(crop.float(), size=size, mode="bilinear", antialias=True)[0].permute(1, 2, 0)
    return crop.round().to(torch.uint8).numpy()


def four_way(
    scene: Any,
    kind: str,
    rng: np.random.Generator,
    change: Callable[[Any, str, np.random.Generator], Any | None] = mutate,
) -> list[Any] | None:
    """The scene and three variants of it with the named fact swapped (as many as exist, then other kinds).

    ``change(scene, kind, rng)`` swaps it; None if that cannot be.
    """
    first = change(scene, kind, rng)
    if first is None:
        return None
    scenes = [scene, first]
    for attempt in range(60):
        other = change(scene, kind if attempt < 20 else KINDS[rng.integers(4)], rng)
        if other is not None and other not in scenes:
            scenes.append(other)
        if len(scenes) == 4:
            return scenes
    return None
