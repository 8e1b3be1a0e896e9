"""Resolution of model names to GGUF files, with download."""

from llamaherd.models.cache import cache_dir
from llamaherd.models.catalogue import DEFAULT_MODEL, CatalogueEntry, PackageSource, catalogue
from llamaherd.models.check import check_model
from llamaherd.models.resolve import find_present, pull, resolve
from llamaherd.models.summary import summarize

__all__ = [
    "DEFAULT_MODEL",
    "CatalogueEntry",
    "PackageSource",
    "cache_dir",
    "catalogue",
    "check_model",
    "find_present",
    "pull",
    "resolve",
    "summarize",
]
