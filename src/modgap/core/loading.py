"""Loads objects by their location: `module:object` or `path/to/file.py:object`.

Nothing is imported before it is used.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from modgap.core.errors import UserError, raised
from modgap.core.installation import missing_package, not_installed


def load(path: str) -> Any:
    """The object at `module:object` or `path/to/file.py:object`.

    Raises:
        UserError: The module needs a package that is not installed (the message names the extra),
            or does not exist.
    """
    module_name, sign, name = path.rpartition(":")
    if not sign or not module_name or not name:
        raise UserError(
            f"{path!r} names no object: write it as module:object or path/to/file.py:object."
        )
    module = (
        _from_file(path, module_name)
        if module_name.endswith(".py")
        else _imported(path, module_name)
    )
    # Not a try around getattr alone: an AttributeError inside a user's module is that module's.
    if not hasattr(module, name):
        raise UserError(f"cannot import {path!r}: {module_name} has no {name!r}.")
    return getattr(module, name)


def _imported(path: str, module_name: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if package := missing_package(error):
            raise UserError(f"{not_installed(package)}.") from error
        raise UserError(f"cannot import {path!r}: no module named {error.name!r}.") from error
    except UserError:
        raise
    except Exception as error:
        raise _fails(path, module_name, error) from error


def _from_file(path: str, file_name: str) -> ModuleType:
    """The module in a file, executed once in a process."""
    file = Path(file_name).resolve()
    if not file.is_file():
        raise UserError(f"cannot import {path!r}: the file {file_name} does not exist.")
    name = f"modgap_file_{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None, "a name that ends in .py has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, UserError) or not isinstance(error, Exception):
            raise
        raise _fails(path, file_name, error) from error
    return module


def _fails(path: str, name: str, error: Exception) -> UserError:
    return UserError(f"cannot import {path!r}: {name} raises {raised(error)}: correct it.")
