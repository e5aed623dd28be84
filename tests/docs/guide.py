"""Checks the code blocks of the guide's pages, which would take too long to run as `snippets.run_page` does.

Python is run with fewer denoising steps. Files that the reader is told to save are saved; modules are executed, and
YAML files are composed as the choice that they are. Bash is read by bash; of each ``sgool`` in it the arguments are
read and the configuration is composed. Text is output, a layout or a formula: `TEXTS` says what each one is.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sgool.run.config import load_config
from tests.docs.snippets import OTHERS, ROOT, Block, blocks_of, check, commands_of, run

DOCS = ROOT / "docs"
#: What is no code, and so is not checked: of each page what its text blocks are, in order.
TEXTS: Mapping[str, tuple[str, ...]] = {
    "chain.md": ("output of benchmarks/chain.py",) * 3,
    "components.md": ("a folder's layout",),
    "editing.md": ("a folder's layout",),
    "getting-started.md": ("a folder's layout",),
    "how-it-works.md": ("a drawing",) * 2,
    "methods.md": ("a formula",),
    "prompts.md": ("a message, compared in test_guide.py",),
    "slurm.md": ("output of sgool status",),
    "study.md": ("a folder's layout",),
}
#: Python that cannot run here, by its first line: why, and what the names are that it takes from elsewhere.
UNRUN: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "import datasets": ("loads a data set of the hub", {}),
    "from diffusers import DiffusionPipeline": (
        "needs weights and a GPU",
        {"torch": "torch", "SGOOLPipeline": "sgool.SGOOLPipeline"},
    ),
    'trainer = L.Trainer(max_epochs=1, devices=8, strategy="pair_parallel", callbacks=callbacks)': (
        "needs eight GPUs",
        {
            "L": "lightning",
            "callbacks": "builtins.list",
            "module": "sgool.LatentPairModule",
            "data": "sgool.PromptDataModule",
        },
    ),
}  # fmt: skip
#: Files of a page that another page tells to save.
BORROWED = {"components.md": ("chain.md", {"sampler/mine.yaml": "my_folder/sampler/mine.yaml"})}
_PROMPTS = "prompt,noun\na red cat,cat\na blue house,house\ntwo green stars,stars\n"
#: Files that commands name and that a reader has.
READER: Mapping[str, str] = {
    **dict.fromkeys(("prompts.csv", "my_prompts.csv", "my.csv", "drawbench.csv", "csp.csv"), _PROMPTS),
    "daily.txt": "a red cat\n",
    "evaluation_metadata.jsonl": '{"tag": "colors", "prompt": "a red cat", "include": []}\n',
    "geneval2_data.jsonl": '{"prompt": "a red cat", "atom_count": 3, "vqa_list": []}\n',
    "captions.csv": "image,text\na.jpg,a red car\n",
    "FOLDER/model_index.json": json.dumps({"_class_name": "StableDiffusionPipeline"}),
    "WAN/model_index.json": json.dumps({"_class_name": "WanPipeline"}),
    "HPSv3/hpsv3/dataset/data_collator_qwen.py": (ROOT / "tests/hps_v3_instruction.py").read_text(encoding="utf-8"),
    "HPSv3.safetensors": "",
    **dict.fromkeys(("HPS_v2.1_compressed.pt", "TranSalNet_Res.pth", "FILE", "RUN/config.yaml", "photos/a.jpg"), ""),
}
_SPAN = re.compile(r"(?<!`)`(sgool [a-z-]+ [^`\n]*=[^`\n]*)`(?!`)")
_STEPS = re.compile(r"\bnum_inference_steps=\d+")


def check_page(page: Path, folder: Path) -> Counter[str]:
    """Checks all blocks of a page in an empty current folder, and counts what was done."""
    save_files(page, folder)
    names: dict[str, Any] = {"__name__": "__main__"}
    return Counter(kind for block in blocks_of(page) for kind in check_block(block, page, folder, names))


def save_files(page: Path, folder: Path) -> None:
    """Saves the files that a reader of a page has, those of the reader's own and those that the page tells to save."""
    files = dict(READER)
    for block in [*borrowed(page.name), *blocks_of(page)]:
        files |= {block.title: block.text} if block.title else {}
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def borrowed(name: str) -> Iterator[Block]:
    """Yields the files that the page takes from another one."""
    other, files = BORROWED.get(name, ("", {}))
    for block in blocks_of(DOCS / other) if other else ():
        if block.title in files:
            yield Block(block.language, files[block.title], block.text)


