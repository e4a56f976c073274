"""The map that a name on the command line means: a file with a matrix or a network, or an object.

``package.module:name`` and ``file.py:name`` import; ``name`` may have dots, and a pair of brackets
at its end calls it. No pickle is read unless it is trusted.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import re
import sys
from pathlib import Path
from typing import Any

from dro_core.auditing.upstairs import networks
from dro_core.cli.files import load_array

#: Suffixes of files that torch wrote.
TORCH_FILES = (".pt", ".pth", ".pt2", ".ts", ".torchscript")
#: Names under which files usually keep a map.
MAPS = ("B", "map", "matrix", "inverse", "A")
#: package.module:name, or a file of Python for the module.
OBJECT = re.compile(r"^(?P<module>.+?):(?P<name>[A-Za-z_][\w.]*)(?P<call>\(\))?$")


def load_map(name: str, *, trust: bool = False) -> Any:
    """The object behind a name: a matrix, an operator, a function or a network.

    Parameters
    ----------
    name : str
        A path (``path::key`` for one array of several), or ``module:name``.
    trust : bool
        Whether a file of torch may run code when it is read.

    Raises
    ------
    ValueError, TypeError, OSError, ModuleNotFoundError
        For what cannot be read or imported, in one line.
    """
    matched = OBJECT.match(name)
    if matched and "::" not in name and not Path(name).exists():
        return _imported(matched["module"], matched["name"], bool(matched["call"]))
    path = Path(name.partition("::")[0])
    if path.suffix.lower() in TORCH_FILES:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: there is no such file")
        return networks().load_exported(path, trust=trust)
    return load_array(name, MAPS)


def _imported(module_name: str, name: str, call: bool) -> Any:
    spec = f"{module_name}:{name}"
    try:
        found: Any = _module(module_name)
    except Exception as error:  # whatever a module of somebody raises when it is imported
        kind = type(error).__name__
        first = (str(error).strip() or kind).splitlines()[0]
        raise ValueError(f"{spec}: importing {module_name} failed ({kind}: {first})") from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise ValueError(f"{spec}: {found!r} has no {part!r}"[:300])
        found = getattr(found, part)
    if call:
        try:
            found = found()
        except Exception as error:
            raise ValueError(f"{spec}(): calling it failed ({error})".splitlines()[0]) from error
    if inspect.isclass(found):
        raise TypeError(f"{spec}: a class; name an instance, or call it: {spec}()")
    return found


def _module(name: str) -> Any:
    if not name.endswith(".py"):
        here = os.getcwd()
        if here not in sys.path:
            sys.path.insert(0, here)
        return importlib.import_module(name)
    path = Path(name)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module
