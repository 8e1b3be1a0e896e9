"""Fuzz: any text at any place of a request where a string may be."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_tokenizers
from fastapi import FastAPI
from fuzzing import fuzz
from hypothesis import given
from hypothesis import strategies as st
from llamaherd import EngineConfig
from llamaherd.server import ModelPool, ModelSpec, ServerSettings, create_app
from schema_samples import SchemaSamples
from starlette.testclient import TestClient

TEMPLATE = "{% for m in messages %}<|a|>{{ m.role }}{{ m.content }}{% endfor %}{{ tools }}"
STREAMED = ("/v1/chat/completions", "/v1/completions", "/v1/responses")
MARK = "\x01mark\x01"
SURROGATES = ["\ud800", "a\udfff", "\udc80b"]
NASTY = [
    *SURROGATES,
    *("", "\x00", "a\x00b", "\u202eab", "😀\u200d😀", "\ufeffa", "\uffff", "日本", "e\u0301"),
    *("a" * 20_000, "😀" * 5_000, "[" * 3_000, "{%- x %}{{", "\\ud800", '"', "<|a|>", "\n\r\t "),
    *("-1", "1e999", "null", "../..", "%s%n", "\x1b[31m"),
]
texts = st.sampled_from(NASTY) | st.text(max_size=12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("strings")


def app_of(folder: Path) -> FastAPI:
    path = tiny_tokenizers.write(tiny_tokenizers.bpe(), folder / "m.gguf")
    config = EngineConfig(n_ctx=256, max_seqs=2, n_threads=1, warmup=False, chat_template=TEMPLATE)
    settings = ServerSettings(data_dir=folder / "data", default_max_tokens=2)
    return create_app(ModelPool([ModelSpec("m", str(path), config)]), settings)


@pytest.fixture(scope="module")
def http(folder: Path) -> Iterator[TestClient]:
    with TestClient(app_of(folder), "http://127.0.0.1", raise_server_exceptions=False) as http:
        yield http


def places() -> list[tuple[str, str]]:
    """Paths with bodies that hold MARK at one place each."""
    app = create_app(ModelPool([ModelSpec("m", "m.gguf")]), preload=False)
    document = app.openapi()
    samples = SchemaSamples(document)
    found = []
    for path, methods in document["paths"].items():
        content = methods.get("post", {}).get("requestBody", {}).get("content", {})
        if "application/json" not in content:
            continue
        schema = content["application/json"]["schema"]
        few: dict[str, Any] = {}
        for name in ("max_tokens", "max_output_tokens"):
            if name in samples.resolved(schema)["properties"]:
                few[name] = 2
        bodies = samples.with_text(schema, MARK)
        found += [(path, json.dumps({**body, **few})) for body in bodies]
    return found


PLACES = places()


def answered(http: TestClient, path: str, body: str, text: str) -> int:
    content = body.replace(json.dumps(MARK), json.dumps(text)).encode()
    answer = http.post(path, content=content, headers={"content-type": "application/json"})
    assert answer.status_code < 500, answer.text
    assert '"server_error"' not in answer.text
    if answer.status_code >= 400:
        assert 0 < len(answer.json()["error"]["message"]) < 2100
    return answer.status_code


def test_there_are_places_in_every_body() -> None:
    assert len({path for path, _ in PLACES}) >= 9
    assert len(PLACES) > 150


@fuzz
@given(place=st.sampled_from(PLACES), text=texts, streams=st.booleans())
def test_no_text_is_an_error_of_the_server(
    http: TestClient, place: tuple[str, str], text: str, streams: bool
) -> None:
    path, body = place
    if streams and path in STREAMED:
        body = json.dumps({**json.loads(body), "stream": True})
    answered(http, path, body, text)


@pytest.mark.parametrize("text", SURROGATES[:1])
def test_a_lone_surrogate_is_refused_at_every_place(http: TestClient, text: str) -> None:
    for path, body in PLACES:
        assert answered(http, path, body, text) == 400, body


@fuzz
@given(text=st.sampled_from([*NASTY, "%ED%A0%80", "%FF", "%00", "%"]) | st.text(max_size=8))
def test_no_text_in_an_address_or_a_form_is_an_error_of_the_server(
    http: TestClient, text: str
) -> None:
    name = "".join(f"%{byte:02X}" for byte in text.encode(errors="surrogatepass")[:2000])
    for address in (
        f"/v1/models/{name}",
        f"/v1/files/{name}",
        f"/v1/files/{name}/content",
        f"/v1/batches/{name}",
        f"/v1/batches?after={name}",
        f"/v1/batches?limit={name}",
        f"/v1/files?purpose={name}&after={name}",
        f"/v1/files?order={name}",
        f"/{name}",
    ):
        assert http.get(address).status_code < 500, address
    given = text.encode(errors="surrogatepass")[:2000].replace(b"\r", b"").replace(b"\n", b"")
    for field, filename in ((b"purpose", given), (given, b"a.jsonl")):
        form = (
            b'--x\r\ncontent-disposition: form-data; name="file"; filename="%b"\r\n\r\n{}\r\n'
            b'--x\r\ncontent-disposition: form-data; name="%b"\r\n\r\n%b\r\n--x--\r\n'
        ) % (filename, field, given)
        headers = {"content-type": "multipart/form-data; boundary=x"}
        assert http.post("/v1/files", content=form, headers=headers).status_code < 500
