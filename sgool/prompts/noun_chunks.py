"""The phrases of prompts by spaCy's noun chunks, with a pipeline that the user has installed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from sgool.errors import ConfigError
from sgool.prompts.phrases import is_negation, is_thing, whole

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc

#: Beginning of ``data.phrases`` that names a pipeline of spaCy.
SPACY = "spacy:"


def chunk_phrases(prompts: Sequence[str], pipeline: str) -> list[tuple[str, ...]]:
    """Returns each prompt's phrases: the noun chunks that spaCy finds, of things that are not denied.

    As by the rule (`sgool.prompts.phrases.split_phrases`), grounds, places, names of the picture and pronouns are left
    out, and a prompt without any chunk is one phrase as a whole.

    Args:
        prompts: The prompts.
        pipeline: A pipeline that ``spacy.load`` finds: the name of an installed package, such as "en_core_web_sm", or
            a folder.

    Raises:
        ConfigError: spaCy or the pipeline is missing, or the pipeline finds no noun chunks because it has no parser.
    """
    nlp = _load(pipeline)
    return [tuple(_phrases(doc, pipeline)) or whole(doc.text) for doc in nlp.pipe(prompts)]


def _load(pipeline: str) -> Language:
    key = f"`data.phrases`: {SPACY}{pipeline}"
    try:
        import spacy
    except ImportError as error:
        raise ConfigError([f"{key} needs spaCy: pip install 'sgool[phrases]'; data.phrases=rule needs none"]) from error
    try:
        return spacy.load(pipeline)
    except (OSError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            [
                f"{key} cannot be loaded ({reason}); expected an installed pipeline of spaCy or the folder of one. "
                f"`python -m spacy download {pipeline}` installs those of spaCy's list"
            ]
        ) from error


def _phrases(doc: Doc, pipeline: str) -> Iterator[str]:
    try:
        chunks = list(doc.noun_chunks)
    except (ValueError, NotImplementedError) as error:
        raise ConfigError(
            [
                f"`data.phrases`: {SPACY}{pipeline} finds no noun chunks: expected a pipeline with a parser, for a "
                "language whose noun chunks spaCy knows"
            ]
        ) from error
    for chunk in chunks:
        words = [token.text for token in chunk]
        denied = any(map(is_negation, words)) or is_negation(chunk.root.head.text)
        if not denied and chunk.root.pos_ != "PRON" and is_thing(words):
            yield chunk.text
