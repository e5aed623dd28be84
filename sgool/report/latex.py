"""Writes the report's tables for LaTeX (``tables.tex``), whatever characters names and categories have."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from sgool.report.canvas import shorten
from sgool.report.tables import Table

_HEAD = r"""% Made by sgool report, for \input in the body of an article. Needs in the preamble:
%   \usepackage{booktabs,graphicx}
% Characters beyond the Latin alphabet appear with LuaLaTeX and XeLaTeX (and a font that has them); pdfLaTeX prints
% their numbers, as [U+732B].
\providecommand{\sgoolchar}[2]{%
  \ifcsname directlua\endcsname#2\else\ifcsname XeTeXrevision\endcsname#2\else[U+#1]\fi\fi}"""
# The command is not robust, so that LaTeX expands it in the list of tables, which comes before its definition.

_KNOWN = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\char34{}", "`": r"\textasciigrave{}", "[": "{[}", "*": "{*}",
    "\N{MINUS SIGN}": "$-$", "\N{EN DASH}": "--", "\N{EM DASH}": "---", "\N{HORIZONTAL ELLIPSIS}": r"\ldots{}",
    "\N{LEFT SINGLE QUOTATION MARK}": "`", "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "\N{LEFT DOUBLE QUOTATION MARK}": "``", "\N{RIGHT DOUBLE QUOTATION MARK}": "''",
    "\N{NARROW NO-BREAK SPACE}": r"\,", "\N{NO-BREAK SPACE}": "~", "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{PLUS-MINUS SIGN}": r"$\pm$", "\N{DEGREE SIGN}": r"$^\circ$", "\n": " ", "\t": " ", "\r": " ",
}  # fmt: skip
_LONGEST = 60  # letters of a row's name: a whole prompt there would shrink its table beyond reading
_MOST_WAITING = 20  # tables: LaTeX holds about fifty, and a hundred without a page break stop it
_LIGATURES = frozenset("-',")
_LETTERS = frozenset("ßæœøåÆŒØÅłŁı")
# Grave, acute, circumflex, tilde, macron, breve, dot, diaeresis, ring, double acute, caron, cedilla: those that the
# fonts of every LaTeX can put on a letter.
_ACCENTS = frozenset("\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0327")


def to_latex(tables: Sequence[Table]) -> str:
    """Return a LaTeX ``table`` for each table; the comment at the head of the text says what a document has to load."""
    lines = [_HEAD]
    for at, table in enumerate(tables):
        if at and at % _MOST_WAITING == 0:
            lines += ["", r"\clearpage"]
        title, note = escape_latex(table.title), escape_latex(table.note)
        lines += ["", r"\begin{table}", r"\centering", rf"\caption[{{{title}}}]{{{title}. {note}}}"]
        # The table is made no wider than the text.
        lines.append(r"\medskip")
        lines.append(r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%")
        lines.append(rf"\begin{{tabular}}{{l{'r' * (len(table.head) - 1)}}}")
        lines += [r"\toprule", *_spans(table), _row(table.head), r"\midrule"]
        lines += [_row((shorten(row[0], _LONGEST), *row[1:])) for row in table.rows]
        lines += [r"\bottomrule", r"\end{tabular}}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def escape_latex(text: str) -> str:
    """Escape a text so that LaTeX prints it as it is, without commands, arguments or ligatures."""
    chars = unicodedata.normalize("NFC", text)
    return "".join(
        ("{}" if char == before and char in _LIGATURES else "") + _escape(char)
        for before, char in zip(" " + chars, chars, strict=False)
    )


def _escape(char: str) -> str:
    if char in _KNOWN:
        return _KNOWN[char]
    parts = unicodedata.normalize("NFD", char)
    accented = char < "\u0180" and len(parts) == 2 and parts[0].isascii() and parts[1] in _ACCENTS
    if " " <= char <= "~" or char in _LETTERS or accented:
        return char
    if unicodedata.category(char) in ("Cc", "Cf"):  # no glyphs: joiners, marks of direction
        return ""
    return rf"\sgoolchar{{{ord(char):04X}}}{{{char}}}"


def _row(cells: Sequence[str]) -> str:
    return " & ".join(map(escape_latex, cells)) + r" \\"


def _spans(table: Table) -> list[str]:
    """Return the line above the head, with names over several columns, and a rule under each name."""
    if not table.spans:
        return []
    cells, rules, at = [], [], 1
    for text, width in table.spans:
        cells.append(rf"\multicolumn{{{width}}}{{c}}{{{escape_latex(text)}}}" if text else "")
        rules.append(rf"\cmidrule(lr){{{at}-{at + width - 1}}}" if text else "")
        at += width
    return [" & ".join(cells) + r" \\", " ".join(filter(None, rules))]
