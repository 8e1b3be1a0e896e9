"""Who may reach a server: keys, addresses, TLS and other origins."""

from __future__ import annotations

import json
import ssl
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from llamaherd import InvalidRequestError
from llamaherd.server import ServerSettings
from llamaherd.server.keys import ApiKey, KeyRing, digest_of, new_key
from serving import serve

ENDLESS: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Count."}],
    "max_tokens": 3000,
    "ignore_eos": True,
}
ASK: dict[str, Any] = {**ENDLESS, "max_tokens": 3}


def test_keys_open_the_server_to_those_who_have_one(model_path: Path, tmp_path: Path) -> None:
    key = new_key()
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
        ('[{"name": "a", "key": "x"}]', "a key has"),
        (json.dumps([{"name": "a", "hash": "0" * 64, "weight": 0}]), "out of range"),
        (json.dumps([{"name": "a", "hash": "0" * 64, "priority": -1}]), "out of range"),
        (json.dumps([{"name": "a", "hash": "0" * 64}] * 2), "must differ"),
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
        ServerSettings(host=host, open_access=True).require_guarded(False)
    for host in ("127.0.0.1", "::1", "localhost"):
        ServerSettings(host=host).require_guarded(False)
    for options, expected in (
        ({"port": 70000}, "port"),
        ({"drain_s": -1}, "drain_s"),
        ({"default_max_tokens": 0}, "default_max_tokens"),
        ({"tls_key": Path("k")}, "go together"),
    ):
        with pytest.raises(InvalidRequestError, match=expected):
            ServerSettings(**options)  # type: ignore[arg-type]


def test_tls_and_cors(model_path: Path, tmp_path: Path) -> None:
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out"]
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
