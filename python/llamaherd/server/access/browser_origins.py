"""Which pages of browsers may ask a server that has no keys."""

from __future__ import annotations

import ipaddress
import re
import socket

from starlette.types import Scope

from llamaherd.server.common.errors import ApiError
from llamaherd.server.common.settings import ServerSettings, is_this_machine

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{0,5})?", re.IGNORECASE)
# What the pages consist of: the same for everybody, so another page may link to it.
_PAGES = ("/", "/dashboard")


class Origins:
    """Refuses requests that a page of another origin makes a browser send.

    A page whose name was bound to this server's address (DNS rebinding) sends its own name as Host:
    accepted are names that no other page can have. A page that posts a form to the server's address
    is told by Origin or Sec-Fetch-Site. Programs other than browsers send neither.

    Args:
      settings: allowed_hosts, cors_origins, host.
      has_keys: Then nothing is refused here: a browser sends no key by itself.
    """

    def __init__(self, settings: ServerSettings, *, has_keys: bool) -> None:
        self._has_keys = has_keys
        self._origins = set(settings.cors_origins)
        self._hosts = {host.lower() for host in settings.allowed_hosts} | {"localhost"}
        self._only_loopback = is_this_machine(settings.host)
        if not self._only_loopback:
            self._hosts |= {settings.host.lower(), socket.gethostname().lower()}

    def require_own(self, scope: Scope) -> None:
        """Raises ApiError (403, or 400 for a Host that is none) if a request must not pass."""
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
                raise _foreign(f"origin {origin[:100]!r}")
            return
        site = values.get(b"sec-fetch-site", "none")
        follows_link = values.get(b"sec-fetch-mode") == "navigate" and scope["method"] == "GET"
        if site not in ("same-origin", "none") and not (follows_link and scope["path"] in _PAGES):
            raise _foreign(f"a page of another origin (Sec-Fetch-Site {site[:20]!r})")

    def _require_host(self, hosts: list[str], http_version: str) -> None:
        if not hosts and http_version != "1.1":
            return
        if len(hosts) != 1 or not _HOST.fullmatch(hosts[0]):
            raise ApiError(
                400, f"there must be one Host header, a name or address; got {hosts!r:.200}"
            )
        name = hosts[0].lower()
        name = name[: name.index("]") + 1] if name[0] == "[" else name.partition(":")[0]
        if not self._is_own(name.rstrip(".")):
            raise ApiError(
                403,
                f"host {name[:100]!r} is not one of this server's; --allowed-host NAME allows it",
                code="host_not_allowed",
            )

    def _is_own(self, name: str) -> bool:
        if name in self._hosts or "*" in self._hosts:
            return True
        try:
            address = ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        # No page can have an address as its name but one that this address has served.
        return address.is_loopback or not self._only_loopback


def _is_of_host(origin: str, hosts: list[str]) -> bool:
    """The scheme does not count: a proxy may speak TLS in front of the server."""
    _, separator, host = origin.partition("://")
    return bool(separator) and [host.lower()] == [own.lower() for own in hosts]


def _foreign(what: str) -> ApiError:
    return ApiError(
        403,
        f"requests of {what} are not accepted; --cors-origin ORIGIN allows those of a page, and so "
        "do API keys",
        code="origin_not_allowed",
    )
