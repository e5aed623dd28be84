"""A mkdocs hook: the pages of the Python reference and of the commands, made from the code while the site is built.

Names come from each room's ``__all__`` and from the command line's own options, so no list of them can go stale.
Nothing heavy is imported: modules are read, not run, but for the command line's, which import no torch.
"""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
#: Page -> its title, and the modules whose public names it has: those of ``__all__``, else all that have no underscore.
PAGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "callbacks": ("Callbacks", ("sgool.callbacks",)),
    "config-room": ("Options of components", ("sgool.config.options", "sgool.config.rules", "sgool.config.kinds")),
    "diffusion": ("The denoising chain", ("sgool.diffusion", "sgool.diffusion.moves")),
    "errors": ("Errors", ("sgool.errors",)),
    "methods": ("Methods", ("sgool.methods",)),
    "metrics": ("Metrics and judges", ("sgool.metrics",)),
    "models": (
        "Models and other networks",
        (
            "sgool.models.load",
            "sgool.models.clip",
            "sgool.models.networks",
            "sgool.models.family",
            "sgool.models.images",
        ),
    ),
    "objectives": ("Objectives", ("sgool.objectives",)),
    "pipeline": ("The pipeline", ("sgool.pipeline",)),
    "prompts": ("Prompts and pairs", ("sgool.prompts", "sgool.prompts.datamodule", "sgool.prompts.seeding")),
    "report": ("The report", ("sgool.report",)),
    "results": ("The run folder", ("sgool.results",)),
    "run": ("Running experiments", ("sgool.run.fit", "sgool.run.config", "sgool.run.edit")),
    "saliency": ("Saliency", ("sgool.saliency",)),
    "study": ("The human study", ("sgool.study",)),
    "types": ("Values that travel", ("sgool.types",)),
}


def on_files(files: Files, config: Any) -> Files:
    """Adds ``reference/index.md``, ``reference/commands.md`` and a page for each entry of PAGES."""
    pages = {name: _page(title, modules) for name, (title, modules) in PAGES.items()}
    pages |= {"index": _index(), "commands": _commands()}
    for name, text in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def public_names(module: str) -> list[str]:
    """Returns a module's ``__all__``; without one, its classes and functions that have no underscore."""
    tree = _tree(module)
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(getattr(to, "id", "") == "__all__" for to in node.targets):
            return list(ast.literal_eval(node.value))
    made = (node.name for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef)))
    return [name for name in made if not name.startswith("_")]


def _tree(module: str) -> ast.Module:
    path = ROOT / Path(*module.split("."))
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(source.read_text(encoding="utf-8"))


def _page(title: str, modules: tuple[str, ...]) -> str:
    parts = [f"# {title}\n"]
    for module in modules:
        about = _in_markdown(ast.get_docstring(_tree(module)) or "")
        lazy = "The names below are imported from their modules on first use"
        parts.append(f"**`{module}`**: {about.split(lazy)[0].strip()}\n")
        parts += [f"::: {module}.{name}\n" for name in public_names(module)]
    return "\n".join(parts)


def _in_markdown(docstring: str) -> str:
    """Returns a docstring's text with its ``double`` backquotes as Markdown has them."""
    return docstring.replace("``", "`")


def _homes() -> dict[str, str]:
    """Returns for each name of ``sgool.__all__`` the module that it is imported from."""
    for node in _tree("sgool").body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "_MODULES":
            return dict(ast.literal_eval(node.value))
    raise ValueError("sgool/__init__.py has no _MODULES")


def _index() -> str:
    covered = {module for _, modules in PAGES.values() for module in modules}
    homes = _homes()
    rows = []
    for name, home in sorted(homes.items(), key=lambda item: item[0].lower()):
        place = home if home in covered else "sgool"
        rows.append(f"| [`{name}`][{place}.{name}] | {_first_sentence(home, name)} |")
    further = [f"::: sgool.{name}\n" for name, home in homes.items() if home not in covered]
    pages = [f"- [{title}]({name}.md): `{'`, `'.join(modules)}`" for name, (title, modules) in PAGES.items()]
    return "\n".join(
        [
            "# Reference\n",
            "[Commands](commands.md) has every command, [Configuration keys](config/index.md) every key.\n",
            "## Names of `sgool`\n",
            "`import sgool` is light: each name is imported from its module on first use.\n",
            "| name | what it is |\n|---|---|",
            *rows,
            "",
            *further,
            "## Rooms\n",
            "A name that stands on one of these pages is public. [How it works](../how-it-works.md) has the rooms.\n",
            *pages,
            "",
        ]
    )


def _first_sentence(module: str, name: str) -> str:
    """Returns the first sentence of a docstring, following imports to where the name is made."""
    tree = _tree(module)
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name:
            text = " ".join(_in_markdown(ast.get_docstring(node) or "").split())
            return re.split(r"(?<=[.!?]) (?=[A-Z`])", text)[0].rstrip(":").replace("|", "\\|")
    for found in ast.walk(tree):
        if isinstance(found, ast.ImportFrom) and found.module and any(each.name == name for each in found.names):
            return _first_sentence(found.module, name)
    raise ValueError(f"{module} has no {name}")


def _commands() -> str:
    from typer.main import get_command

    from sgool.cli import app

    parts = ["# Commands\n", "`sgool COMMAND --help` prints the same in a terminal.\n"]
    commands: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
    for name, command in commands.items():
        words = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
        options = [parameter for parameter in command.params if parameter.param_type_name == "option"]
        usage = " ".join(["sgool", name, *(["[OPTIONS]"] if options else []), *map(_usage, words)])
        parts += [f"## sgool {name}\n", f"```text\n{usage}\n```\n", inspect.cleandoc(command.help or "") + "\n"]
        parts.append("| option | what it does |\n|---|---|")
        parts += [_row(parameter) for parameter in [*words, *options]]
        parts.append("")
    return "\n".join(parts)


def _usage(argument: Any) -> str:
    name = argument.metavar or argument.name.upper()
    several = "..." if argument.nargs == -1 and not name.endswith("...") else ""
    return f"{name}{several}" if argument.required or name.startswith("[") else f"[{name}]{several}"


def _row(parameter: Any) -> str:
    is_option = parameter.param_type_name == "option"
    names = [*parameter.opts, *parameter.secondary_opts] if is_option else [parameter.metavar or parameter.name.upper()]
    default = parameter.default if isinstance(parameter.default, (str, int, float)) else None
    shown = "" if default is None or isinstance(default, bool) or not is_option else f"`{default}`"
    text = " ".join((getattr(parameter, "help", None) or "").split()).replace("|", "\\|")
    return f"| {', '.join(f'`{name}`' for name in names)} | {text}{f' Default: {shown}.' if shown else ''} |"
