"""The two tokenizers: byte-pair encoding in CLIP's layout (pipeline, guide) and WordPiece (judge)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import CLIPTokenizer, PreTrainedTokenizerFast

from experiments.emoji_world.captions import caption
from experiments.emoji_world.scenes import random_scene

CONTEXT_LENGTH = 32


def corpus(number: int = 40_000, seed: int = 0) -> Iterator[str]:
    """Captions of random scenes."""
    rng = np.random.default_rng(seed)
    for _ in range(number):
        yield caption(random_scene(rng), rng).text


def new_clip_tokenizer(folder: Path, texts: Iterable[str] | None = None) -> CLIPTokenizer:
    """Learns a byte-pair encoding of ``texts`` (this world's captions) and returns a CLIPTokenizer of 32 tokens."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=1000, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(corpus() if texts is None else texts, trainer)
    merges = [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]
    letters = alphabet + [letter + "</w>" for letter in alphabet]
    tokens = letters + ["".join(pair) for pair in merges] + ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(dict.fromkeys(tokens))}))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    result = CLIPTokenizer.from_pretrained(str(folder), model_max_length=CONTEXT_LENGTH)
    result.save_pretrained(folder)
    return result


def write_vocabulary(folder: Path) -> None:
    """Writes ``vocab.json`` and ``merges.txt`` beside a byte-pair encoding's ``tokenizer.json``.

    transformers before 5 reads these two where a pipeline names a ``CLIPTokenizer``; 5 and later save and read only
    ``tokenizer.json``.
    """
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def new_wordpiece_tokenizer(folder: Path, texts: Iterable[str] | None = None) -> PreTrainedTokenizerFast:
    """Learns a WordPiece vocabulary of ``texts`` (this world's captions) with [CLS] first, in BERT's layout."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(corpus() if texts is None else texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    result = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=CONTEXT_LENGTH,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )
    result.save_pretrained(folder)
    return result
