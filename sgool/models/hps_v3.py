"""HPSv3 (Ma et al. 2025, arXiv 2508.03789): human preference by Qwen2-VL with a head that reads one special token."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from sgool.errors import SgoolError
from sgool.models.checkpoints import below, load_strictly, read_state
from sgool.models.complete import refuse_missing
from sgool.models.hps_v3_text import PROMPT, REWARD_TOKEN, read_instruction
from sgool.models.hub import hub_access, not_cached
from sgool.models.preprocess import frozen
from sgool.models.resize import resize_with_pillow
from sgool.models.vlm_pixels import PatchedPixels

#: Image tokens of a square image: the published configuration has 256 * 28 * 28 pixels as both limits.
_TOKENS = 256
#: The longest and shortest side may differ by this factor, as in the public code.
_MOST_OBLONG = 200
#: Bytes of a prompt, so that the targets of all pairs have the same shape.
_WIDTH = 8192
#: Linear layers of the head, by their places in the published sequence.
_LAYERS = (0, 3, 5)
_PUBLISHED = "HPSv3.safetensors, published at https://huggingface.co/MizzenAI/HPSv3"


class HPSv3(nn.Module):
    """A frozen scorer of images for prompts: the mean mu of the preference's normal distribution.

    The model reads the image, the authors' instruction with the prompt, and a token ``<|Reward|>``. A head on the last
    hidden state at this token returns mu and the logarithm of sigma; the score is mu. As in the public code, which
    gives the model embeddings without their tokens, the positions of all tokens, also those of the image, are 0, 1, 2,
    ... on each of Qwen2-VL's three axes. Each image is a forward pass of its own, so that padding never changes a
    number.

    Args:
        network: A ``Qwen2VLModel`` of transformers.
        head: The head (D) -> (2,), evaluated in at least float32.
        processor: The ``Qwen2VLProcessor``, with a chat template and the token ``<|Reward|>``.
        instruction: The text beside the image, with ``{text_prompt}`` and ``<|Reward|>``.

    Raises:
        SgoolError: The image processor is none whose pixels can be computed here.
    """

    network: Any
    head: nn.Module

    def __init__(self, network: Any, head: nn.Module, processor: Any, instruction: str) -> None:
        super().__init__()
        self.network, self.head = frozen(network), frozen(head)
        self._tokenizer, self._image_token = processor.tokenizer, processor.image_token
        try:
            self._pixels = PatchedPixels.of(processor.image_processor)
        except (AttributeError, TypeError, ValueError) as error:
            raise SgoolError(f"HPSv3: expected the image processor of Qwen2-VL ({error})") from error
        self._factor = self._pixels.patch * self._pixels.merge
        #: Side in pixels of a square image as the network sees it.
        self.input_size = self._factor * math.isqrt(_TOKENS)
        content = [{"type": "image"}, {"type": "text", "text": instruction}]
        message = [{"role": "user", "content": content}]
        self._text = processor.apply_chat_template(message, tokenize=False, add_generation_prompt=True)

    def train(self, mode: bool = True) -> HPSv3:
        """Keeps the network in evaluation mode."""
        return super().train(False)

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Writes prompts in UTF-8 into the rows of a uint8 tensor (B, 8192).

        Raises:
            SgoolError: A prompt is longer.
        """
        rows = torch.zeros(len(prompts), _WIDTH, dtype=torch.uint8)
        for row, prompt in zip(rows, prompts, strict=True):
            text = prompt.encode()
            if len(text) > _WIDTH:
                raise SgoolError(f"HPSv3: expected a prompt of at most {_WIDTH:,} bytes, got {len(text):,}")
            row[: len(text)] = torch.tensor(list(text), dtype=torch.uint8)
        return rows.to(self._device)

    @torch.no_grad()
    def published_scores(self, images: Tensor, prompts: Tensor) -> Tensor:
        """Returns scores (N,) as the public code does: images are rounded to 8 bits, and Pillow resizes them.

        The arguments and errors are those of `forward`. The score of an image with NaN is NaN. A method
        ``as_published`` would not do: `forward` may choose another size for an image that is resized already.
        """
        size = self._size(images)
        levels = (images.to(torch.promote_types(images.dtype, torch.float32)).clamp(0, 1) * 255).round()
        resized = resize_with_pillow(levels.nan_to_num(), size, "bicubic").to(levels) / 255
        # Pillow has no NaN.
        resized = resized.masked_fill(levels.isnan().flatten(1).any(dim=1).view(-1, 1, 1, 1), torch.nan)
        pairs = zip(resized, prompts, strict=True)
        return torch.stack([self._score(image, prompt, size) for image, prompt in pairs])

    def forward(self, images: Tensor, prompts: Tensor) -> Tensor:
        """Returns scores (N,), in at least float32, of images (N, 3, h, w), differentiable with respect to them.

        Args:
            images: Images, nominally in [0, 1]; of another size than the network's they are resized in floating point.
            prompts: (N, 8192), made by `encode_prompts`.

        Raises:
            SgoolError: A side is more than 200 times the other, or a prompt has a token of the model's own.
        """
        size = self._size(images)
        pairs = zip(images, prompts, strict=True)
        return torch.stack([self._score(image, prompt, size) for image, prompt in pairs])

    def _score(self, image: Tensor, prompt: Tensor, size: tuple[int, int]) -> Tensor:
        patch = self._pixels.patch
        height, width = size
        grid = torch.tensor([[1, height // patch, width // patch]], device=self._device)
        tokens = self._tokens(bytes(prompt.tolist()).rstrip(b"\0").decode(), height * width // self._factor**2)
        pixels = self._pixels(image.to(self._device), grid)
        hidden = self.network(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            position_ids=torch.arange(tokens.shape[1], device=self._device).expand(3, 1, -1),
            pixel_values=pixels.to(self.network.dtype),
            image_grid_thw=grid,
            use_cache=False,
        ).last_hidden_state
        place = int((tokens[0] == self._token(REWARD_TOKEN)).nonzero())
        seen = hidden[0, place]
        # The public code computes the head in float32 too, whatever the network's type is.
        with torch.autocast(self._device.type, enabled=False):
            outputs: Tensor = self.head(seen.to(next(self.head.parameters()).dtype))
        return outputs[0]

    def _tokens(self, prompt: str, number: int) -> Tensor:
        """Returns the tokens (1, L) of the whole text, with ``number`` of them for the image."""
        text = self._text.replace(self._image_token, self._image_token * number, 1).replace(PROMPT, prompt, 1)
        tokens = torch.tensor([self._tokenizer(text)["input_ids"]], device=self._device)
        found = [int((tokens == self._token(name)).sum()) for name in (self._image_token, REWARD_TOKEN)]
        if found != [number, 1]:
            raise SgoolError(
                f"HPSv3: the prompt {prompt!r} has {self._image_token} or {REWARD_TOKEN} in it, which are tokens of "
                "the model's own"
            )
        return tokens

    def _token(self, name: str) -> int:
        return int(self._tokenizer.convert_tokens_to_ids(name))

    def _size(self, images: Tensor) -> tuple[int, int]:
        """Returns the height and width in which the network sees images: about 256 tokens, with the same proportions.

        As in the public code, the size is rounded to whole tokens; if it has too many pixels it is rounded down, and if
        it has too few it is rounded up.
        """
        height, width = images.shape[-2:]
        if max(height, width) > _MOST_OBLONG * min(height, width):
            raise SgoolError(
                f"HPSv3: expected an image of which no side is more than {_MOST_OBLONG} times the other, got "
                f"{width}x{height} pixels"
            )
        factor, wanted = self._factor, _TOKENS * self._factor**2
        rounded = tuple(max(factor, round(side / factor) * factor) for side in (height, width))
        pixels = rounded[0] * rounded[1]
        # The order of the divisions decides how sides that are whole tokens but for rounding come out.
        if pixels > wanted:
            scale = math.sqrt(height * width / wanted)
            return math.floor(height / scale / factor) * factor, math.floor(width / scale / factor) * factor
        if pixels < wanted:
            scale = math.sqrt(wanted / (height * width))
            return math.ceil(height * scale / factor) * factor, math.ceil(width * scale / factor) * factor
        return rounded[0], rounded[1]

    @property
    def _device(self) -> torch.device:
        return next(self.network.parameters()).device


def load_hps_v3(
    checkpoint: str,
    model: str = "Qwen/Qwen2-VL-7B-Instruct",
    instruction: str | None = None,
    dtype: str = "auto",
    *,
    device: str | torch.device = "cpu",
) -> HPSv3:
    """Loads HPSv3 from its published file, which has all weights; of the base model it takes configuration and words.

    Args:
        checkpoint: HPSv3.safetensors.
        model: Folder or hub id of the base model in transformers' layout; its weights are not read.
        instruction: The authors' file with the instruction; see `sgool.models.hps_v3_text.read_instruction`.
        dtype: A type of torch ("bfloat16"), or "auto": the one that the base model's configuration names.
        device: Device of the network.

    Raises:
        SgoolError: A file is missing or broken, weights are missing, or it is another kind of model.
    """
    text = read_instruction(instruction)
    config, processor = _base(model)
    state = read_state(checkpoint)
    head = _head(below(state, "rm_head."), checkpoint)
    added = processor.tokenizer
    added.add_tokens([REWARD_TOKEN], special_tokens=True)
    network = _network(config, _renamed(state), dtype, len(added), checkpoint, model)
    return HPSv3(network, head, processor, text).to(device)


def _base(model: str) -> tuple[Any, Any]:
    """Returns the configuration and the processor of a base model."""
    from transformers import AutoConfig, AutoProcessor

    local = Path(model).expanduser().is_dir()
    source = str(Path(model).expanduser()) if local else model
    wanted = "Expected Qwen2-VL in transformers' layout, such as Qwen/Qwen2-VL-7B-Instruct"
    try:
        with nullcontext() if local else hub_access() as unreachable:
            config = AutoConfig.from_pretrained(source, local_files_only=local)
            # Of the class: transformers 4.57 gives an instance the model_type of its text_config.
            if (kind := type(config).model_type) != "qwen2_vl":
                raise SgoolError(f"{model!r} is a model of type {kind}. {wanted}")
            processor: Any = AutoProcessor.from_pretrained(source, local_files_only=local)
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        if unreachable:
            what = f"The base model {model!r} of HPSv3"
            raise SgoolError(not_cached(what, unreachable, "give a folder in transformers' layout")) from error
        raise SgoolError(
            f"Cannot read the base model of HPSv3 from {model!r}: {' '.join(str(error).split())[:300]}. {wanted}"
        ) from error
    if not getattr(processor, "chat_template", None):
        raise SgoolError(f"{model!r} has no chat template. {wanted}")
    return config, processor


def _head(state: Mapping[str, Tensor], checkpoint: str) -> nn.Module:
    """Makes the head of its weights, in float32: three linear layers with ReLU between them."""
    names = [f"{layer}.weight" for layer in _LAYERS]
    if missing := [name for name in names if name not in state]:
        raise SgoolError(
            f"{checkpoint} lacks the reward head of HPSv3: expected tensors "
            f"{', '.join(f'rm_head.{name}' for name in missing)}. Expected {_PUBLISHED}"
        )
    first, second, last = (nn.Linear(state[name].shape[1], state[name].shape[0]) for name in names)
    # Dropout does nothing here; it keeps the published places.
    head = nn.Sequential(first, nn.ReLU(), nn.Dropout(0.05), second, nn.ReLU(), last)
    load_strictly(head, state, checkpoint)
    return head


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the weights of the network by the names of ``Qwen2VLModel``, from those of older or newer releases."""
    named = {}
    for name, value in state.items():
        if name.startswith(("rm_head.", "lm_head.")):
            continue
        short = name.removeprefix("model.")
        is_text = not short.startswith(("visual.", "language_model."))
        named[f"language_model.{short}" if is_text else short] = value
    return named


def _network(config: Any, state: dict[str, Tensor], dtype: str, words: int, checkpoint: str, model: str) -> nn.Module:
    """Builds the network without its output layer, with as many words as the checkpoint has."""
    from transformers import Qwen2VLModel

    table = state.get("language_model.embed_tokens.weight")
    if table is not None and len(table) != words:
        raise SgoolError(
            f"{checkpoint} has {len(table):,} words, but the tokenizer of {model!r} has {words:,} with {REWARD_TOKEN}: "
            f"give the base model that the checkpoint was trained from. Expected {_PUBLISHED}"
        )
    config.text_config.vocab_size = words
    kind = (config.dtype or torch.float32) if dtype == "auto" else getattr(torch, dtype)
    try:
        loaded: Any = Qwen2VLModel.from_pretrained(
            None, config=config, state_dict=state, dtype=kind, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise SgoolError(
            f"The weights in {checkpoint} do not fit the base model {model!r}: {' '.join(str(error).split())[:300]}"
        ) from error
    network, info = loaded
    refuse_missing(checkpoint, network, info["missing_keys"], f"Expected {_PUBLISHED}")
    if unexpected := sorted(info["unexpected_keys"]):
        raise SgoolError(
            f"{checkpoint} has weights that {model!r} does not have: {', '.join(unexpected[:6])}. Expected {_PUBLISHED}"
        )
    made: nn.Module = network
    return made
