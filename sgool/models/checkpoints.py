"""Reads weights files in their public layouts without running code from them, and loads them strictly."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sgool.config.weights import file_problem
from sgool.errors import SgoolError

State = dict[str, Tensor]
_NESTED = ("state_dict", "model_state_dict", "model", "params", "net")
_NAMES_SHOWN = 6


def read_state(path: str | Path) -> State:
    """Reads the tensors of a weights file by name: safetensors, or what ``torch.load(weights_only=True)`` accepts.

    A state dict below ``state_dict``, ``model``, ``params`` or the like is found, and the prefix ``module.`` that
    DataParallel puts before every name is removed.

    Raises:
        SgoolError: There is no such file, it cannot be read, holds more than tensors, or holds no state dict.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise SgoolError(f"Expected a weights file at {path}, but there is none. Check the path.")
    refuse_broken([path])
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    state = _find_state(content)
    if state is None:
        names = ", ".join(map(str, list(content)[:_NAMES_SHOWN])) if isinstance(content, Mapping) else type(content)
        raise SgoolError(
            f"{path} holds no state dict (tensors by name, possibly below {', '.join(_NESTED)}), but: "
            f"{names or 'nothing'}. Save one with torch.save(model.state_dict(), FILE)."
        )
    return _without_prefix(state, "module.")


def refuse_broken(files: Iterable[Path]) -> None:
    """Raises an error if a file of weights is cut short, a git-lfs pointer or a web page; see `sgool.config.weights`.

    Raises:
        SgoolError: It names all such files, what was expected and what was got.
    """
    problems = [problem for file in files if (problem := file_problem(file))]
    if problems:
        raise SgoolError(" ".join(problems))


def below(state: Mapping[str, Tensor], prefix: str) -> State:
    """Returns the entries whose names start with ``prefix``, without this prefix."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], source: str | Path, *, assign: bool = False) -> None:
    """Copies a state dict into a module whose names and shapes it must match exactly.

    Args:
        module: The module that gets the weights, in its own dtype and on its own device.
        state: Tensors by name.
        source: File of the weights, for the message.
        assign: The module takes the tensors themselves, with their dtype: it may be one without memory for weights.

    Raises:
        SgoolError: Tensors are missing, unexpected or of another shape; the message lists them.
    """
    expected = module.state_dict()
    # num_batches_tracked is a counter for training that old files lack and evaluation does not read.
    missing = [name for name in expected if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in expected]
    shapes = [
        f"{name} (expected {tuple(value.shape)}, got {tuple(state[name].shape)})"
        for name, value in expected.items()
        if name in state and value.shape != state[name].shape
    ]
    found = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    if any(found.values()):
        text = "; ".join(f"{len(names)} {kind}: {_shortened(names)}" for kind, names in found.items() if names)
        raise SgoolError(
            f"The weights in {source} do not fit {type(module).__name__}: {text}. Check that the file belongs to this "
            "model."
        )
    module.load_state_dict(dict(state), strict=False, assign=assign)


def first_tensor(state: Mapping[str, Tensor], names: Iterable[str], source: str | Path, what: str) -> Tensor:
    """Returns the tensor of the first of several names that a state dict has, for example to read sizes from it.

    Raises:
        SgoolError: It has none of them, so the file has another layout.
    """
    wanted = list(names)
    for name in wanted:
        if name in state:
            return state[name]
    raise SgoolError(
        f"{source} is no {what}: expected {' or '.join(wanted)} among its tensors, got {_shortened(list(state))}. "
        "Check that the file belongs to this model."
    )


def _shortened(names: list[str]) -> str:
    rest = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise SgoolError(f"Cannot read {path} as safetensors: {error}. Fetch the file again.") from error


def _read_pickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = " ".join(str(error).split())
        if "GLOBAL" not in reason and "Unsupported" not in reason:
            raise SgoolError(f"Cannot read {path} as PyTorch weights: {reason[:200]}. Fetch the file again.") from error
        raise SgoolError(
            f"{path} holds more than tensors, and loading it could run any code, so it is refused. If you trust where "
            "it comes from, convert it once: python -c \"import torch; s = torch.load('IN', weights_only=False, "
            "map_location='cpu'); s = s.get('state_dict', s); torch.save({k: v for k, v in s.items() if "
            "torch.is_tensor(v)}, 'OUT')\", and give OUT."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise SgoolError(f"Cannot read {path} as PyTorch weights: {reason}. Fetch the file again.") from error


def _find_state(content: Any) -> State | None:
    if not isinstance(content, Mapping) or not content:
        return None
    if all(isinstance(value, Tensor) for value in content.values()):
        return {str(name): value for name, value in content.items()}
    for key in _NESTED:
        if (found := _find_state(content.get(key))) is not None:
            return found
    return None


def _without_prefix(state: State, prefix: str) -> State:
    return below(state, prefix) if all(name.startswith(prefix) for name in state) else state
