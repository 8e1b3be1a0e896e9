"""A model hub on the loopback interface: what huggingface_hub needs to download files."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Request(NamedTuple):
    """What a client asked for."""

    method: str
    path: str
    byte_range: str | None
    authorization: str | None


@dataclass
class Repo:
    """A model repository.

    Args:
      commits: Commit hash -> path -> content.
      branches: Branch or tag -> commit hash.
      gated: Whether only token may download.
      token: The token that a gated or private repository asks for.
      private: Whether those without token do not get to know that the repository exists.
    """

    commits: dict[str, dict[str, bytes]]
    branches: dict[str, str]
    gated: bool = False
    private: bool = False
    token: str | None = None


@dataclass
class HubStandIn:
    """Serves repositories for as long as it is entered.

    Args:
      repos: Repository id -> repository.
      break_after: The next download's connection is cut after so many bytes. None: never.
      down: Whether every request is answered with 503.
    """

    repos: dict[str, Repo] = field(default_factory=dict)
    break_after: int | None = None
    down: bool = False
    requests: list[Request] = field(default_factory=list)

    def add(self, repo: str, files: dict[str, bytes], **options: Any) -> Repo:
        """Adds a repository with one commit, on main."""
        self.repos[repo] = Repo({COMMIT: files}, {"main": COMMIT}, **options)
        return self.repos[repo]

    def gets(self, ending: str = "") -> list[Request]:
        """The downloads asked for so far of paths with that ending."""
        return [r for r in self.requests if r.method == "GET" and r.path.endswith(ending)]

    @property
    def endpoint(self) -> str:
        """What HF_ENDPOINT must be."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> HubStandIn:
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    """Answers one client."""

    hub: HubStandIn
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        """Stays silent."""

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path).lstrip("/")
        authorization = self.headers.get("Authorization")
        self.hub.requests.append(
            Request(self.command, path, self.headers.get("Range"), authorization)
        )
        if self.hub.down:
            return self._refuse(503, "")
        repo_id, _, rest = path.partition("/resolve/")
        revision, _, file = rest.partition("/")
        repo = self.hub.repos.get(repo_id)
        granted = repo is not None and authorization == f"Bearer {repo.token}"
        if repo is None or (repo.private and not granted):
            return self._refuse(401 if authorization is None else 404, "RepoNotFound")
        if repo.gated and not granted:
            return self._refuse(401 if authorization is None else 403, "GatedRepo")
        commit = repo.branches.get(revision, revision)
        if commit not in repo.commits:
            return self._refuse(404, "RevisionNotFound")
        if file not in repo.commits[commit]:
            return self._refuse(404, "EntryNotFound", commit)
        return self._send(repo.commits[commit][file], commit)

    def _refuse(self, status: int, code: str, commit: str | None = None) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        if commit is not None:
            self.send_header("X-Repo-Commit", commit)
        self.end_headers()

    def _send(self, content: bytes, commit: str) -> None:
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", commit)
        self.end_headers()
        if self.command == "HEAD":
            return
        cut, self.hub.break_after = self.hub.break_after, None
        self.wfile.write(content[start:] if cut is None else content[start : start + cut])
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True