def check_block(block: Block, page: Path, folder: Path, names: dict[str, Any]) -> Iterator[str]:
    """Checks a block, and yields what was done."""
    where, first = f"{page.name}: {block.text[:60]!r}", block.text.split("\n")[0]
    if block.language == "bash":
        for words in commands_of(block.text, folder):
            if words[0] == "sgool":
                check(words[1], words[2:])
            else:
                run(words)
            yield "other program" if words[0] in OTHERS else "command"
    elif block.language == "python" and first in UNRUN:
        resolve(block.text, UNRUN[first][1], where)
        yield "resolved"
    elif block.language == "python":
        exec(compile(_STEPS.sub("num_inference_steps=2", block.text), where, "exec"), {} if block.title else names)
        yield "python"
    elif block.language == "yaml":
        assert block.title, f"{where}: a file needs the name under which it is saved"
        compose_choice(Path(block.title))
        yield "yaml"
    else:
        assert block.language == "text", f"{where}: expected bash, python, yaml or text, got {block.language!r}"
        yield "file" if block.title else "text"


def compose_choice(file: Path) -> None:
    """Composes a YAML file of the reader's as a choice of its group."""
    group, name = file.parent.name, file.stem
    chosen = [f"+method@method.{name}={name}", f"methods=[{name}]"] if group == "method" else [f"{group}={name}"]
    assert load_config([*chosen, "data.prompts=prompts.csv"], file.parent.parent).methods


def inline_commands(page: Path) -> list[list[str]]:
    """Returns the commands with settings that stand in a page's sentences and tables, as words after ``sgool``.

    The folder of the reader's components, ``--config-dir FOLDER``, is the current one.
    """
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    found = _SPAN.findall(text.replace(r"\|", "|").replace("--config-dir FOLDER", "--config-dir ."))
    return [shlex.split(span)[1:] for span in found]


def resolve(text: str, known: Mapping[str, str], where: str) -> None:
    """Compiles Python that cannot run, imports what it imports, and looks up its names, attributes and arguments.

    Args:
        text: The code.
        known: Names that it takes from elsewhere, with the dotted path of what stands in for them.
        where: The place, for messages.
    """
    tree = ast.parse(text, where)
    found: dict[str, Any] = {name: _load(path) for name, path in known.items()}
    for node in tree.body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            exec(compile(ast.Module([node], []), where, "exec"), found)
    for node in ast.walk(tree):
        # A variable that is made from a class has the class's attributes.
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            made = _value(node.value.func, found)
            found |= {
                to.id: made if isinstance(made, type) else None for to in node.targets if isinstance(to, ast.Name)
            }
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            assert node.id in found or hasattr(builtins, node.id), f"{where}: {node.id} comes from nowhere"
        if isinstance(node, ast.Attribute) and (owner := _value(node.value, found)) is not None:
            assert hasattr(owner, node.attr), f"{where}: {owner!r} has no {node.attr}"
        if isinstance(node, ast.Call) and (function := _value(node.func, found)) is not None:
            # A method that is looked up in its class is a plain function, whose first argument is the object.
            method = isinstance(node.func, ast.Attribute) and isinstance(_value(node.func.value, found), type)
            positional = [None] * (len(node.args) + (method and inspect.isfunction(function)))
            inspect.signature(function).bind(*positional, **{str(word.arg): None for word in node.keywords})


def _load(path: str) -> Any:
    """Returns a module, or what a module has by this name."""
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError:
        module, _, name = path.rpartition(".")
        return getattr(importlib.import_module(module), name)


def _value(node: ast.expr, found: Mapping[str, Any]) -> Any:
    """Returns what a dotted name stands for; None where only running the code would tell."""
    if isinstance(node, ast.Name):
        return found.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = _value(node.value, found)
        return None if owner is None else getattr(owner, node.attr, None)
    return None
