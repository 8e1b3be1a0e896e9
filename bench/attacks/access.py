"""Cross-site requests, foreign host names, path traversal, endless uploads."""

from __future__ import annotations

from attacks.attack import (
    CHAT,
    COMPLETIONS,
    EITHER,
    JSON,
    OK,
    Attack,
    Client,
    Send,
    as_json,
    chat,
    completion,
)

FORBIDDEN = frozenset({400, 403, 421})
FILES, BOUNDARY = "/v1/files", "xxBOUNDARYxx"
FORM = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
QUOTA = frozenset({200, 403, 404, 413})  # 404: the server has no data folder


def form(content: bytes, name: str = "file", purpose: str = "batch") -> bytes:
    head = f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="{name}"; filename="a"\r\n\r\n'
    end = (
        f'\r\n--{BOUNDARY}\r\ncontent-disposition: form-data; name="purpose"\r\n\r\n{purpose}'
        f"\r\n--{BOUNDARY}--\r\n"
    )
    return head.encode() + content + end.encode()


def asking(method: str, path: str, content: bytes | None, **headers: str) -> Send:
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    async def send(client: Client) -> int:
        return await client.ask(method, path, content, {**JSON, **named})

    return send


def cross_site(name: str, path: str, content: bytes, kind: str) -> Attack:
    send = asking(
        "POST",
        path,
        content,
        origin="https://evil.example",
        sec_fetch_site="cross-site",
        content_type=kind,
    )
    return Attack(f"another site's page: {name}", "access", send, FORBIDDEN)


def outside(path: str) -> Attack:
    async def send(client: Client) -> int:
        line = f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n"
        return await client.raw(line.encode())

    return Attack(f"GET {path}", "access", send, frozenset({400, 403, 404, 405}))


async def upload(client: Client) -> int:
    return await client.ask("POST", FILES, form(b"x" * 20_000_000), FORM)


async def small_uploads(client: Client) -> int:
    return await client.ask("POST", FILES, form(b"{}"), FORM)


def odd_form(name: str, content: bytes, headers: dict[str, str] | None = None) -> Attack:
    async def send(client: Client) -> int:
        return await client.ask("POST", FILES, content, headers or FORM)

    return Attack(f"form: {name}", "files", send, frozenset({400, 404, 413, 403}))


ASK = as_json(chat(max_tokens=2))
LONG_NAME = "x" * 1_000_000

ATTACKS = [
    *(
        Attack(f"host {host}", "access", asking("POST", CHAT, ASK, host=host), FORBIDDEN)
        for host in (
            "evil.example",
            "evil.example:8000",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "[::ffff:1.2.3.4]",
            "127.0.0.1@evil.example",
            "0x7f.1.evil.example",
        )
    ),
    cross_site("JSON", CHAT, ASK, "application/json"),
    cross_site("JSON as text", CHAT, ASK, "text/plain"),
    cross_site(
        "JSON as a form", COMPLETIONS, as_json(completion()), "application/x-www-form-urlencoded"
    ),
    cross_site("a file", FILES, form(b"{}"), FORM["content-type"]),
    Attack(
        "a page of origin null",
        "access",
        asking("POST", CHAT, ASK, origin="null", content_type="text/plain"),
        FORBIDDEN,
    ),
    Attack(
        "another site's page that reads",
        "access",
        asking(
            "GET", "/v1/models", None, origin="https://evil.example", sec_fetch_site="cross-site"
        ),
        FORBIDDEN | OK,  # the page cannot read the response
    ),
    *map(
        outside,
        (
            "/pages/../../../etc/passwd",
            "/pages/..%2f..%2f..%2fetc%2fpasswd",
            "/pages/%2e%2e/app.py",
            "/v1/files/..%2f..%2f..%2fetc%2fpasswd/content",
            "/v1/files/%00/content",
            "/v1/models/..%2f..%2fetc%2fpasswd",
            "/v1/batches/%ff%fe",
            "//evil.example/v1/models",
        ),
    ),
    Attack("files of 20 MB without end", "files", upload, QUOTA, n_clients=4, quick=False),
    Attack("small files without end", "files", small_uploads, QUOTA, n_clients=8),
    odd_form("no end", form(b"x" * 100_000)[:-40]),
    odd_form("100,000 parts", f"--{BOUNDARY}\r\n\r\nx\r\n".encode() * 100_000),
    odd_form("a field of 1 MB", form(b"{}", purpose="x" * 1_000_000)),
    odd_form("a name of 1 MB", form(b"{}", name=LONG_NAME)),
    odd_form("headers without end", f"--{BOUNDARY}\r\n".encode() + b"a: " + b"x" * 3_000_000),
    odd_form(
        "a boundary of 60 KB",
        b"--" + b"x" * 60_000,
        {"content-type": "multipart/form-data; boundary=" + "x" * 60_000},
    ),
    odd_form("no boundary", b"x", {"content-type": "multipart/form-data"}),
    Attack(
        "queries out of range",
        "access",
        asking("GET", "/v1/files?limit=999999999999999999999999&after=%00", None),
        EITHER | {404},
    ),
]
