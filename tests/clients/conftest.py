"""Each client against `llamaherd serve`. CONTRIBUTING.md: how to run and to record them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import serving
from recording_proxy import recording_proxy

# Telemetry and downloads of price lists.
os.environ |= {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LANGSMITH_TRACING": "false",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
    "OPENAI_API_KEY": "none",
}

_PACKAGES = {
    "test_instructor.py": "instructor",
    "test_langchain.py": "langchain",
    "test_litellm.py": "litellm",
    "test_llama_index.py": "llama_index",
    "test_openai.py": "openai",
    "test_openai_agents.py": "agents",
    "test_pydantic_ai.py": "pydantic_ai",
}
collect_ignore = [file for file, package in _PACKAGES.items() if find_spec(package) is None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--server", help="URL of a running server with a model named chat; none: one is started"
    )
    parser.addoption(
        "--record", type=Path, help="write each client's requests to <client>.jsonl in this folder"
    )


@pytest.fixture(scope="session")
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """URL of a server whose model `chat` has a chat template with tools."""
    given = request.config.getoption("--server")
    if given:
        yield given
        return
    from llamaherd.models import DEFAULT_MODEL, resolve

    folder, options = tmp_path_factory.mktemp("config"), ("--default-max-tokens", "120")
    with serving.serve_with_tools(resolve(DEFAULT_MODEL), folder, *options) as served:
        yield served.url


@pytest.fixture(scope="module")
def base_url(request: pytest.FixtureRequest, server: str) -> Iterator[str]:
    """The URL to give to a client."""
    folder = request.config.getoption("--record")
    if folder is None:
        yield f"{server}/v1"
        return
    client = request.path.stem.removeprefix("test_")
    with recording_proxy(server, folder / f"{client}.jsonl") as url:
        yield f"{url}/v1"
