"""Origin and Host checks that protect a server without API keys from web pages."""

from __future__ import annotations

import ipaddress
import re
import socket

from starlette.types import Scope

from llamaherd.server.common.errors import ApiError
from llamaherd.server.common.settings import ServerSettings, is_this_machine

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{0,5})?", re.IGNORECASE)
# Static files of the web UI: public, so other pages may link to them.
_PAGES = ("/", "/dashboard")


class BrowserOrigins:
    """Rejects cross-origin requests sent by browsers.

    DNS rebinding is detected by the Host header: only names that no other site can own are
    accepted.
    Cross-origin forms are detected by Origin or Sec-Fetch-Site. Clients other than browsers send
    neither header.

    Args:
      settings: allowed_hosts, cors_origins, host.
      has_keys: Disables the checks: a browser does not add API keys by itself.
    """

    def __init__(self, settings: ServerSettings, *, has_keys: bool) -> None:
        self._has_keys = has_keys
        self._origins = set(settings.cors_origins)
        self._hosts = {host.lower() for host in settings.allowed_hosts} | {"localhost"}
        self._only_loopback = is_this_machine(settings.host)
        if not self._only_loopback:
            self._hosts |= {settings.host.lower(), socket.gethostname().lower()}

    def require_own(self, scope: Scope) -> None:
        """Raises ApiError if a request is rejected (403; 400 if the Host header is invalid)."""
        if self._has_keys:
            return
        headers = [(name.lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        hosts = [value for name, value in headers if name == b"host"]
        self._require_host(hosts, scope["http_version"])
        if "*" in self._origins:
            return
        values = dict(headers)
        origin = values.get(b"origin")
        if origin is not None:
            if origin not in self._origins and not _is_of_host(origin, hosts):
                raise _cross_origin_error(f"origin {origin[:100]!r}")
            return
        site = values.get(b"sec-fetch-site", "none")
        follows_link = values.get(b"sec-fetch-mode") == "navigate" and scope["method"] == "GET"
        if site not in ("same-origin", "none") and not (follows_link and scope["path"] in _PAGES):
            raise _cross_origin_error(f"a page of another origin (Sec-Fetch-Site {site[:20]!r})")

    def _require_host(self, hosts: list[str], http_version: str) -> None:
        if not hosts and http_version != "1.1":
            return
        if len(hosts) != 1 or not _HOST.fullmatch(hosts[0]):
            raise ApiError(
                400,
                f"a request must have one Host header with a name or address; got {hosts!r:.200}",
            )
        name = hosts[0].lower()
        name = name[: name.index("]") + 1] if name[0] == "[" else name.partition(":")[0]
        if not self._is_own(name.rstrip(".")):
            raise ApiError(
                403,
                f"host {name[:100]!r} is not allowed; allow it with --allowed-host NAME",
                code="host_not_allowed",
            )

    def _is_own(self, name: str) -> bool:
        if name in self._hosts or "*" in self._hosts:
            return True
        try:
            address = ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        # A page whose host is an IP address was served by that address.
        return address.is_loopback or not self._only_loopback


def _is_of_host(origin: str, hosts: list[str]) -> bool:
    """Ignores the scheme: a reverse proxy may terminate TLS."""
    _, separator, host = origin.partition("://")
    return bool(separator) and [host.lower()] == [own.lower() for own in hosts]


def _cross_origin_error(what: str) -> ApiError:
    return ApiError(
        403,
        f"requests from {what} are not allowed; allow a page with --cors-origin ORIGIN, or set "
        "API keys",
        code="origin_not_allowed",
    )
