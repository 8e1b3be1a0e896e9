"""Pages of other origins: preflights, and the headers that they may read."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from llamaherd.server import ModelPool, ModelSpec, ServerSettings, create_app
from llamaherd.server.access.api_keys import ApiKey, KeyRing, digest_of

PAGE = "https://page.example"
# What openai's JavaScript client sends from a browser.
SDK_HEADERS = (
    "authorization,content-type,idempotency-key,openai-organization,openai-project,"
    "x-stainless-arch,x-stainless-helper-method,x-stainless-lang,x-stainless-os,"
    "x-stainless-package-version,x-stainless-poll-helper,x-stainless-retry-count,"
    "x-stainless-runtime,x-stainless-runtime-version,x-stainless-timeout"
)
KEYS = KeyRing([ApiKey("team", digest_of("secret"))])


@pytest.fixture(params=[KeyRing(), KEYS], ids=["open", "keys"])
def keys(request: pytest.FixtureRequest) -> KeyRing:
    ring: KeyRing = request.param
    return ring


@pytest.fixture(params=[PAGE, "*"])
async def http(request: pytest.FixtureRequest, keys: KeyRing) -> AsyncIterator[httpx.AsyncClient]:
    """A server that allows one page, or all; no model is loaded."""
    pool = ModelPool([ModelSpec("m", "none.gguf")])
    settings = ServerSettings(cors_origins=(request.param,))
    app = create_app(pool, settings, keys, preload=False)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        http.headers["origin"] = PAGE
        yield http
    await pool.close()


def names(answer: httpx.Response, header: str) -> set[str]:
    return {name.strip().lower() for name in answer.headers[header].split(",")}


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/v1/chat/completions"), ("GET", "/v1/models"), ("DELETE", "/v1/files/x")],
)
async def test_the_preflight_of_an_sdk_passes_without_a_key(
    http: httpx.AsyncClient, method: str, path: str
) -> None:
    asked = {
        "access-control-request-method": method,
        "access-control-request-headers": SDK_HEADERS,
    }
    answer = await http.options(path, headers=asked)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] in (PAGE, "*")
    assert names(answer, "access-control-allow-headers") >= set(SDK_HEADERS.split(","))
    assert method in answer.headers["access-control-allow-methods"]
    assert "access-control-allow-credentials" not in answer.headers


async def test_a_page_reads_the_request_id_and_when_to_try_again(
    http: httpx.AsyncClient, keys: KeyRing
) -> None:
    bearer = {"authorization": "Bearer secret"} if keys else {}
    for path, headers, status in (
        ("/v1/models", bearer, 200),
        ("/v1/models/none", bearer, 404),
        ("/v1/models", {"authorization": "Bearer wrong"}, 401 if keys else 200),
    ):
        answer = await http.get(path, headers=headers)
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] in (PAGE, "*")
        exposed = names(answer, "access-control-expose-headers")
        assert exposed >= {"x-request-id", "retry-after", "x-ratelimit-remaining-requests"}
        assert answer.headers["x-request-id"]


async def test_other_pages_are_refused_as_before() -> None:
    pool = ModelPool([ModelSpec("m", "none.gguf")])
    asked = {
        "origin": "https://other.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": SDK_HEADERS,
    }
    for settings in (ServerSettings(cors_origins=(PAGE,)), ServerSettings()):
        app = create_app(pool, settings, preload=False)
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            preflight = await http.options("/v1/chat/completions", headers=asked)
            assert preflight.status_code in (400, 403)
            assert "access-control-allow-origin" not in preflight.headers
            plain = await http.get("/v1/models", headers={"origin": asked["origin"]})
            assert plain.status_code == 403
            assert "access-control-allow-origin" not in plain.headers
    await pool.close()
