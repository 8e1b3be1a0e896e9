"""Configuration of the server."""

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
    """Server settings.

    Args:
      host: Address to listen on; localhost: 127.0.0.1 and, if available, ::1. Addresses other than
        loopback require API keys or no_auth.
      port: In [0, 65535]; 0: any free port.
      no_auth: Accept requests without an API key on any address.
      default_max_tokens: max_tokens of chat requests that set none, >= 1.
      limits: Limits of requests, connections, queues and files.
      request_timeout_s: Deadline of every request in seconds, > 0. None: no deadline.
      drain_timeout_s: Seconds for running requests to finish after SIGTERM, >= 0.
      stream_start_s: Seconds after which a streamed response sends its headers if there is no event
        yet, >= 0. An error within this time sets the HTTP status.
      stream_keep_alive_s: Seconds of silence, > 0, after which a streamed response sends a comment.
      allowed_hosts: Host header names that a server without keys accepts, in addition to localhost,
        addresses and, with no_auth, the machine's own name; "*": any.
      shared_cache: Share cached prefixes between API keys. Usage and response times then reveal
        prompts of other keys.
      cors_origins: Origins whose pages may call the server, as scheme://host:port; "*": all.
      tls_certificate: PEM file; enables TLS.
      tls_key: PEM file.
      data_dir: Folder of batch jobs and their files. None: batch jobs are disabled.
      strict_fields: Refuse fields of requests that would be accepted without effect.
      log_prompts: Write prompts and outputs to the log.
      spm_infill: Place the suffix before the prefix in prompts to fill in the middle.

    Raises:
      InvalidRequestError: A value is out of range.
    """

    host: str = "localhost"
    port: int = 8000
    no_auth: bool = False
    default_max_tokens: int = 2048
    limits: Limits = field(default_factory=Limits)
    request_timeout_s: float | None = None
    drain_timeout_s: float = 30
    stream_start_s: float = 2
    stream_keep_alive_s: float = 10
    cors_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    shared_cache: bool = False
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    data_dir: Path | None = None
    strict_fields: bool = False
    log_prompts: bool = False
    spm_infill: bool = False

    def __post_init__(self) -> None:
        for name, good, rule in (
            ("port", 0 <= self.port <= 65535, "in [0, 65535]"),
            ("default_max_tokens", self.default_max_tokens >= 1, ">= 1"),
            ("drain_timeout_s", self.drain_timeout_s >= 0, ">= 0"),
            ("stream_start_s", self.stream_start_s >= 0, ">= 0"),
            ("stream_keep_alive_s", self.stream_keep_alive_s > 0, "> 0"),
            ("request_timeout_s", (self.request_timeout_s or 1) > 0, "> 0"),
        ):
            if not good:
                raise InvalidRequestError(f"{name} must be {rule}; got {getattr(self, name)}")
        for origin in self.cors_origins:
            if origin not in ("*", "null") and not _ORIGIN.fullmatch(origin):
                raise InvalidRequestError(
                    "a CORS origin must be scheme://host or scheme://host:port in lower case "
                    f"without a path; got {origin!r}"
                )
        for host in self.allowed_hosts:
            if host != "*" and not _HOST_NAME.fullmatch(host):
                raise InvalidRequestError(
                    f"an allowed host must be a name without scheme and port; got {host!r}"
                )
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise InvalidRequestError(
                "tls_certificate and tls_key must be set together; got one of them"
            )

    def require_guarded(self, has_keys: bool) -> None:
        """Raises InvalidRequestError if other machines could use the server without a key."""
        if has_keys or self.no_auth or is_this_machine(self.host):
            return
        raise InvalidRequestError(
            f"host {self.host} accepts requests from other machines, which requires API keys "
            "(--api-keys) or --no-auth"
        )


def is_this_machine(host: str) -> bool:
    """Whether a listening address is reachable from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
