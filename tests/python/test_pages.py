"""The chat page and the dashboard in a headless Chromium, on a real server."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import pytest
from conftest import skip_or_fail
from llamaherd.server.observability.recent_quantiles import RecentQuantiles
from serving import Served, serve

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

KEY = "sk-of-a-llama"
AUTHORIZED = {"authorization": f"Bearer {KEY}"}
WIDE, NARROW = (1280, 800), (480, 900)
ENDED = r"\d+\stokens · length"
QUESTION = "Tell me a long story about a llama."
BAD = ("error", "warning")
MARKUP = "<img src=x onerror=alert(1)><b>bold</b>"


@pytest.fixture(scope="module")
def served(model_path: Path) -> Iterator[Served]:
    options = ("--n-ctx", "16384", "--max-seqs", "8")
    with serve(f"small={model_path}", options=options, keys=KEY) as served:
        yield served


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        skip_or_fail("playwright is not installed")
    chromium = shutil.which("chromium")
    if chromium is None:
        skip_or_fail("chromium is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(
    browser: Browser,
    url: str,
    *,
    key: str | None = KEY,
    size: tuple[int, int] = WIDE,
    scheme: Any = "light",
    failures: bool = False,
) -> Iterator[Page]:
    """A page that asks nobody but its server, and complains of nothing but failed requests where
    there are some."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme=scheme
    )
    if key is not None:
        context.add_init_script(f"sessionStorage.setItem('llamaherd-key', {json.dumps(key)})")
    page = context.new_page()
    page.set_default_timeout(30_000)
    complaints: list[str] = []
    asked: list[str] = []
    page.on("console", lambda m: complaints.append(m.text) if m.type in BAD else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url)
    yield page
    context.close()
    assert {urlsplit(address)[:2] for address in asked} == {urlsplit(url)[:2]}
    if failures:
        complaints = [text for text in complaints if "Failed to load resource" not in text]
    assert not complaints


def screenshot(page: Page, name: str) -> None:
    folder = os.environ.get("LLAMAHERD_SCREENSHOTS")
    if folder:
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def set_up(page: Page, n_chats: int, max_tokens: int) -> None:
    """So many chats, whose answers have max_tokens whatever the model wants."""

    def whole(route: Route) -> None:
        route.continue_(post_data={**route.request.post_data_json, "ignore_eos": True})

    page.route("**/v1/chat/completions", whole)
    page.wait_for_selector("#model option", state="attached")
    page.select_option("#n-chats", str(n_chats))
    page.click("#toggle-settings")
    page.fill("#max-tokens", str(max_tokens))
    page.click("#toggle-settings")


def ask(page: Page, text: str = QUESTION) -> None:
    page.fill("#message", text)
    page.press("#message", "Enter")


def wait_for_figures(page: Page, n: int, pattern: str) -> None:
    page.wait_for_function(
        """([n, pattern]) => {
          const all = [...document.querySelectorAll('.figures')].map((e) => e.textContent);
          return all.filter((text) => new RegExp(pattern).test(text)).length === n;
        }""",
        arg=[n, pattern],
    )


def state(served: Served) -> dict[str, Any]:
    answer = httpx.get(served.url + "/pages/state", headers=AUTHORIZED)
    assert answer.status_code == 200
    body: dict[str, Any] = answer.json()
    return body


def wait_until_idle(served: Served, page: Page) -> None:
    for _ in range(200):
        if not state(served)["requests"]:
            return
        page.wait_for_timeout(50)
    pytest.fail("requests still run")


def test_eight_chats_at_once(served: Served, browser: Browser) -> None:
    with opened(browser, served.url + "/") as page:
        set_up(page, 8, 40)
        ask(page)
        wait_for_figures(page, 8, "tokens/s")
        assert len(state(served)["requests"]) == 8  # though a browser opens 6 connections
        screenshot(page, "chat-8-running")
        wait_for_figures(page, 8, r"first\stoken.* · [\d.]+\stokens/s · 40\stokens · length")
        texts = page.locator(".message.assistant .text").all_text_contents()
        assert all(texts)
        assert page.locator(".message.user").all_text_contents() == [QUESTION] * 8
        assert re.fullmatch(r"8 answers together: [\d.]+ tokens/s", page.inner_text("#total"))
        page.wait_for_selector("#stop-all:disabled")
        page.wait_for_selector("#send-all:enabled")


def test_one_chat_goes_on_where_it_was(served: Served, browser: Browser) -> None:
    with opened(browser, served.url + "/") as page:
        set_up(page, 1, 12)
        sent: list[Any] = []
        page.on("request", lambda r: sent.append(r.post_data_json) if r.post_data else None)
        page.click("#toggle-settings")
        page.fill("#system", "You are a llama.")
        page.fill("#temperature", "0.3")
        ask(page, "Hello")
        wait_for_figures(page, 1, ENDED)
        ask(page, "And now?")
        wait_for_figures(page, 2, ENDED)
        last = sent[-1]
        roles = [message["role"] for message in last["messages"]]
        assert roles == ["system", "user", "assistant", "user"]
        assert (last["model"], last["temperature"], last["max_tokens"]) == ("small", 0.3, 12)
        page.click(".clear")
        assert page.locator(".message").count() == 0


