"""Options in TOML files."""

from __future__ import annotations

import operator
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import tomli_w

from llamaherd import _core
from llamaherd.validation import require_unicode

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read(path: str | os.PathLike[str], kind: type) -> Any:
    """Read a dataclass of options from a file; its keys are field names.

    Raises:
      InvalidRequestError: The file cannot be read, or a key or value is invalid; the message
        names the file, the key and the rule.
    """
    try:
        values = tomllib.loads(Path(path).read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise _core.InvalidRequestError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise _core.InvalidRequestError(f"{path} is not valid TOML: {error}") from None
    known = [field.name for field in fields(kind)]
    for name in values:
        if name not in known:
            raise _core.InvalidRequestError(
                f"{path}: unknown option {name}; valid options are {', '.join(known)}"
            )
    try:
        return kind(**{name: _frozen(value) for name, value in values.items()})
    except (_core.InvalidRequestError, TypeError) as error:
        raise _core.InvalidRequestError(f"{path}: {error}") from None


def write(path: str | os.PathLike[str], options: Any, *, comment: str = "") -> None:
    """Write the options that differ from the defaults, so that `read()` restores them.

    Raises:
      InvalidRequestError: A text is not valid Unicode, as TOML requires.
      OSError: The file cannot be written.
    """
    defaults = type(options)()
    changed = {}
    for field in fields(options):
        value = _plain(getattr(options, field.name))
        if isinstance(value, str):
            require_unicode(field.name, value)
        if value is not None and value != _plain(getattr(defaults, field.name)):
            changed[field.name] = value
    head = "".join(f"# {_printable(line)}\n" for line in comment.splitlines())
    Path(path).write_text(head + tomli_w.dumps(changed), encoding="utf-8")


def _printable(line: str) -> str:
    """Comment text with the control characters that TOML forbids replaced."""
    return "".join(c if c.isprintable() else "?" for c in line)


def _plain(value: Any) -> Any:
    """A value in TOML's types; numpy numbers and tuples are converted."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Iterable):
        return [_plain(item) for item in value]
    try:
        return operator.index(value)
    except TypeError:
        return float(value)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
