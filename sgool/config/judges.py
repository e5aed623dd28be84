"""Finds the judges of a configuration whose weights an objective used."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sgool.config.paths import asset_path, is_embedded_name

Options = Mapping[str, Any]

_WEIGHTS = (".pt", ".pth", ".bin", ".safetensors")
#: LPIPS's networks as torchvision names them.
_TORCHVISION = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}


def optimised_against(config: Options, networks: Options | None = None) -> set[str]:
    """Returns the names of the judges, and "guide", that share weights with a network of the objective.

    The scores of such a judge are no evidence of quality. If the run folder records the networks' fingerprints, these
    decide, and the names and files of the weights play no part. All networks of an optimised term count, also those in
    ensembles and below others (the CLIP below an aesthetic head), and those of the term that stops pairs early.

    Names and files are compared where there is no record (older runs, or a method that has not begun) and for terms
    and judges for which it has no network. CLIPs are compared by model and ``pretrained``: an embedded name, a folder
    and ``local-dir:`` that lead to the same place are equal; so are a tag of open_clip and LAION's repository of it on
    the hub, and a model with and without ``-quickgelu``. Other networks are compared by their files. A network inside
    a user's own function is then found only if its name or file is among the term's arguments.

    Args:
        config: A run's configuration, also one of an earlier version.
        networks: The run folder's record, `sgool.results.RunFolder.networks`; None or empty if there is none.
    """
    terms = _used_terms(config)
    recorded = networks or {}
    judges, objectives = recorded.get("judges") or {}, recorded.get("objectives") or {}
    optimised = {name: prints for objective in objectives.values() for name, prints in objective.items() if prints}
    used = {text for objective in objectives.values() for prints in objective.values() for text in prints}
    found = {name for name, prints in judges.items() if used & set(prints)}
    methods = set(config.get("methods", config.get("method", ())))
    if not objectives or not methods <= objectives.keys():
        return found | _sharing(config, _networks_of(terms.values()))
    unknown = [term for name, term in terms.items() if name not in optimised]
    by_name = _sharing(config, _networks_of(terms.values())) - {name for name, prints in judges.items() if prints}
    return found | by_name | _sharing(config, _networks_of(unknown))


def saliency_judges(config: Options) -> set[str]:
    """Returns the names of the judges, and "guide", whose weights made saliency maps (Grad-CAM's CLIP).

    Maps decide where an objective looks, not what it minimises. Such a judge is not optimised against, but it is not
    wholly independent either, and reports should say so.
    """
    methods = config.get("method", {})
    names = config.get("methods", ())
    looks = any(methods.get(name, {}).get("use_saliency") for name in names)
    detector = config.get("saliency", {}).get("detector", {})
    return _sharing(config, _networks_of([detector])) if looks else set()


def _sharing(config: Options, networks: set[str]) -> set[str]:
    guide = config.get("models", {}).get("guide")
    judges = {**_judges(config), **({"guide": guide} if guide else {})}
    return {name for name, judge in judges.items() if _networks_of([judge]) & networks}


def _judges(config: Options) -> dict[str, Any]:
    judges = config.get("models", {}).get("judges")
    return dict(judges) if isinstance(judges, Mapping) else {}


def _used_terms(config: Options) -> dict[str, Any]:
    """Returns the terms, by name, that an optimised method minimises or that stop its pairs early."""
    methods = config.get("method", {})
    chosen = config.get("methods", methods)
    names = [name for name in chosen if methods.get(name, {"kind": name}).get("kind") != "vanilla"]
    terms = config.get("objective", {}).get("terms", {})
    stops = {_early_stop(config, name) for name in names if methods.get(name, {}).get("kind") == "optimize"}
    used = {name: term for name, term in terms.items() if name in stops or not _is_idle(term)}
    return used if names or not chosen else {}


def _is_idle(term: Any) -> bool:
    return isinstance(term, Mapping) and term.get("weight") == 0


def _early_stop(config: Options, name: str) -> Any:
    if "optimization" not in config:
        return None
    own = config["method"][name].get("optimization", {}).get("early_stop", {})
    return {**config["optimization"].get("early_stop", {}), **own}.get("term")


def _networks_of(nodes: Iterable[Any]) -> set[str]:
    """Returns the identities of all networks that terms, judges or detectors name anywhere."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, str):
            found.add(_clip_identity(node, None))
        elif isinstance(node, Mapping):
            found |= _networks_of_mapping(node)
    return found


def _networks_of_mapping(node: Options) -> set[str]:
    found: set[str] = set()
    kind, model = node.get("type"), node.get("model")
    if isinstance(model, str):
        of_clip = kind in (None, "clip") and "source" not in node
        pretrained = node.get("pretrained")
        # A classifier with a weights file is identified by that file, below.
        if of_clip or not node.get("checkpoint"):
            found.add(_clip_identity(model, pretrained) if of_clip else _file_identity(model))
    if isinstance(node.get("checkpoint"), str):
        found.add(_file_identity(node["checkpoint"]))
    if kind == "perceptual" and node.get("network") in _TORCHVISION:
        found.add(f"torchvision:{_TORCHVISION[node['network']]}")
    if kind == "classifier" and node.get("source") == "torchvision":
        found.add(f"torchvision:{model}")
    # In a user's own term, every argument may name a network.
    inner = [node["clip"]] if "clip" in node else []
    for value in _leaves(node.get("arguments")):
        inner.append(value)
        found |= {_file_identity(value)} if isinstance(value, str) else set()
    return found | _networks_of(inner)


def _leaves(node: Any) -> Iterator[Any]:
    """Yields all texts, and all mappings that name a model, inside a user's arguments."""
    if isinstance(node, Mapping):
        if "model" in node:
            yield node
        else:
            for value in node.values():
                yield from _leaves(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _leaves(value)
    elif isinstance(node, str):
        yield node


def _clip_identity(model: str, pretrained: str | None) -> str:
    """Returns the identity of a CLIP's weights."""
    model = model.removeprefix("local-dir:")
    if model.startswith("hf-hub:"):
        return f"name:{model.rpartition('/')[2].lower().replace('_', '-')}"
    is_path = model.startswith((".", "~", os.sep)) or is_embedded_name(model)
    if is_path or Path(asset_path(model)).expanduser().is_dir():
        return _file_identity(model) + (f"#{pretrained}" if pretrained else "")
    if pretrained and (os.sep in pretrained or pretrained.endswith(_WEIGHTS) or Path(pretrained).is_file()):
        return _file_identity(pretrained)
    name = model.replace("/", "-").removesuffix("-quickgelu")
    return f"name:clip-{name}-{pretrained or ''}".lower().replace("_", "-")


def _file_identity(text: str) -> str:
    """Returns the identity of a file or folder, or of something that is fetched by that name."""
    path = Path(asset_path(text)).expanduser()
    is_path = path.exists() or text.startswith((".", "~", os.sep)) or text.endswith(_WEIGHTS)
    return f"path:{path.resolve()}" if is_path else f"name:{text}"
