"""The phrases of a prompt: the things that it names, each with its own words, such as "a red cat" and "two trees".

They come from the prompt file, from spaCy's noun chunks (`sgool.prompts.noun_chunks`), or from the rule of this file,
which knows English words and no grammar. docs/prompts.md has the rule for users.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Sequence

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
_TO_BE = _words("is are was were")
_VERBS = _TO_BE | _words("be been being has have had do does did says reads")
_NEGATIONS = _words("no not without never neither nor cannot")
#: Words that name nothing by themselves, with "other" as in "each other".
_PRONOUNS = _words(
    "i you he she we they me him them myself yourself himself herself itself ourselves themselves other others"
)
#: Words in -ing that a phrase may be made of; others are verbs if they stand alone ("and holding a fish").
_NOUNS_IN_ING = _words(
    "awning bedding building buildings carving ceiling clothing coating covering crossing darling drawing dressing "
    "duckling dumpling earring engraving etching evening filling fledgling flooring frosting gosling herring icing "
    "king lettering lighting lightning morning offspring painting pudding railing ring sapling scaffolding seedling "
    "sibling siding spring starling stocking string stuffing swing thing topping viking wedding wing"
)
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
    if all(word in _PRONOUNS for word in named):
        return False
    return named[-1] not in _GROUNDS and named[-1] not in _MEDIA


def is_negation(word: str) -> bool:
    """Whether a word says that what comes next is not in the picture."""
    return word.lower() in _NEGATIONS or word.lower().endswith(("n't", "n’t"))


def _pieces(prompt: str) -> Iterator[list[str]]:
    """Yields the words between the cuts, without what is denied."""
    words = _STOP.sub(" , ", _RELATION.sub(" , ", _CLOSE_UP.sub("close-up", prompt))).split()
    names = {word for word in words[1:] if word[:1].isupper()}
    piece: list[str] = []
    denied = False
    for position, word in enumerate(words):
        low, rest = word.lower(), words[position + 1 :]
        if is_negation(word):
            yield [] if denied else _without_verb(piece, low, names)
            piece, denied = [], True
        elif not piece and _acts(low, words[:position]):
            continue
        elif _goes_on(low, piece, rest):
            piece.append(word)
        else:
            named = _without_verb(piece, low, names)
            yield [] if denied else named
            # "No cats or dogs" denies both, "not in a box" and "does not wear a hat" the box and the hat; "no tail
            # holding a fish" denies no fish.
            ends_here = _begins(low) and named and len(named) < len(piece)
            denied = denied and not ends_here and (not piece or _begins(low) or _lists(low, rest))
            piece = [word] if _begins(low) else []
    yield [] if denied else _without_verb(piece, "", names)


def _goes_on(word: str, piece: Sequence[str], rest: Sequence[str]) -> bool:
    """Whether a word, in lower case, belongs to the piece before it."""
    if word in ("and", "or", ",") and _is_open(piece, rest):
        return True
    return not _cuts(word, piece) or _describes(word, piece, rest)


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
    said = max((place for place, word in enumerate(words) if word in _TO_BE), default=-1)
    if not rest or not words[said + 1 :] or not all(word in _COLOURS for word in words[said + 1 :]):
        return False
    if said < 0:
        return not _cuts(rest[0].lower(), piece)
    # After "the sky is blue and" only colours go on with what is said; "white clouds" are another thing.
    after = next((word.lower() for word in rest if word.lower() not in _COLOURS | {"and", "or", ","}), ",")
    return rest[0].lower() in _COLOURS and _cuts(after, piece)


def _describes(word: str, piece: Sequence[str], rest: Sequence[str]) -> bool:
    """Whether a word begins what is said of the piece: "is" of "the cat is red", "that" of "a cat that is red"."""
    if word in ("that", "which", "who") and rest and rest[0].lower() in _TO_BE:
        return _describes(rest[0].lower(), piece, rest[1:])
    if word not in _TO_BE or not rest or not is_thing([other for other in piece if other.lower() not in _OPENINGS]):
        return False
    said = rest[0].lower()
    return not (_begins(said) or said.endswith("ing") or is_negation(said) or _cuts(said, ()))


def _lists(word: str, rest: Sequence[str]) -> bool:
    """Whether a denied list goes on after a word: at "or", and at the commas before it ("no cats, dogs or birds")."""
    if word != ",":
        return word in ("or", "nor")
    lower = [other.lower() for other in rest]
    for position, other in enumerate(lower):
        between_colours = set(lower[max(0, position - 1) : position + 2 : 2]) <= _COLOURS  # "red or blue eyes"
        if other in ("or", "nor") and not between_colours:
            return True
        if other not in (",", "or") and (_cuts(other, ["no"]) or is_negation(other)):
            return False
    return False


def _acts(word: str, before: Sequence[str]) -> bool:
    """Whether a word says what the thing before a form of "to be" does: "wearing" of "he is wearing boots"."""
    if not word.endswith("ing") or word in _NOUNS_IN_ING or len(before) < 2:
        return False
    # "There are running horses" has no such thing.
    return before[-1].lower() in _TO_BE | {"been", "being"} and before[-2].lower() not in _OPENINGS


def _without_verb(piece: list[str], cut: str, names: Container[str]) -> list[str]:
    """Returns a piece without its verb: "a man riding" before "a horse", or "riding" alone, which is no name."""
    if not piece or not piece[-1].lower().endswith("ing"):
        return piece
    words = [word for word in piece if not _begins(word.lower())]
    alone = len(piece) == 1 and piece[0].lower() not in _NOUNS_IN_ING and piece[0] not in names
    return piece[:-1] if alone or (_begins(cut) and len(words) > 1) else piece


def _phrase(piece: Sequence[str]) -> str:
    """Returns a piece as a phrase; empty if it names no thing."""
    words = list(piece)
    while words and words[0].lower().replace("’", "'") in _OPENINGS:
        words = words[1:]
    for position in range(len(words) - 1):
        if words[position].lower() in _MEDIA and words[position + 1].lower() == "of":
            words = words[position + 2 :]
            break
    return " ".join(words).replace(" ,", ",") if is_thing(words) else ""
