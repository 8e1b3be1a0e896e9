"""API keys and the permissions of each."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamaherd._core import InvalidRequestError

VARIABLE = "LLAMAHERD_API_KEYS"
_KEY = re.compile(r"[!-~]+")
_RANGES = {"priority": (0, 100), "weight": (1e-6, 1e6), "max_running": (1, 1_000_000)}
_FIELDS = {"name", "hash", "priority", "weight", "max_running"}


@dataclass(frozen=True)
class ApiKey:
    """An API key and its permissions.

    Attributes:
      tenant: Name of the key, the tenant of its requests; "": the tenant is the request's `user`.
      digest: SHA-256 of the key, in hex.
      priority: The most urgent class a request may use, and the default class.
      weight: Share of tokens relative to other tenants of the same class.
      max_running: Maximum concurrent requests; None: unlimited.
    """

    tenant: str
    digest: str = ""
    priority: int = 0
    weight: float = 1
    max_running: int | None = None


ANYONE = ApiKey(tenant="")


def generate_key() -> str:
    """A new random key."""
    return "sk-" + secrets.token_urlsafe(32)


def digest_of(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


class KeyRing:
    """The API keys of a server; an empty ring disables authentication."""

    def __init__(self, keys: Sequence[ApiKey] = ()) -> None:
        self.keys = tuple(keys)

    def __bool__(self) -> bool:
        return bool(self.keys)

    def find(self, authorization: str) -> ApiKey | None:
        """The key of an Authorization header, or None. Wrong keys take as long as right ones."""
        if not self.keys:
            return ANYONE
        scheme, _, key = authorization.partition(" ")
        digest = digest_of(key.strip(" \t"))
        found = None
        for known in self.keys:
            if hmac.compare_digest(known.digest, digest):
                found = known
        return found if scheme.lower() == "bearer" else None

    @property
    def weights(self) -> dict[str, float]:
        """Shares by tenant, in the form of EngineConfig.tenant_weights."""
        return {key.tenant: key.weight for key in self.keys if key.weight != 1}

    @classmethod
    def load(cls, path: Path | None, environment: Mapping[str, str] = os.environ) -> KeyRing:
        """Read keys from a file and from the environment variable LLAMAHERD_API_KEYS.

        Args:
          path: JSON, a list of objects: name, hash (SHA-256 of the key in hex, as
            ``llamaherd serve --generate-key`` prints it), and optionally priority, weight,
            max_running.
          environment: Environment variables; LLAMAHERD_API_KEYS holds plain keys separated by
            commas.

        Raises:
          InvalidRequestError: The file cannot be read, or an entry is invalid.
        """
        keys = _keys_of_variable(environment.get(VARIABLE, ""))
        if path is not None:
            keys += [_key_of(entry) for entry in _entries(path)]
        tenants = [key.tenant for key in keys]
        if len(set(tenants)) < len(tenants):
            raise InvalidRequestError(f"names of keys must be unique; got {tenants}")
        by_digest: dict[str, str] = {}
        for key in keys:
            if other := by_digest.get(key.digest):
                raise InvalidRequestError(f"{other} and {key.tenant} are one key; give it one name")
            by_digest[key.digest] = key.tenant
        return cls(keys)


def _keys_of_variable(text: str) -> list[ApiKey]:
    if not text:
        return []
    keys = [key for part in text.split(",") if (key := part.strip())]
    if not keys:
        raise InvalidRequestError(
            f"{VARIABLE} is set but holds no key; unset it to run without keys"
        )
    for place, key in enumerate(keys, 1):
        if not _KEY.fullmatch(key):
            raise InvalidRequestError(
                f"key {place} of {VARIABLE} must be printable ASCII without spaces"
            )
    # The name is derived from the key, not from its position: it owns files and batches.
    digests = [digest_of(key) for key in keys]
    return [ApiKey(tenant=f"key-{digest[:12]}", digest=digest) for digest in digests]


def _entries(path: Path) -> list[Any]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise InvalidRequestError(f"keys cannot be read from {path}: {error}") from None
    if not isinstance(entries, list):
        raise InvalidRequestError(f"{path} must hold a list of keys; got {type(entries).__name__}")
    if not entries:
        raise InvalidRequestError(f"{path} holds no key; omit --api-keys to run without keys")
    return entries


def _key_of(entry: Any) -> ApiKey:
    if not isinstance(entry, dict) or set(entry) - _FIELDS:
        raise InvalidRequestError(
            f"a key must be an object with fields {', '.join(sorted(_FIELDS))}; got {entry!r}"
        )
    name, digest = entry.get("name"), entry.get("hash")
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name.encode()) <= 256:
        raise InvalidRequestError(
            f"a key's name must be 1 to 256 bytes of printable text, not empty; got {name!r}"
        )
    if not isinstance(digest, str) or len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise InvalidRequestError(f"hash of key {name} must be SHA-256 in hex (64 digits)")
    if digest == digest_of(""):
        raise InvalidRequestError(f"hash of key {name} must not be the hash of an empty key")
    numbers = {key: entry[key] for key in ("priority", "weight", "max_running") if key in entry}
    for key, value in numbers.items():
        kinds = (int, float) if key == "weight" else (int,)
        least, most = _RANGES[key]
        good = isinstance(value, kinds) and not isinstance(value, bool) and least <= value <= most
        if not good:
            raise InvalidRequestError(
                f"{key} of key {name} must be in [{least}, {most}]; got {value!r}"
            )
    return ApiKey(tenant=name, digest=digest, **numbers)
