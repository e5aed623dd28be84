"""The phrases of a prompt: the things that it names, each with its own words, such as "a red cat" and "two trees".

They come from the prompt file, from spaCy's noun chunks (`sgool.prompts.noun_chunks`), or from the rule of this file,
which knows English words and no grammar. docs/prompts.md has the rule for users.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from sgool.types import PromptSeed


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: Relations of several words, such as "to the left of" and "in front of".
_RELATION = re.compile(
    r"\b(?:(?:in|on|at|to|from)\s+)?(?:the\s+)?(?:far\s+)?"
    r"(?:left|right|top|bottom|front|back|middle|cent(?:er|re)|inside|outside|side|edge|corner)"
    r"(?:[\s-]+hand)?(?:\s+(?:side|half|edge|corner))?\s+of\b|\bnext\s+to\b|\b(?:close|far|away)\s+(?:to|from)\b",
    re.IGNORECASE,
)
#: Punctuation that ends a phrase; not that of numbers, titles and initials.
_STOP = re.compile(
    r"[;:!?()\[\]\"“”|，、。；：！？]|,(?!\d)|(?<!\b[A-Z])(?<!\b[DMS][rst])(?<!\bMrs)\.(?=\s+[A-Z]|\s*$)"
)
#: "A close up of", whose "up" is no preposition.
_CLOSE_UP = re.compile(r"\bclose\s+up\b", re.IGNORECASE)
#: A number with a point, such as the weight in "(a red cat:1.3)", which names nothing.
_DECIMAL = re.compile(r"\d+\.\d+")
_PREPOSITIONS = _words(
    "in on at by under underneath below beneath over above behind beside besides between among near inside outside "
    "within into onto upon against across through along around toward towards from to with before after during "
    "for as opposite past off up down beyond"
)
_CONJUNCTIONS = _words("and or but plus while that which who whose where when whereas")
_VERBS = _words("is are was were be being has have had do does did")
_NEGATIONS = _words("no not without never neither nor")
_ARTICLES = _words("a an the this these those some another each every its his her their")
_NUMBERS = _words("one two three four five six seven eight nine ten eleven twelve several many few both")
_COLOURS = _words(
    "red orange yellow green blue purple pink brown black white gray grey cyan magenta violet turquoise beige golden "
    "silver"
)
#: What a prompt calls the picture itself, as in "a drawing of".
_MEDIA = _words(
    "picture pictures image images photo photos photograph photographs drawing drawings painting paintings "
    "illustration illustrations sketch sketches rendering renderings render renders close-up closeup shot view"
)
#: Grounds and places: no things that a salient region shows.
_GROUNDS = _words(
    "background backgrounds backdrop backdrops foreground left right top bottom front back middle center centre side "
    "corner edge"
)
#: Words of "there is" and the like; the verb is a cut.
_OPENINGS = _words("there here it there's here's it's")


def phrases_of(pair: PromptSeed) -> tuple[str, ...]:
    """Returns a pair's phrases, at least one: its own, or those that the rule finds in its prompt."""
    return pair.phrases or split_phrases(pair.prompt)


def split_phrases(prompt: str) -> tuple[str, ...]:
    """Returns the phrases of a prompt by a small rule for English.

    The text is cut at punctuation, prepositions (but "of"), conjunctions, relations of several words ("to the left of")
    and forms of "to be", "to have" and "to do", and before an article or number that comes after other words ("a man
    riding | a horse"; the verb is left out). Each piece keeps its article, adjectives, noun and number. Left out are
    "there is" and the like, what the picture is called ("a drawing of"), grounds and places ("a black background",
    "the left"), and what is denied ("no hat", "without a hat"). Colours that "and" joins stay together ("a black and
    white cat").

    Returns:
        The phrases in the prompt's order, which may repeat each other; the whole prompt if nothing is left.
    """
    found = tuple(phrase for piece in _pieces(prompt) if (phrase := _phrase(piece)))
    return found or whole(prompt)


def whole(prompt: str) -> tuple[str, ...]:
    """Returns the phrases of a prompt that names no thing: the whole prompt, which may be empty."""
    return (" ".join(prompt.split()),)


def is_thing(words: Sequence[str]) -> bool:
    """Whether words name something to look for in a part of a picture: no ground, place or name of the picture."""
    named = [word.lower() for word in words if not _begins(word.lower()) and word != "of"]
    if len(named) == 1 and _DECIMAL.fullmatch(named[0]):
        return False
    return bool(named) and named[-1] not in _GROUNDS and named[-1] not in _MEDIA


def is_negation(word: str) -> bool:
    """Whether a word says that what comes next is not in the picture."""
    return word.lower() in _NEGATIONS or word.lower().endswith(("n't", "n’t"))


def _pieces(prompt: str) -> Iterator[list[str]]:
    """Yields the words between the cuts, without what is denied."""
    words = _STOP.sub(" , ", _RELATION.sub(" , ", _CLOSE_UP.sub("close-up", prompt))).split()
    piece: list[str] = []
    denied = False
    for position, word in enumerate(words):
        low = word.lower()
        if is_negation(word):
            yield [] if denied else piece
            piece, denied = [], True
        elif not _cuts(low, piece) or (low in ("and", "or", ",") and _is_open(piece, words[position + 1 :])):
            piece.append(word)
        else:
            yield [] if denied else _without_verb(piece, low)
            # "No cats or dogs" denies both; so do "not in a box" and "does not wear a hat".
            denied = denied and (low == "or" or not piece or _begins(low))
            piece = [word] if _begins(low) else []
    yield [] if denied else piece


def _cuts(word: str, piece: Sequence[str]) -> bool:
    """Whether a word, in lower case, ends the piece before it."""
    if _begins(word):
        return any(not _begins(other.lower()) for other in piece) and piece[-1].lower() != "of"
    return word in _PREPOSITIONS or word in _CONJUNCTIONS or word in _VERBS or not any(map(str.isalnum, word))


def _begins(word: str) -> bool:
    """Whether a word begins a phrase: an article or a number."""
    return word in _ARTICLES or word in _NUMBERS or word.isnumeric()


def _is_open(piece: Sequence[str], rest: Sequence[str]) -> bool:
    """Whether a piece has colours alone and something follows, as "a black" before "and white cat"."""
    words = [word.lower() for word in piece if not _begins(word.lower()) and word not in ("and", "or", ",")]
    return bool(words) and all(word in _COLOURS for word in words) and bool(rest) and not _cuts(rest[0].lower(), piece)


def _without_verb(piece: list[str], cut: str) -> list[str]:
    """Returns a piece without the verb before its object: "a man riding" before "a horse"."""
    words = [word for word in piece if not _begins(word.lower())]
    return piece[:-1] if _begins(cut) and len(words) > 1 and piece[-1].lower().endswith("ing") else piece


def _phrase(piece: Sequence[str]) -> str:
    """Returns a piece as a phrase; empty if it names no thing."""
    words = list(piece)
    while words and words[0].lower() in _OPENINGS:
        words = words[1:]
    for position in range(len(words) - 1):
        if words[position].lower() in _MEDIA and words[position + 1].lower() == "of":
            words = words[position + 2 :]
            break
    return " ".join(words).replace(" ,", ",") if is_thing(words) else ""
