"""Who may reach a server: keys, addresses, TLS and other origins."""

from __future__ import annotations

import json
import ssl
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from llamaherd import InvalidRequestError
from llamaherd.server import ServerSettings
from llamaherd.server.access.api_keys import ApiKey, KeyRing, digest_of, generate_key
from llamaherd.server.access.browser_origins import BrowserOrigins
from llamaherd.server.common.errors import ApiError
from llamaherd.server.routes.request_options import cache_salt
from serving import serve

ENDLESS: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Count."}],
    "max_tokens": 3000,
    "ignore_eos": True,
}
ASK: dict[str, Any] = {**ENDLESS, "max_tokens": 3}


def test_keys_open_the_server_to_those_who_have_one(model_path: Path, tmp_path: Path) -> None:
    key = generate_key()
    entry = {"name": "team", "hash": digest_of(key), "max_running": 1, "priority": 5}
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps([entry]))
    options = ("--api-keys", str(keys), "--n-ctx", "4096")
    with serve(model_path, options=options, keys="first,second") as served:
        with httpx.Client(base_url=served.url, timeout=60) as http:

            def ask(key: str, **fields: Any) -> httpx.Response:
                headers = {"authorization": f"Bearer {key}"} if key else {}
                return http.post("/v1/chat/completions", json={**ASK, **fields}, headers=headers)

            for wrong in ("", "wrong", "first,second", entry["hash"]):
                answer = ask(str(wrong))
                assert answer.status_code == 401
                assert answer.json()["error"]["code"] == "invalid_api_key"
            assert http.get("/v1/models").status_code == 401
            assert http.get("/metrics").status_code == 401
            assert http.get("/health").status_code == 200
            assert ask("first").status_code == ask("second").status_code == 200
            assert ask(key, priority=0).status_code == 200
            headers = {"authorization": f"Bearer {key}"}
            with http.stream(
                "POST",
                "/v1/chat/completions",
                json={**ENDLESS, "stream": True},
                headers=headers,
            ) as running:
                pieces = running.iter_bytes()  # whose end would be the connection's
                next(pieces)
                answer = ask(key)
                assert answer.status_code == 429
                assert int(answer.headers["retry-after"]) >= 1
        assert not any(key in line for line in served.lines)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "cannot be read"),
        ("{}", "must hold a list"),
        ('[{"name": "a"}]', "SHA-256"),
        ('[{"name": "", "hash": "x"}]', "not empty"),
        ('[{"name": "a", "key": "x"}]', "a key must be an object"),
        (json.dumps([{"name": "a", "hash": "0" * 64, "weight": 0}]), "must be in"),
        (json.dumps([{"name": "a", "hash": "0" * 64, "priority": -1}]), "must be in"),
        (json.dumps([{"name": "a", "hash": "0" * 64}] * 2), "must be unique"),
        ("[]", "holds no key"),
        (json.dumps([{"name": "a", "hash": digest_of("")}]), "of an empty key"),
        (json.dumps([{"name": "a\n", "hash": "0" * 64}]), "printable"),
        (json.dumps([{"name": "\ud800", "hash": "0" * 64}]), "printable"),
        (json.dumps([{"name": "ä" * 129, "hash": "0" * 64}]), "256 bytes"),
        (json.dumps([{"name": "a", "hash": "0" * 64, "weight": float("nan")}]), "must be in"),
        (json.dumps([{"name": "a", "hash": "0" * 64, "priority": 101}]), "must be in"),
        (json.dumps([{"name": "a", "hash": "0" * 64, "max_running": 0}]), "must be in"),
    ],
)
def test_a_bad_file_of_keys_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(text)
    with pytest.raises(InvalidRequestError, match=expected):
        KeyRing.load(path, {})


def test_a_key_is_found_by_bearer_only() -> None:
    ring = KeyRing([ApiKey("a", digest_of("k"), weight=2)])
    assert ring.find("Bearer k") is ring.keys[0]
    assert ring.find("bearer  k") is ring.keys[0]
    assert ring.find("Basic k") is None
    assert ring.weights == {"a": 2}


