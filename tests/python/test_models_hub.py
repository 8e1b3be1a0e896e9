"""Models from the hub: a stand-in on the loopback interface, and the hub's own errors."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import tiny_models
from hub_stand_in import COMMIT, HubStandIn
from hypothesis import given
from hypothesis import strategies as st
from llamaherd import ModelLoadError, models
from llamaherd.models.hub import _bars, _parse

pytestmark = pytest.mark.slow

GGUF = b"GGUF" + bytes(range(256)) * 300


# huggingface_hub reads its settings when it is imported, so each of these runs in a child. The
# small chunks let a broken transfer keep what came of a small file.
HUB_CODE = """
import json, sys
import huggingface_hub.constants as constants
constants.DOWNLOAD_CHUNK_SIZE = 4096
from llamaherd import ModelLoadError, models
try:
    print(json.dumps({"path": str(models.resolve(sys.argv[1], progress=False))}))
except ModelLoadError as error:
    print(json.dumps({"error": str(error)}))
"""


@pytest.fixture
def hub() -> Iterator[HubStandIn]:
    """A hub with one repository."""
    with HubStandIn() as stand_in:
        stand_in.add("org/repo", {"m.gguf": GGUF, "q4/deep/m.gguf": GGUF[::-1]})
        yield stand_in


class Client:
    """Resolves models in child processes that know the hub stand-in only."""

    def __init__(self, hub: HubStandIn, home: Path) -> None:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
        self.environ = kept | {
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
            "LLAMAHERD_CHECK_DOWNLOADS": "0",  # these files are no models
        }

    def answer(self, model: str, **environ: str) -> dict[str, str]:
        run = subprocess.run(
            [sys.executable, "-c", HUB_CODE, model],
            env=self.environ | environ,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert run.returncode == 0, run.stderr
        answer: dict[str, str] = json.loads(run.stdout)
        return answer

    def path(self, model: str, **environ: str) -> Path:
        answer = self.answer(model, **environ)
        assert "path" in answer, answer
        return Path(answer["path"])

    def error(self, model: str, **environ: str) -> str:
        answer = self.answer(model, **environ)
        assert "error" in answer, answer
        return answer["error"]


@pytest.fixture
def client(hub: HubStandIn, tmp_path: Path) -> Client:
    """A client of the hub with an empty cache."""
    return Client(hub, tmp_path / "hf")


def test_hub_file_is_downloaded_once(hub: HubStandIn, client: Client) -> None:
    path = client.path("hf:org/repo/m.gguf")
    assert path.read_bytes() == GGUF
    assert client.path("HF:org/repo/m.gguf") == path
    assert len(hub.gets("m.gguf")) == 1
    assert {request.authorization for request in hub.requests} == {None}


def test_hub_file_is_tried_once_before_its_first_use(
    hub: HubStandIn, client: Client, tmp_path: Path
) -> None:
    hub.add("org/tiny", {"m.gguf": tiny_models.write("plain", tmp_path / "m.gguf").read_bytes()})
    cache = tmp_path / "cache"
    environ = {"LLAMAHERD_CHECK_DOWNLOADS": "1", "LLAMAHERD_CACHE": str(cache)}
    path = client.path("hf:org/tiny/m.gguf", **environ)
    (note,) = (cache / "checked").iterdir()
    noted = note.stat().st_mtime_ns
    assert client.path("hf:org/tiny/m.gguf", **environ) == path
    assert note.stat().st_mtime_ns == noted
    assert "cannot load" in client.error("hf:org/repo/m.gguf", **environ)
    assert list((cache / "checked").iterdir()) == [note]


def test_hub_file_in_folders(client: Client) -> None:
    assert client.path("hf:org/repo/q4/deep/m.gguf").read_bytes() == GGUF[::-1]


def test_hub_revision(hub: HubStandIn, client: Client) -> None:
    older = "f" * 40
    hub.repos["org/repo"].commits[older] = {"m.gguf": b"GGUF old"}
    hub.repos["org/repo"].branches["v1"] = older
    assert client.path("hf:org/repo@v1/m.gguf").read_bytes() == b"GGUF old"
    assert client.path(f"hf:org/repo@{older}/m.gguf").read_bytes() == b"GGUF old"
    assert client.path("hf:org/repo/m.gguf").read_bytes() == GGUF
    assert "no revision v2" in client.error("hf:org/repo@v2/m.gguf")


@pytest.mark.parametrize("folder", ["", "q8/"])
def test_hub_split_file_is_downloaded_whole(hub: HubStandIn, client: Client, folder: str) -> None:
    names = [f"{folder}s-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    hub.add("org/split", {name: GGUF + name.encode() for name in names})
    first = client.path(f"hf:org/split/{names[1]}")
    assert first.name == "s-00001-of-00003.gguf"
    assert models.resolve(first) == first
    for name in names:
        assert first.with_name(Path(name).name).read_bytes() == GGUF + name.encode()
    downloads = len(hub.gets())
    assert client.path(f"hf:org/split/{names[0]}", HF_HUB_OFFLINE="1") == first
    assert len(hub.gets()) == downloads


def test_hub_parts_are_of_one_commit(hub: HubStandIn, client: Client) -> None:
    names = [f"s-0000{i}-of-00002.gguf" for i in (1, 2)]
    hub.add("org/split", {name: name.encode() for name in names})
    client.path(f"hf:org/split/{names[0]}")
    assert [request.path.split("/")[3] for request in hub.gets(names[0])] == ["main"]
    assert [request.path.split("/")[3] for request in hub.gets(names[1])] == [COMMIT]


def test_hub_missing_part(hub: HubStandIn, client: Client) -> None:
    hub.add("org/split", {"s-00001-of-00002.gguf": GGUF})
    message = client.error("hf:org/split/s-00001-of-00002.gguf")
    assert "has no file s-00002-of-00002.gguf" in message


def test_hub_transfer_goes_on_after_a_break(hub: HubStandIn, client: Client) -> None:
    hub.break_after = 20_000
    answer = client.answer("hf:org/repo/m.gguf")
    if "error" in answer:  # older versions of huggingface_hub go on when they are called again
        assert "retry" in answer["error"]
        answer = client.answer("hf:org/repo/m.gguf")
    assert Path(answer["path"]).read_bytes() == GGUF
    first, second = [request.byte_range for request in hub.gets("m.gguf")]
    assert first is None
    assert re.fullmatch(r"bytes=(16384|20000)-", str(second))


def test_hub_offline(hub: HubStandIn, client: Client) -> None:
    message = client.error("hf:org/repo/m.gguf", HF_HUB_OFFLINE="1")
    assert "not in the hub's cache, and HF_HUB_OFFLINE is set" in message
    assert hub.requests == []
    path = client.path("hf:org/repo/m.gguf")
    hub.requests.clear()
    assert client.path("hf:org/repo/m.gguf", HF_HUB_OFFLINE="1") == path
    assert hub.requests == []


def test_hub_that_is_down_after_a_download(hub: HubStandIn, client: Client) -> None:
    path = client.path("hf:org/repo/m.gguf")
    hub.down = True
    assert client.path("hf:org/repo/m.gguf") == path


def test_hub_token_is_sent(hub: HubStandIn, client: Client) -> None:
    hub.add("org/mine", {"m.gguf": GGUF}, private=True, token="hf_good")
    assert client.path("hf:org/mine/m.gguf", HF_TOKEN="hf_good").read_bytes() == GGUF
    sent = {r.authorization for r in hub.requests if r.path.startswith("org/mine")}
    assert sent == {"Bearer hf_good"}


def test_hub_private_or_missing_repository(hub: HubStandIn, client: Client) -> None:
    hub.add("org/mine", {"m.gguf": GGUF}, private=True, token="hf_good")
    for repo in ("org/mine", "org/none"):
        for environ in ({}, {"HF_TOKEN": "hf_bad"}):
            message = client.error(f"hf:{repo}/m.gguf", **environ)
            assert f"repository {repo} does not exist" in message
            assert "set HF_TOKEN" in message


def test_hub_gated_repository(hub: HubStandIn, client: Client) -> None:
    hub.add("org/gated", {"m.gguf": GGUF}, gated=True, token="hf_good")
    for environ in ({}, {"HF_TOKEN": "hf_bad"}):
        message = client.error("hf:org/gated/m.gguf", **environ)
        assert "org/gated is gated: request access" in message
    assert client.path("hf:org/gated/m.gguf", HF_TOKEN="hf_good").read_bytes() == GGUF


def test_hub_missing_file(client: Client) -> None:
    message = client.error("hf:org/repo/none.gguf")
    assert "org/repo has no file none.gguf at main" in message


@pytest.mark.parametrize(
    "model",
    [
        "hf:",
        "hf:m.gguf",
        "hf:org/m.gguf",
        "hf:org/repo",
        "hf:org/repo/m.bin",
        "hf:org/repo/.gguf/",
        "hf:org/repo@/m.gguf",
        "hf:@v1/repo/m.gguf",
        "hf:org/repo@v1@v2/m.gguf",
        "hf:org/repo//m.gguf",
        "hf:org/repo/../m.gguf",
        "hf:org/repo/a/./m.gguf",
        "hf:org/repo/a\\m.gguf",
        "hf:org/repo/a\nm.gguf",
    ],
)
def test_hub_malformed(model: str) -> None:
    with pytest.raises(ModelLoadError, match=r"malformed model .* hf:ORG/REPO/PATH/FILE\.gguf"):
        models.resolve(model)


@given(st.text())
def test_hub_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        wanted = _parse(f"hf:{text}")
    except ModelLoadError:
        return
    revision = "" if wanted.revision is None else f"@{wanted.revision}"
    assert f"{wanted.repo}{revision}/{wanted.file}" == text


def _fail_with(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*args: Any, **kwargs: Any) -> NoReturn:
        raise error

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)


@pytest.mark.parametrize("repo", ["or--g/repo", "org/repo.git", "org/a b"])
def test_hub_malformed_repository(repo: str) -> None:
    with pytest.raises(ModelLoadError, match="malformed repository"):
        models.resolve(f"hf:{repo}/m.gguf")


def test_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import LocalEntryNotFoundError

    error = LocalEntryNotFoundError("cannot find")
    error.__cause__ = ConnectionError("refused")
    _fail_with(monkeypatch, error)
    with pytest.raises(ModelLoadError, match=r"cannot reach the hub .* HF_ENDPOINT.*\(refused\)"):
        models.resolve("hf:org/repo/m.gguf")


def test_hub_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusal(Exception):
        class response:
            status_code = 403

    _fail_with(monkeypatch, Refusal("Forbidden"))
    with pytest.raises(ModelLoadError, match=r"denied access .* HF_TOKEN \(Forbidden\)"):
        models.resolve("hf:org/repo/m.gguf")


def test_hub_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    _fail_with(monkeypatch, OSError(errno.ENOSPC, "full"))
    with pytest.raises(ModelLoadError, match=r"no space left .* HF_HOME"):
        models.resolve("hf:org/repo/m.gguf")


@pytest.mark.parametrize("error", [RuntimeError("odd\nmore"), ValueError()])
def test_hub_other_failure(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    _fail_with(monkeypatch, error)
    what = "odd" if error.args else "ValueError"
    with pytest.raises(ModelLoadError, match=f"failed: {what}; retry") as caught:
        models.resolve("hf:org/repo/m.gguf")
    assert caught.value.__cause__ is error


def test_hub_bars_are_hidden_only_meanwhile() -> None:
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled as hidden

    bar = "huggingface_hub.http_get"
    before = hidden(bar)
    with _bars(None), _bars(True):
        assert hidden(bar) == before
    with _bars(False):
        with _bars(False):
            assert hidden(bar)
        assert hidden(bar)
    assert hidden(bar) == before