@pytest.mark.parametrize("how", ["button", "escape"])
def test_stop(served: Served, browser: Browser, how: str) -> None:
    with opened(browser, served.url + "/") as page:
        set_up(page, 2, 4000)
        ask(page)
        wait_for_figures(page, 2, "tokens/s")
        if how == "button":
            page.locator(".stop").first.click()
            wait_for_figures(page, 1, "stopped")
            assert page.locator(".stop").nth(1).is_enabled()
            page.click("#stop-all")
        else:
            page.keyboard.press("Escape")
        wait_for_figures(page, 2, "stopped")
        wait_until_idle(served, page)
        assert page.locator(".error:visible").count() == 0


def test_errors_are_shown(served: Served, browser: Browser) -> None:
    with opened(browser, served.url + "/", failures=True) as page:
        set_up(page, 1, 0)
        ask(page)
        page.wait_for_selector(".message .error:visible")
        assert "max_tokens must be" in page.inner_text(".message .error")
        wait_for_figures(page, 1, "failed")
        screenshot(page, "chat-error")
        page.route("**/v1/chat/completions", lambda route: route.abort())
        ask(page)
        wait_for_figures(page, 2, "failed")
        assert page.inner_text(".message:last-child .error") == "the server cannot be reached"
        page.wait_for_selector("#send-all:enabled")


def test_what_a_model_says_is_text_and_reasoning_is_folded(
    served: Served, browser: Browser
) -> None:
    deltas = [{"reasoning_content": f"I think {MARKUP}."}, {"content": MARKUP}, {"content": "!"}]
    chunks: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas
    ]
    chunks.append({"error": {"message": "the model broke"}})
    body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)

    def answer(route: Route) -> None:
        route.fulfill(body=body, content_type="text/event-stream")

    with opened(browser, served.url + "/") as page:
        set_up(page, 1, 40)
        page.route("**/v1/chat/completions", answer)
        ask(page, MARKUP)
        page.wait_for_selector(".message .error:visible")
        assert page.inner_text(".message .error") == "the model broke"
        assert page.inner_text(".message.user") == MARKUP
        assert page.inner_text(".message .text") == MARKUP + "!"
        assert page.locator(".message img, .message b").count() == 0
        assert not page.is_visible(".reasoning-text")
        page.click(".reasoning summary")
        assert page.inner_text(".reasoning-text") == f"I think {MARKUP}."
        screenshot(page, "chat-reasoning")


def test_keyboard_alone(served: Served, browser: Browser) -> None:
    with opened(browser, served.url + "/") as page:
        set_up(page, 2, 8)
        page.focus("#message")
        page.keyboard.type("One")
        page.keyboard.press("Shift+Enter")
        page.keyboard.type("Two")
        assert page.locator(".message").count() == 0
        page.keyboard.press("Enter")
        wait_for_figures(page, 2, ENDED)
        assert page.input_value("#message") == ""
        assert page.inner_text(".message.user >> nth=0") == "One\nTwo"
        # Backwards from the message to the second chat's own field.
        for _ in range(2):
            page.keyboard.press("Shift+Tab")
        page.keyboard.type("Only you")
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        assert page.evaluate(outline) == "solid"
        page.keyboard.press("Enter")
        wait_for_figures(page, 3, ENDED)
        assert page.locator(".chat >> nth=0 >> .message").count() == 2
        assert page.locator(".chat >> nth=1 >> .message").count() == 4
        unnamed = """[...document.querySelectorAll('button, input, select, textarea')].filter(
          (e) => !e.ariaLabel && !e.labels?.length && !e.textContent.trim())"""
        assert page.evaluate(unnamed) == []


