"""Personalises toward each reference image in turn: ``python -m experiments.personalization.run [KEY=VALUE ...]``.

One run folder per reference; each resumes by itself.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from experiments.personalization.references import REFERENCES
from sgool import fit
from sgool.config.paths import home_path


def main(argv: Sequence[str] | None = None) -> None:
    """Runs ``experiment=personalization_embedded`` once per reference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=home_path, default=Path("runs/personalization_embedded"))
    parser.add_argument("--references", nargs="*", default=list(REFERENCES), choices=list(REFERENCES), metavar="NAME")
    parser.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args(argv)
    for name in arguments.references:
        fit(
            "experiment=personalization_embedded",
            f"objective.terms.image_alignment.images=[emoji_world/references/{name}.png]",
            f"run_dir='{arguments.out / name}'",
            *arguments.overrides,
        )


if __name__ == "__main__":
    main()
