"""``sgool study``: makes the page for raters, and the key, which raters do not get."""

from __future__ import annotations

import json
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from importlib import resources
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from sgool.errors import SgoolError
from sgool.report.load import load_runs
from sgool.results.atomic import atomic_write, explain_os_errors
from sgool.study.checks import Check, make_checks
from sgool.study.collect import Material, collect, keep_pairs
from sgool.study.images import save_for_page
from sgool.study.key import COMPARISON, Item, StudyKey, read_key
from sgool.study.plan import FORMS, Facts, choose, make_forms
from sgool.study.votes import RATER, RATER_RULE

_OWN_FILES = ("app.js", "style.css", "icon.svg")


@dataclass(frozen=True)
class StudyOptions:
    """The options of a study: what it shows, to whom, and where it is written.

    Attributes:
        methods: The labels of the methods to compare; empty: all.
        pairs: How many prompt-seed pairs are drawn; None: all are used.
        per_rater: The most comparisons that one rater sees.
        attention: How many attention checks one rater sees.
        seed: The seed that decides on pairs, orders and sides.
        rater: The id of the only rater whom the page is for; None: it is for all, who type their ids.
        consent: A text file that replaces the consent text; paragraphs are separated by empty lines.
        out: The study's folder; None: ``study/`` in the first run.
    """

    methods: tuple[str, ...] = ()
    pairs: int | None = None
    per_rater: int = 50
    attention: int = 3
    seed: int = 0
    rater: str | None = None
    consent: Path | None = None
    out: Path | None = None


@dataclass(frozen=True)
class Study:
    """A study on disk.

    Attributes:
        folder: The study's folder, with ``key.json``, the page's folder, and ``votes.csv`` once there are votes.
        page: The page's folder, which is all that raters get.
        key: The key, which tells what the names in the page mean.
        rater: The id of the rater whom the page is for; None: it is for anyone.
        per_rater: How many comparisons a form has, without checks.
    """

    folder: Path
    page: Path
    key: StudyKey
    rater: str | None
    per_rater: int


def build_study(runs: Sequence[str | Path], options: StudyOptions | None = None) -> Study:
    """Make, or make again, the page of a study.

    The same runs, options and folder give the same study: votes already collected stay valid.

    Raises:
        SgoolError: There is nothing to compare, an option is wrong, or the folder cannot be written or holds votes of
            another study.
    """
    options = options or StudyOptions()
    consent = _check(options)
    loaded = load_runs(runs, "sgool study")
    material = collect(loaded, options.methods)
    pair_ids = list(dict.fromkeys(one.first.pair_id for one in material.comparisons))
    material = keep_pairs(material, choose(pair_ids, options.pairs, options.seed))
    checks = make_checks(list(material.entries.values()), options.attention, options.seed)
    folder = options.out or loaded[0].folder.path / "study"
    page = folder / ("page" if options.rater is None else f"page-{options.rater}")
    with explain_os_errors(f"write the study to {folder}", "Use an --out where you may write."):
        folder.mkdir(parents=True, exist_ok=True)
        old = read_key(folder / "key.json") if (folder / "key.json").exists() else None
        names = _Names(old.salt if old else secrets.token_hex(16))
        key = _key(names, material, checks, options)
        if old is not None and old.study != key.study and (folder / "votes.csv").exists():
            raise SgoolError(
                f"{folder} holds votes of another study ({old.study}): other runs, methods, pairs, checks or seed. "
                "Use another --out, or move votes.csv and key.json away together."
            )
        per_rater, data = _data(names, key, material, checks, options)
        with _renewed(page) as new:
            _save_images(new / "images", names, material, checks)
            atomic_write(new / "data.js", f"window.STUDY = {_script(data)};\n".encode())
            _write_own_files(new, consent)
            atomic_write(folder / "key.json", key.text().encode())
    return Study(folder, page, key, options.rater, per_rater)


class _Names:
    """Makes the names in the page, which nobody can compute without the salt."""

    def __init__(self, salt: str) -> None:
        self.salt = salt

    def of(self, *parts: object) -> str:
        return sha256("\0".join([self.salt, *map(str, parts)]).encode()).hexdigest()[:12]

    def comparison(self, pair_id: str, methods: tuple[str, str]) -> str:
        return self.of("comparison", pair_id, *methods)

    def image(self, pair_id: str, method: str) -> str:
        return self.of("image", pair_id, method)

    def check(self, number: int, part: str = "") -> str:
        return self.of("check", number, part)