def test_the_key_is_asked_for(served: Served, browser: Browser) -> None:
    with opened(browser, served.url + "/", key=None, failures=True) as page:
        page.wait_for_selector("#key-dialog")
        screenshot(page, "chat-key")
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        page.wait_for_selector("#key-dialog >> text=The key was rejected.")
        page.keyboard.type(KEY)
        page.keyboard.press("Enter")
        page.wait_for_selector("#model option", state="attached")
        assert page.evaluate("sessionStorage.getItem('llamaherd-key')") == KEY
    with opened(browser, served.url + "/dashboard", key=None, failures=True) as page:
        page.wait_for_selector("#key-dialog")
        page.keyboard.press("Escape")
        page.click("#retry")
        page.wait_for_selector("#key-dialog")
        page.keyboard.type(KEY)
        page.keyboard.press("Enter")
        page.wait_for_selector("#status[data-state=live]")
        assert page.is_hidden("#retry")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_dashboard(served: Served, browser: Browser, scheme: str) -> None:
    with (
        opened(browser, served.url + "/", scheme=scheme) as chat,
        opened(browser, served.url + "/dashboard", scheme=scheme) as page,
    ):
        set_up(chat, 4, 4000)
        ask(chat)
        page.wait_for_function(
            "() => document.querySelectorAll('.request .part.decode').length === 4"
        )
        page.wait_for_function(
            "() => parseFloat(document.querySelector('#now-decode').textContent) > 0"
        )
        page.wait_for_function(
            "() => /L/.test(document.querySelector('path.line-0').getAttribute('d'))"
        )
        assert page.inner_text("#now-running") == "4"
        assert page.inner_text("#n-requests") == "4"
        heads = page.locator(".request-head").all_text_contents()
        assert all(re.search(r"prompt \d+, \d+ cached · \d+ generated", head) for head in heads)
        assert page.locator("#kv-bar .part.own").count() == 4
        labels = [bar.get_attribute("aria-label") for bar in page.locator(".chart svg").all()]
        assert [re.sub(":.*", "", label or "") for label in labels] == [
            "Throughput",
            "Queue",
            "Time to first token",
            "Inter-token latency",
            "Batch utilisation",
            "Cache hit rate",
        ]
        assert not [label for label in labels[:5] if "\N{EN DASH}" in (label or "")]
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (int(re.findall(r"\d+", ground)[0]) < 100) == (scheme == "dark")
        for name, shown in (("chat", chat), ("dashboard", page)):
            screenshot(shown, f"{name}-{scheme}-wide")
            shown.set_viewport_size({"width": NARROW[0], "height": NARROW[1]})
            shown.wait_for_timeout(50)
            width = "document.documentElement.scrollWidth"
            assert shown.evaluate(width) <= NARROW[0]
            screenshot(shown, f"{name}-{scheme}-narrow")
        chat.keyboard.press("Escape")
        page.wait_for_selector("#no-requests:visible")
        assert page.locator(".request").count() == 0


def test_several_models_and_servers_that_do_badly(served: Served, browser: Browser) -> None:
    told = state(served)
    told["models"]["large"] = large = copy.deepcopy(told["models"]["small"])
    large["metrics"]["n_running"] = 77
    large["health"] = {"ok": False, "reason": "it is stuck"}
    with opened(browser, served.url + "/dashboard", failures=True) as page:
        page.route("**/pages/state", lambda route: route.fulfill(json=told))
        page.wait_for_selector("#model:visible")
        assert page.is_hidden("#banner")
        page.select_option("#model", "large")
        assert page.inner_text("#now-running") == "77"
        assert page.inner_text("#banner") == "large: it is stuck"
        page.route("**/pages/state", lambda route: route.abort())
        page.wait_for_selector("#status[data-state=failed] >> text=not reachable")
        page.unroute("**/pages/state")
        page.wait_for_selector("#status[data-state=live]")


def test_state_needs_a_key_and_files_do_not(served: Served) -> None:
    with httpx.Client(base_url=served.url) as http:
        assert http.get("/pages/state").status_code == 401
        assert http.get("/pages/none.js").status_code == 404
        assert http.get("/pages/../app.py").status_code in (401, 404)
        for path in ("/", "/dashboard", "/pages/chat.js", "/pages/style.css", "/pages/icon.svg"):
            answer = http.get(path)
            assert answer.status_code == 200
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
            again = http.get(path, headers={"if-none-match": answer.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")


def test_state_counts_whole_answers_too(model_path: Path) -> None:
    with serve(f"small={model_path}") as served, httpx.Client(base_url=served.url) as http:
        recent = http.get("/pages/state").json()["models"]["small"]["recent"]
        assert recent["ttft"] == recent["itl"] == {"p50": None, "p95": None}
        body = {"prompt": ["One", "Two"], "max_tokens": 2}
        assert http.post("/v1/completions", json=body, timeout=60).status_code == 200
        told = http.get("/pages/state").json()
        assert told["models"]["small"]["recent"]["ttft"]["p95"] > 0
        assert told["models"]["small"]["metrics"]["n_submitted"] == 2
        assert told["requests"] == []


def test_recent_times_are_those_of_the_last_minute() -> None:
    now = 0.0
    recent = RecentQuantiles(lambda: now)
    assert recent.quantile(0.5) is None
    for i in range(1, 101):
        recent.add(i / 100)
    for part in (0.01, 0.5, 0.95, 1):
        assert recent.quantile(part) == pytest.approx(part, rel=0.03)
    now = 30.0
    recent.add(0.0)
    now = 60.0
    assert recent.quantile(1) == pytest.approx(1e-6, rel=0.03)
    now = 90.0
    assert recent.quantile(0.5) is None