def test_wider_than_this_machine_only_with_keys_or_said_so() -> None:
    for host in ("0.0.0.0", "::", "192.168.1.4", "example.org"):
        with pytest.raises(InvalidRequestError, match="other machines"):
            ServerSettings(host=host).require_guarded(False)
        ServerSettings(host=host).require_guarded(True)
        ServerSettings(host=host, no_auth=True).require_guarded(False)
    for host in ("127.0.0.1", "::1", "localhost"):
        ServerSettings(host=host).require_guarded(False)
    for options, expected in (
        ({"port": 70000}, "port"),
        ({"drain_timeout_s": -1}, "drain_timeout_s"),
        ({"default_max_tokens": 0}, "default_max_tokens"),
        ({"tls_key": Path("k")}, "must be set together"),
    ):
        with pytest.raises(InvalidRequestError, match=expected):
            ServerSettings(**options)  # type: ignore[arg-type]


def test_tls_and_cors(model_path: Path, tmp_path: Path) -> None:
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out"]
    subprocess.run([*command.split(), *names, str(certificate)], check=True, capture_output=True)
    options = ("--tls-certificate", str(certificate), "--tls-key", str(key), "--n-ctx", "2048")
    with serve(model_path, options=(*options, "--cors-origin", "https://a.example")) as served:
        assert served.url.startswith("https://")
        trusted = ssl.create_default_context(cafile=str(certificate))
        with httpx.Client(base_url=served.url, verify=trusted, timeout=60) as http:
            answer = http.get("/v1/models", headers={"origin": "https://a.example"})
            assert answer.headers["access-control-allow-origin"] == "https://a.example"
            answer = http.get("/v1/models", headers={"origin": "https://b.example"})
            assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "variable", [",", " ", " , ,", "\n", "sk-a b", "sk-ä", "sk-a,sk-\x00", "sk-a,sk-b,sk-a"]
)
def test_a_bad_variable_of_keys_is_refused(variable: str) -> None:
    with pytest.raises(InvalidRequestError):
        KeyRing.load(None, {"LLAMAHERD_API_KEYS": variable})


def test_blanks_between_keys_are_no_keys(tmp_path: Path) -> None:
    ring = KeyRing.load(None, {"LLAMAHERD_API_KEYS": " sk-real, ,\tsk-other ,"})
    assert len(ring.keys) == 2
    assert ring.find("Bearer sk-real")
    assert ring.find("Bearer sk-other")
    for header in ("", "Bearer", "Bearer ", "Bearer  ", "Bearer ,", "Bearer \t", "Bearer \xa0"):
        assert ring.find(header) is None, header
    assert not KeyRing.load(None, {"LLAMAHERD_API_KEYS": ""})
    path = tmp_path / "keys.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps([{"name": "a", "hash": digest_of("k")}]).encode())
    assert KeyRing.load(path, {}).find("Bearer k")


def test_one_key_has_one_name(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps([{"name": "a", "hash": digest_of("k")}]))
    with pytest.raises(InvalidRequestError, match="are one key"):
        KeyRing.load(path, {"LLAMAHERD_API_KEYS": "k"})


def test_no_key_though_keys_were_asked_for_keeps_the_server_from_starting(
    model_path: Path,
) -> None:
    with serve(model_path, keys=" , ") as served:
        assert served.process.wait(120) != 0
        served.logged("LLAMAHERD_API_KEYS is set but holds no key")


def scope_of(*headers: tuple[str, str], path: str = "/v1/models", **fields: Any) -> dict[str, Any]:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    return {"headers": raw, "http_version": "1.1", "method": "GET", "path": path, **fields}


@pytest.mark.parametrize(
    "host",
    ["localhost", "LocalHost:8000", "127.0.0.1:1", "127.9.8.7", "[::1]:8000", "localhost.", "::1"],
)
def test_loopback_names_are_own(host: str) -> None:
    origins = BrowserOrigins(ServerSettings(), has_keys=False)
    if host == "::1":  # an address without brackets is no Host
        with pytest.raises(ApiError) as refused:
            origins.require_own(scope_of(("host", host)))
        assert refused.value.status == 400
        return
    origins.require_own(scope_of(("host", host)))
    origins.require_own(scope_of(("host", host), ("origin", f"http://{host}".lower())))


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example:8000", 403),
        ("192.168.1.4", 403),
        ("0.0.0.0:8000", 403),
        ("[::]", 403),
        ("[::1", 400),
        ("", 400),
        ("localhost:x", 400),
        ("localhost@evil.example", 400),
        ("localhost/", 400),
    ],
)
def test_other_names_are_refused(host: str, status: int) -> None:
    with pytest.raises(ApiError) as refused:
        BrowserOrigins(ServerSettings(), has_keys=False).require_own(scope_of(("host", host)))
    assert refused.value.status == status
    if status == 403:
        assert "--allowed-host" in refused.value.message
    BrowserOrigins(ServerSettings(), has_keys=True).require_own(scope_of(("host", host)))