def _check(options: StudyOptions) -> str | None:
    problems = []
    if options.pairs is not None and options.pairs < 1:
        problems.append(f"--pairs: expected at least 1, got {options.pairs}.")
    if options.per_rater < 1:
        problems.append(f"--per-rater: expected at least 1, got {options.per_rater}.")
    if options.attention < 0:
        problems.append(f"--attention: expected 0 or more, got {options.attention}.")
    if options.rater is not None and not re.fullmatch(RATER, options.rater):
        problems.append(f"--rater: expected {RATER_RULE}, got {options.rater!r}.")
    consent = None
    if options.consent is not None:
        try:
            consent = options.consent.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            problems.append(f"--consent: cannot read {options.consent} as UTF-8 text: {error}.")
        if consent == "":
            problems.append(f"--consent: {options.consent} is empty. Leave the option out for the built-in text.")
    if problems:
        raise SgoolError("\n".join(problems))
    return consent


def _key(names: _Names, material: Material, checks: Sequence[Check], options: StudyOptions) -> StudyKey:
    items: dict[str, Item] = {}
    for one in material.comparisons:
        pair_id = one.first.pair_id
        images = {names.image(pair_id, method): method for method in one.methods}
        items[names.comparison(pair_id, one.methods)] = Item(COMPARISON, pair_id, one.first.prompt, images)
    for number, check in enumerate(checks):
        right, wrong = ("same", "same") if check.first is check.second else ("right", "wrong")
        images = {names.check(number, "first"): right, names.check(number, "second"): wrong}
        items[names.check(number)] = Item(check.kind, check.first.pair_id, check.prompt, images)
    study = names.of("study", options.seed, *sorted(items), *material.methods)
    identical = [list(one) for one in material.identical]
    return StudyKey(study, names.salt, options.seed, material.methods, items, identical, material.left_out)


def _data(
    names: _Names, key: StudyKey, material: Material, checks: Sequence[Check], options: StudyOptions
) -> tuple[int, dict[str, object]]:
    """Return the number of comparisons in a form, and the page's data, whose order does not tell whose an image is."""
    facts = [Facts(one.methods, one.first.pair_id) for one in material.comparisons]
    raters = [options.rater] if options.rater else [f"form {number}" for number in range(FORMS)]
    forms = make_forms(facts, len(checks), options.per_rater, options.seed, raters)
    sides = [
        (names.comparison(one.first.pair_id, one.methods), *(names.image(one.first.pair_id, m) for m in one.methods))
        for one in material.comparisons
    ]
    sides += [(names.check(n), names.check(n, "first"), names.check(n, "second")) for n in range(len(checks))]
    order = sorted(key.items)
    shown = [{"id": name, "prompt": key.items[name].prompt, "images": sorted(key.items[name].images)} for name in order]
    steps = []
    for form in forms:
        lefts = [(sides[step.item][0], sides[step.item][2 if step.swapped else 1]) for step in form]
        steps.append([[order.index(name), sorted(key.items[name].images).index(left)] for name, left in lefts])
    return len(forms[0]) - len(checks), {"study": key.study, "rater": options.rater, "items": shown, "forms": steps}


def _save_images(folder: Path, names: _Names, material: Material, checks: Sequence[Check]) -> None:
    compared = {entry for one in material.comparisons for entry in (one.first, one.second)}
    files = {names.image(entry.pair_id, entry.method): entry.image for entry in compared}
    for number, check in enumerate(checks):
        files |= {names.check(number, "first"): check.first.image, names.check(number, "second"): check.second.image}
    for name in sorted(files):  # the order of writing must not tell whose an image is either
        save_for_page(files[name], folder / f"{name}.jpg")


def _write_own_files(page: Path, consent: str | None) -> None:
    environment = Environment(
        loader=PackageLoader("sgool.study"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    paragraphs = re.split(r"\n\s*\n", consent) if consent else []
    html = environment.get_template("index.html.j2").render(consent=paragraphs)
    atomic_write(page / "index.html", html.encode())
    for name in _OWN_FILES:
        atomic_write(page / name, (resources.files("sgool.study") / "templates" / name).read_bytes())


def _script(data: dict[str, object]) -> str:
    """Return JSON that is safe as a script in any encoding, whatever a prompt contains."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


@contextmanager
def _renewed(page: Path) -> Iterator[Path]:
    """Yield a folder to fill, which then replaces the page; an interrupted build leaves the old page as it was."""
    if page.exists() and not (page / "data.js").exists():
        raise SgoolError(f"{page} is in the way: it holds something that is no study page. Use another --out.")
    new = page.with_name(f".{page.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    (new / "images").mkdir(parents=True)
    yield new
    if page.exists():
        shutil.rmtree(page)
    new.rename(page)
