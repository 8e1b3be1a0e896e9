"""How a server is set up."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from pathlib import Path

from llamaherd._core import InvalidRequestError
from llamaherd.server.common.limits import Limits

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\sA-Z]+")
_HOST_NAME = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """How a server is set up.

    Args:
      host: Address to listen on. Wider than this machine only with keys, or with no_auth.
      port: In [0, 65535]; 0: any that is free.
      no_auth: Whoever reaches the port may use it, with no key.
      default_max_tokens: Output tokens of a chat answer that says no max_tokens, >= 1.
      limits: The bounds of requests, connections, queues and files.
      request_timeout_s: A request that takes longer ends as at its deadline, > 0. None: none.
      drain_timeout_s: Seconds that running requests have at SIGTERM, >= 0.
      allowed_hosts: Names by which clients may call a server without keys (the Host header), beside
        localhost, addresses, and with no_auth the machine's own name; "*": any.
      shared_cache: Requests of different keys may share cached prefixes. Usage and response times
        then tell a key what others have asked.
      cors_origins: Origins whose pages may call the server, as scheme://host:port; "*": all.
      tls_certificate: PEM file; with it the server speaks TLS.
      tls_key: PEM file.
      data_dir: Where batch jobs and their files live. None: there are none.
      log_prompts: Write prompts and answers to the log.

    Raises:
      InvalidRequestError: A value is out of range.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    no_auth: bool = False
    default_max_tokens: int = 2048
    limits: Limits = field(default_factory=Limits)
    request_timeout_s: float | None = None
    drain_timeout_s: float = 30
    cors_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    shared_cache: bool = False
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    data_dir: Path | None = None
    log_prompts: bool = False

    def __post_init__(self) -> None:
        for name, good, rule in (
            ("port", 0 <= self.port <= 65535, "in [0, 65535]"),
            ("default_max_tokens", self.default_max_tokens >= 1, ">= 1"),
            ("drain_timeout_s", self.drain_timeout_s >= 0, ">= 0"),
            ("request_timeout_s", (self.request_timeout_s or 1) > 0, "> 0"),
        ):
            if not good:
                raise InvalidRequestError(f"{name} must be {rule}; got {getattr(self, name)}")
        for origin in self.cors_origins:
            if origin not in ("*", "null") and not _ORIGIN.fullmatch(origin):
                raise InvalidRequestError(
                    "a CORS origin must be scheme://host or scheme://host:port in lower case, "
                    f"without a path; got {origin!r}"
                )
        for host in self.allowed_hosts:
            if host != "*" and not _HOST_NAME.fullmatch(host):
                raise InvalidRequestError(
                    f"an allowed host must be a name without scheme and port; got {host!r}"
                )
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise InvalidRequestError("tls_certificate and tls_key go together; got one of them")

    def require_guarded(self, has_keys: bool) -> None:
        """Raises InvalidRequestError if strangers could use the server."""
        if has_keys or self.no_auth or is_this_machine(self.host):
            return
        raise InvalidRequestError(
            f"host {self.host} can be reached from other machines: set API keys, or say that "
            "anyone may use the server (--no-auth)"
        )


def is_this_machine(host: str) -> bool:
    """Whether an address to listen on is reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