def test_there_is_one_host() -> None:
    origins = BrowserOrigins(ServerSettings(), has_keys=False)
    for headers in ((), (("host", "localhost"), ("Host", "localhost"))):
        with pytest.raises(ApiError) as refused:
            origins.require_own(scope_of(*headers))
        assert refused.value.status == 400
    origins.require_own(scope_of(http_version="1.0"))
    with pytest.raises(ApiError):
        origins.require_own(scope_of(("origin", "null"), http_version="1.0"))


def test_open_servers_go_by_addresses_and_names_that_were_allowed() -> None:
    settings = ServerSettings(host="0.0.0.0", no_auth=True, allowed_hosts=("herd.lan",))
    origins = BrowserOrigins(settings, has_keys=False)
    for host in ("192.168.1.4:8000", "[fe80::1]", "Herd.lan:8000", "localhost"):
        origins.require_own(scope_of(("host", host)))
    with pytest.raises(ApiError, match="--allowed-host"):
        origins.require_own(scope_of(("host", "evil.example")))
    anything = ServerSettings(host="0.0.0.0", no_auth=True, allowed_hosts=("*",))
    BrowserOrigins(anything, has_keys=False).require_own(scope_of(("host", "evil.example")))


HOST = ("host", "127.0.0.1:8000")


@pytest.mark.parametrize(
    ("headers", "path", "passes"),
    [
        ([("origin", "http://127.0.0.1:8000")], "/v1/files", True),
        ([("origin", "https://127.0.0.1:8000")], "/v1/files", True),
        ([("origin", "https://a.example")], "/v1/files", True),
        ([("origin", "https://a.example"), ("sec-fetch-site", "cross-site")], "/v1/files", True),
        ([("origin", "http://127.0.0.1:3000")], "/v1/files", False),
        ([("origin", "http://localhost:8000")], "/v1/files", False),
        ([("origin", "https://b.example")], "/v1/files", False),
        ([("origin", "null")], "/v1/files", False),
        ([("origin", "")], "/v1/files", False),
        ([("sec-fetch-site", "same-origin")], "/v1/models", True),
        ([("sec-fetch-site", "none")], "/v1/models", True),
        ([("sec-fetch-site", "cross-site")], "/v1/models", False),
        ([("sec-fetch-site", "same-site")], "/v1/models", False),
        ([("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")], "/v1/models", False),
        ([("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")], "/", True),
        ([("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")], "/", False),
    ],
)
def test_pages_of_other_origins_are_refused(
    headers: list[tuple[str, str]], path: str, passes: bool
) -> None:
    settings = ServerSettings(cors_origins=("https://a.example",))
    scope = scope_of(HOST, *headers, path=path)
    BrowserOrigins(settings, has_keys=True).require_own(scope)
    BrowserOrigins(ServerSettings(cors_origins=("*",)), has_keys=False).require_own(scope)
    origins = BrowserOrigins(settings, has_keys=False)
    if passes:
        origins.require_own(scope)
        return
    with pytest.raises(ApiError, match="--cors-origin") as refused:
        origins.require_own(scope)
    assert (refused.value.status, refused.value.code) == (403, "origin_not_allowed")


@pytest.mark.parametrize(
    "options",
    [
        {"cors_origins": ("https://a.example/",)},
        {"cors_origins": ("a.example",)},
        {"cors_origins": ("https://A.example",)},
        {"allowed_hosts": ("http://a.example",)},
        {"allowed_hosts": ("a.example:80",)},
        {"allowed_hosts": ("",)},
    ],
)
def test_origins_and_hosts_have_a_form(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError, match="must be"):
        ServerSettings(**options)


def test_a_server_refuses_other_pages_and_keeps_ids_clean(model_path: Path) -> None:
    form = {"file": ("x", b"x")}
    with (
        serve(model_path, options=("--n-ctx", "2048")) as served,
        httpx.Client(base_url=served.url, timeout=60) as http,
    ):
        rebound = http.get("/v1/models", headers={"host": "evil.example:8000"})
        foreign = http.post("/v1/files", files=form, headers={"origin": "https://evil.example"})
        for answer, code in ((rebound, "host_not_allowed"), (foreign, "origin_not_allowed")):
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, code)
            assert answer.json()["error"]["type"] == "permission_error"
        for given in (b"a" * 129, b"a b", b"\x9b31m", b"a\xff", b'"', b""):
            headers = [(b"x-request-id", given)]
            made = http.get("/health", headers=headers).headers["x-request-id"]
            assert made.startswith("req-")
        assert http.get("/health", headers={"x-request-id": "a-B.9_"}).headers["x-request-id"] == (
            "a-B.9_"
        )
        served.logged('"request_id": "a-B.9_"')
        assert not any("\x9b" in line for line in served.lines)


