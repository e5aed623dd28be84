"""Vision-language models of transformers: the probability of an answer to a question about an image.

Any chat model of transformers' ``AutoModelForImageTextToText`` (Qwen2.5-VL, Qwen3-VL, ...) can answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn

from sgool.config.weights import folder_files
from sgool.errors import SgoolError
from sgool.models.checkpoints import refuse_broken
from sgool.models.complete import refuse_missing
from sgool.models.hub import hub_access, not_cached
from sgool.models.preprocess import frozen
from sgool.models.vlm_pixels import PatchedPixels

#: Largest difference, in levels of 255, between the differentiable pixels and those of the processor. It rounds to 8
#: bits after the horizontal and after the vertical pass: half a level, times up to 1.25 by bicubic weights, and half a
#: level.
_MOST_LEVELS = 1.25


class VisionLanguageModel(nn.Module):
    """A frozen chat model that sees one image and is asked one question.

    The probability of an answer is that of its first token as the first token of the reply. Several spellings of an
    answer add up; spellings with the same first token count once. As in the public code, which reads the scores of
    ``generate``, the repetition penalty of the model's ``generation_config.json`` is applied before the softmax
    (Qwen2.5-VL has 1.05, Qwen3-VL none).

    Each image and question is a forward pass of its own, so that padding never changes a number.

    Args:
        network: A network of ``AutoModelForImageTextToText``.
        processor: Its ``AutoProcessor``, with a chat template.
    """

    def __init__(self, network: Any, processor: Any) -> None:
        super().__init__()
        self.network = frozen(network)
        self._processor = processor
        penalty = getattr(getattr(network, "generation_config", None), "repetition_penalty", None)
        self.repetition_penalty = float(penalty or 1.0)

    def train(self, mode: bool = True) -> VisionLanguageModel:
        """Keeps the network in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def probability(self, image: Tensor, question: str, answers: Sequence[str]) -> float:
        """Returns the probability in [0, 1] of an answer to a question about an image, as the published code does.

        Args:
            image: (3, H, W) in [0, 1]; it is rounded to 8 bits, and the processor resizes it.
            question: The whole text beside the image.
            answers: Spellings of the answer.

        Raises:
            SgoolError: The processor refuses the image.
        """
        return float(self._log_probability(self._inputs(image, question), answers).exp())

    def log_probability(self, image: Tensor, question: str, answers: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Returns log P and log (1 - P) of an answer, two scalars, differentiable with respect to the image.

        The arguments are those of `probability`, but the image is not rounded: it is resized in floating point, to the
        size that the processor chooses.
        """
        inputs = self._inputs(image.detach(), question)
        inputs["pixel_values"] = self._pixels()(image.to(inputs["input_ids"].device), inputs["image_grid_thw"])
        wanted = self._log_probability(inputs, answers)
        # 1 - P in at least float32; not below the smallest step, so that its logarithm is finite.
        rest = -torch.expm1(wanted.clamp_max(-torch.finfo(wanted.dtype).eps))
        return wanted, rest.log()

    def check_differentiable(self) -> None:
        """Compares the differentiable pixels with those of the processor.

        Raises:
            SgoolError: They differ by more than the rounding to 8 bits, so that no gradient reaches the image.
        """
        rows, columns = torch.meshgrid(torch.arange(61.0), torch.arange(85.0), indexing="ij")
        waves = [(rows * a + columns * b).sin() for a, b in ((0.11, 0.07), (-0.05, 0.13), (0.2, -0.09))]
        image = ((torch.stack(waves) * 0.4 + 0.5) * 255).round() / 255
        try:
            inputs = self._inputs(image, "?")
            pixels = self._pixels()
            found = pixels(image.to(inputs["pixel_values"].device), inputs["image_grid_thw"])
            far = pixels.levels(found - inputs["pixel_values"].to(found))
        except (KeyError, AttributeError, TypeError, ValueError, RuntimeError) as error:
            raise SgoolError(f"{self._not_differentiable()} ({' '.join(str(error).split())[:200]})") from error
        if not far <= _MOST_LEVELS:
            raise SgoolError(f"{self._not_differentiable()} (they differ by {far:.1f} of 255 levels)")

    def _not_differentiable(self) -> str:
        kind = type(getattr(self._processor, "image_processor", self._processor)).__name__
        return (
            f"expected an image processor like that of Qwen-VL, whose pixels sgool can compute with a gradient, got "
            f"{kind}; the model can be a judge, but not a term of an objective"
        )

    def _pixels(self) -> PatchedPixels:
        return PatchedPixels.of(self._processor.image_processor)

    def _inputs(self, image: Tensor, question: str) -> dict[str, Any]:
        levels = (image.clamp(0, 1) * 255).round().to("cpu", torch.uint8)
        picture = Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())
        content = [{"type": "image", "image": picture}, {"type": "text", "text": question}]
        try:
            inputs = self._processor.apply_chat_template(
                [{"role": "user", "content": content}],
                tokenize=True,
                add_generation_prompt=True,
                return_dict=True,
                return_tensors="pt",
            )
        except ValueError as error:
            raise SgoolError(
                f"the vision-language model's processor refuses an image of {picture.width}x{picture.height} pixels: "
                f"{' '.join(str(error).split())[:300]}"
            ) from error
        device = next(self.network.parameters()).device
        return {name: value.to(device) for name, value in inputs.items() if isinstance(value, Tensor)}

    def _log_probability(self, inputs: Mapping[str, Any], answers: Sequence[str]) -> Tensor:
        """Returns the logarithm, in at least float32, of the sum over the answers' first tokens."""
        inputs = {name: value for name, value in inputs.items() if name != "labels"}
        pixels = inputs["pixel_values"]
        inputs["pixel_values"] = pixels.to(self.network.dtype) if pixels.is_floating_point() else pixels
        logits = self.network(**inputs, use_cache=False, logits_to_keep=1).logits[0, -1]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.repetition_penalty != 1.0:
            said = inputs["input_ids"][0].unique()
            old = logits[said]
            penalty = self.repetition_penalty
            logits = logits.index_copy(0, said, torch.where(old < 0, old * penalty, old / penalty))
        tokens = torch.tensor(self.answer_tokens(answers), device=logits.device)
        return logits.log_softmax(dim=-1)[tokens].logsumexp(dim=0)

    def answer_tokens(self, answers: Sequence[str]) -> list[int]:
        """Returns the first token of each spelling, each token once.

        Raises:
            SgoolError: The tokenizer makes no token of a spelling.
        """
        tokenizer = getattr(self._processor, "tokenizer", self._processor)
        tokens = [tokenizer.encode(answer, add_special_tokens=False)[:1] for answer in answers]
        if not tokens or not all(tokens):
            raise SgoolError(f"expected answers of which the model's tokenizer makes a token, got {list(answers)!r}")
        return list(dict.fromkeys(token for (token,) in tokens))


def load_vision_language(model: str, dtype: str = "auto", *, device: str | torch.device = "cpu") -> VisionLanguageModel:
    """Loads a vision-language model and its processor in transformers' layout.

    Args:
        model: Folder (``config.json``, weights, processor, tokenizer with a chat template) or hub id, such as
            Qwen/Qwen2.5-VL-7B-Instruct or Qwen/Qwen3-VL-8B-Instruct.
        dtype: A type of torch ("bfloat16"), or "auto": the one that the folder's configuration names.
        device: Device of the network.

    Raises:
        SgoolError: The files are not found or broken, weights are missing, or it is another kind of model.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    local = Path(model).expanduser().is_dir()
    source = str(Path(model).expanduser()) if local else model
    if local:
        refuse_broken(folder_files(Path(source)))
    kind = dtype if dtype == "auto" else getattr(torch, dtype)
    try:
        with nullcontext() if local else hub_access() as unreachable:
            loaded: Any = AutoModelForImageTextToText.from_pretrained(
                source, dtype=kind, output_loading_info=True, local_files_only=local
            )
            processor = AutoProcessor.from_pretrained(source, local_files_only=local)
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
        if unreachable:
            what = f"The vision-language model {model!r}"
            raise SgoolError(not_cached(what, unreachable, "give a folder in transformers' layout")) from error
        raise SgoolError(
            f"Cannot load a vision-language model from {model!r}: {' '.join(str(error).split())[:300]}. Expected a "
            "chat model with images in transformers' layout (config.json, model.safetensors, preprocessor_config.json, "
            "tokenizer), such as Qwen2.5-VL or Qwen3-VL, or a hub id that can be reached."
        ) from error
    network, info = loaded
    refuse_missing(model, network, info["missing_keys"], "Fetch its files again.")
    if not getattr(processor, "chat_template", None):
        raise SgoolError(
            f"{model!r} has no chat template, so no question can be asked: expected an instruction-tuned model, with "
            "chat_template.jinja or a `chat_template` in its files"
        )
    return VisionLanguageModel(network, processor).to(device)