def n_cached(url: str, key: str, salt: str) -> int:
    body = {**ASK, "cache_salt": salt, "max_tokens": 1}
    answer = httpx.post(
        url + "/v1/chat/completions",
        json=body,
        headers={"authorization": f"Bearer {key}"},
        timeout=60,
    )
    usage: dict[str, Any] = answer.json()["usage"]
    return int(usage["prompt_tokens_details"]["cached_tokens"])


def n_cached_in_batch(url: str, key: str, salt: str) -> int:
    """The same of a batch of one line."""
    headers = {"authorization": f"Bearer {key}"}
    path = "/v1/chat/completions"
    body = {**ASK, "cache_salt": salt, "max_tokens": 1}
    line = {"custom_id": "1", "method": "POST", "url": path, "body": body}
    with httpx.Client(base_url=url, headers=headers, timeout=60) as http:
        form = {"file": ("x.jsonl", json.dumps(line).encode())}
        file = http.post("/v1/files", files=form, data={"purpose": "batch"}).json()
        asked = {"input_file_id": file["id"], "endpoint": path, "completion_window": "1h"}
        batch = http.post("/v1/batches", json=asked).json()
        deadline = time.monotonic() + 60
        while batch["status"] != "completed":
            assert time.monotonic() < deadline, batch
            time.sleep(0.1)
            batch = http.get(f"/v1/batches/{batch['id']}").json()
        output = http.get(f"/v1/files/{batch['output_file_id']}/content").json()
    usage = output["response"]["body"]["usage"]
    return int(usage["prompt_tokens_details"]["cached_tokens"])


def test_tenants_share_a_cache_only_if_it_is_said(model_path: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    names = {"a": "k1", "ab": "k2"}
    entries = [{"name": name, "hash": digest_of(key)} for name, key in names.items()]
    keys.write_text(json.dumps(entries))
    options = ("--api-keys", str(keys), "--n-ctx", "4096")
    data = ("--data-dir", str(tmp_path / "data"))
    with serve(model_path, options=(*options, *data)) as served:
        assert n_cached(served.url, "k1", "bc") == 0
        assert n_cached(served.url, "k1", "bc") > 0
        for key, salt in (("k2", "c"), ("k2", "bc"), ("k2", ""), ("k1", ""), ("k1", "1:abc")):
            assert n_cached(served.url, key, salt) == 0, (key, salt)
        assert n_cached_in_batch(served.url, "k1", "bc") > 0
        assert n_cached_in_batch(served.url, "k2", "1:abc") == 0
    with serve(model_path, options=(*options, "--shared-cache")) as served:
        assert n_cached(served.url, "k1", "x") == 0
        assert n_cached(served.url, "k2", "x") > 0
        assert n_cached(served.url, "k2", "") == 0


def test_a_tenant_sees_of_others_how_many_requests_run(model_path: Path) -> None:
    with (
        serve(model_path, options=("--n-ctx", "4096"), keys="k1,k2") as served,
        httpx.Client(base_url=served.url, timeout=60) as http,
    ):
        bearer = {key: {"authorization": f"Bearer {key}"} for key in ("k1", "k2")}
        body = {**ENDLESS, "stream": True}
        url = "/v1/chat/completions"
        with http.stream("POST", url, json=body, headers=bearer["k1"]) as running:
            pieces = running.iter_bytes()  # dropping it would end the request
            next(pieces)
            seen = {key: http.get("/pages/state", headers=bearer[key]).json() for key in bearer}
        (model,) = seen["k1"]["models"]
        assert [len(seen[key]["requests"]) for key in bearer] == [1, 0]
        assert [seen[key]["models"][model]["n_other_requests"] for key in bearer] == [0, 1]


def test_salts_of_tenants_are_unambiguous() -> None:
    tenants = ["a", "ab", "1", "1:a", "2:ab", ":", ""]
    salts = ["", "a", "b", "bc", "c", "1:a", ":a", "2:ab"]
    settings = ServerSettings()
    made = {
        cache_salt(salt, ApiKey(tenant), settings) for tenant in tenants if tenant for salt in salts
    }
    assert len(made) == len(salts) * (len(tenants) - 1)
