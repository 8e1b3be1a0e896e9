"""Prompts to fill in the middle, in Python and over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import tiny_tokenizers
from llamaherd import (
    LLM,
    BatchEngine,
    ContextLengthError,
    EngineConfig,
    ExtraFile,
    FinishReason,
    InfillPrompt,
    InvalidRequestError,
    SamplingParams,
)
from llamaherd.server.jobs.line_limit import LineLimit
from openai import BadRequestError, OpenAI
from serving import Served, serve
from tiny_tokenizers import FIM, FIM_REPOSITORY

CONFIG = EngineConfig(n_ctx=512, max_seqs=4, n_threads=1, warmup=False)
GREEDY = SamplingParams(max_tokens=4, temperature=0)
FILES = (ExtraFile("a.py", "aa = 1\n"), ExtraFile("b.py", "bb = 2\n"))


def code_model(folder: Path, *names: str, add_bos: bool = True) -> Path:
    return tiny_tokenizers.write(
        tiny_tokenizers.code(*names, add_bos=add_bos), folder / f"code-{len(names)}.gguf"
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return code_model(tmp_path_factory.mktemp("code"), *FIM, *FIM_REPOSITORY)


@pytest.fixture(scope="module")
def engine(path: Path) -> Iterator[BatchEngine]:
    with BatchEngine(path, CONFIG, progress=False) as engine:
        yield engine


def ids(engine: BatchEngine, *parts: str) -> list[int]:
    """Tokens of parts, each tokenized on its own; names of special tokens are these tokens."""
    special = {*FIM, *FIM_REPOSITORY, "<s>"}
    return [
        token
        for part in parts
        for token in engine.tokenize(part, add_special=False, parse_special=part in special)
    ]


def prepared(engine: BatchEngine, prompt: InfillPrompt, n_output: int = 4) -> list[int]:
    params = SamplingParams(max_tokens=n_output)
    return [int(token) for token in engine._prepare(prompt, params).token_ids]


PREFIX, SUFFIX, MIDDLE = FIM
REPOSITORY, SEPARATOR = FIM_REPOSITORY


def test_the_format_is_llama_servers(engine: BatchEngine) -> None:
    prompt = InfillPrompt(prefix="a = 1\n", line="b", suffix="\nc", extra=FILES)
    assert prepared(engine, prompt) == ids(
        engine,
        "<s>", REPOSITORY, "myproject\n",
        SEPARATOR, "a.py\n", "aa = 1\n", SEPARATOR, "b.py\n", "bb = 2\n",
        SEPARATOR, "filename\n",
        PREFIX, "a = 1\n", "b", SUFFIX, "\nc", MIDDLE,
    )  # fmt: skip
    plain = InfillPrompt(prefix="a", suffix="b")
    assert prepared(engine, plain) == ids(engine, "<s>", PREFIX, "a", SUFFIX, "b", MIDDLE)
    swapped = InfillPrompt(prefix="a", suffix="b", suffix_first=True)
    assert prepared(engine, swapped) == ids(engine, "<s>", SUFFIX, "b", PREFIX, "a", MIDDLE)
    as_ids = InfillPrompt(prefix=ids(engine, "a"), suffix=ids(engine, "b"))
    assert prepared(engine, as_ids) == prepared(engine, plain)


def test_names_of_special_tokens_in_code_are_text(engine: BatchEngine) -> None:
    tokens = prepared(engine, InfillPrompt(prefix="<|fim_middle|>", suffix="</s>"))
    special = set(ids(engine, *FIM, *FIM_REPOSITORY))
    assert [token for token in tokens if token in special] == ids(engine, *FIM)


def test_a_model_without_repository_tokens(tmp_path: Path) -> None:
    path = code_model(tmp_path, *FIM, add_bos=False)
    with BatchEngine(path, CONFIG, progress=False) as engine:
        prompt = InfillPrompt(prefix="a", suffix="b", extra=FILES)
        assert prepared(engine, prompt) == ids(
            engine,
            "\n\n--- snippet ---\n\n", "aa = 1\n", "\n\n--- snippet ---\n\n", "bb = 2\n",
            PREFIX, "a", SUFFIX, "b", MIDDLE,
        )  # fmt: skip


def test_a_model_without_tokens_for_it_says_so(tmp_path: Path) -> None:
    with LLM(code_model(tmp_path, *FIM[:1]), CONFIG, progress=False) as llm:
        (result,) = llm.generate(InfillPrompt(prefix="a"), GREEDY)
        assert result.finish_reason is FinishReason.ERROR
        assert "no token for suffix, middle" in result.error
        with pytest.raises(InvalidRequestError, match="cannot fill in the middle"):
            llm.engine.submit(InfillPrompt(prefix="a"), GREEDY)
        assert llm.generate("a", GREEDY)[0].finish_reason is FinishReason.LENGTH


def test_long_prompts_are_cut_on_request_only(engine: BatchEngine) -> None:
    long = "".join(f"{i} " for i in range(1000))
    whole = InfillPrompt(prefix=long, suffix=long, extra=FILES)
    with pytest.raises(ContextLengthError, match="maximum context length"):
        engine.submit(whole, GREEDY)
    cut = InfillPrompt(prefix=long, suffix=long, line="b", extra=FILES, truncate=True)
    tokens = prepared(engine, cut, n_output=100)
    assert len(tokens) == 512 - 100
    at = {name: tokens.index(*ids(engine, name)) for name in FIM}
    behind_prefix = tokens[at[PREFIX] + 1 : at[SUFFIX]]
    behind_suffix = tokens[at[SUFFIX] + 1 : at[MIDDLE]]
    everything = ids(engine, long)
    n = len(behind_prefix) - 1
    assert behind_prefix == [*everything[-n:], *ids(engine, "b")]
    assert behind_suffix == everything[: len(behind_suffix)]
    assert 2.5 < n / len(behind_suffix) < 3.5
    # The last files stay, as wholes.
    files = [ExtraFile(f"{i}.py", "a" * 60 + "\n") for i in range(40)]
    tokens = prepared(engine, InfillPrompt(prefix="a", extra=files, truncate=True))
    assert len(tokens) <= 512 - 4
    text = engine.detokenize(tokens)
    assert "39.py" in text
    assert "0.py\n" not in text.replace("10.py", "").replace("20.py", "").replace("30.py", "")
    with engine.submit(cut, GREEDY) as stream:
        assert stream.result().finish_reason is FinishReason.LENGTH


def test_prompts_share_their_extra_files(engine: BatchEngine) -> None:
    extra = [ExtraFile(f"{i}.py", "ab" * 20 + "\n") for i in range(4)]
    shared = len(prepared(engine, InfillPrompt(prefix="", extra=extra))) - 3
    for i, line in enumerate(("x", "xy")):
        prompt = InfillPrompt(prefix="a\n", line=line, suffix="b", extra=extra)
        with engine.submit(prompt, GREEDY) as stream:
            usage = stream.result().usage
        if i > 0:
            assert usage.cached_tokens >= shared + len(ids(engine, "a\n"))


def test_scores_and_pins_take_such_prompts(path: Path) -> None:
    with LLM(path, CONFIG, progress=False) as llm:
        prompt = InfillPrompt(prefix="a", suffix="b")
        (scores,) = llm.score([prompt], [["a", "b"]], progress=False)
        assert [score.error for score in scores] == ["", ""]
        whole = [*prepared(llm.engine, prompt), *ids(llm.engine, "a")]
        n = len(ids(llm.engine, "a"))
        (by_ids,) = llm.score([whole[:-n]], [[whole[-n:]]], progress=False)
        assert scores[0].logprob == pytest.approx(by_ids[0].logprob, abs=1e-3)
        assert len(llm.generate([prompt, "a", prompt], GREEDY, progress=False)) == 3


# Over HTTP --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    none = code_model(tmp_path_factory.mktemp("none"))
    with serve(f"code={path}", f"none={none}", options=("--n-ctx", "512")) as served:
        yield served


@pytest.fixture(scope="module")
def http(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, timeout=60) as http:
        yield http


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[OpenAI]:
    with OpenAI(base_url=served.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


VSCODE: dict[str, Any] = {
    "input_prefix": "a = 1\n", "input_suffix": "\nb\n", "prompt": "c",
    "input_extra": [{"text": "aa\n", "time": 1.5, "filename": "a.py"}],
    "n_predict": 6, "top_k": 40, "top_p": 0.99, "stream": False,
    "samplers": ["top_k", "top_p", "infill"], "cache_prompt": True,
    "t_max_prompt_ms": 500, "t_max_predict_ms": 60_000,
}  # fmt: skip
VIM_FIELDS = [
    "content", "timings/prompt_n", "timings/prompt_ms", "timings/prompt_per_token_ms",
    "timings/prompt_per_second", "timings/predicted_n", "timings/predicted_ms",
    "timings/predicted_per_token_ms", "timings/predicted_per_second", "truncated", "tokens_cached",
]  # fmt: skip


def events_of(http: httpx.Client, body: dict[str, Any]) -> list[dict[str, Any]]:
    with http.stream("POST", "/infill", json={**body, "stream": True}) as answer:
        assert answer.status_code == 200
        lines = [line for line in answer.iter_lines() if line.startswith("data: ")]
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def test_suffix_of_completions(client: OpenAI, engine: BatchEngine) -> None:
    with engine.submit(InfillPrompt(prefix="a", suffix="b"), GREEDY) as stream:
        expected = stream.result()
    options: dict[str, Any] = {"model": "code", "max_tokens": 4, "temperature": 0}
    made = client.completions.create(prompt="a", suffix="b", **options)
    assert made.choices[0].text == expected.text
    assert made.usage is not None
    assert made.usage.prompt_tokens == expected.usage.prompt_tokens
    streamed = client.completions.create(prompt="a", suffix="b", stream=True, **options)
    assert "".join(chunk.choices[0].text for chunk in streamed) == expected.text
    both = client.completions.create(prompt=["a", "b"], suffix="b", **options)
    assert both.choices[0].text == expected.text
    plain = client.completions.create(prompt="a", **options)
    for nothing in (None, ""):
        same = client.completions.create(prompt="a", suffix=nothing, **options)
        assert same.usage == plain.usage or same.choices[0].text == plain.choices[0].text


def test_suffix_is_refused_where_it_cannot_be_obeyed(client: OpenAI) -> None:
    with pytest.raises(BadRequestError, match="cannot fill in the middle") as refused:
        client.completions.create(model="none", prompt="a", suffix="b", max_tokens=1)
    assert refused.value.param == "suffix"
    with pytest.raises(BadRequestError, match="echo cannot be combined") as refused:
        client.completions.create(model="code", prompt="a", suffix="b", echo=True)
    assert refused.value.param == "echo"


def test_infill_as_llama_vscode_requests_it(http: httpx.Client, engine: BatchEngine) -> None:
    body = {**VSCODE, "samplers": ["top_k"], "top_k": 1, "n_indent": 0}
    answer = http.post("/infill", json=body)
    assert answer.status_code == 200, answer.text
    made = answer.json()
    prompt = InfillPrompt(
        prefix="a = 1\n", line="c", suffix="\nb\n", extra=[ExtraFile("a.py", "aa\n")]
    )
    with engine.submit(prompt, SamplingParams(max_tokens=6, temperature=0)) as stream:
        expected = stream.result()
    assert made["content"] == expected.text
    assert made["stop"] is True
    assert made["stop_type"] == ("eos" if expected.finish_reason is FinishReason.STOP else "limit")
    assert made["tokens_evaluated"] == expected.usage.prompt_tokens
    assert made["tokens_predicted"] == expected.usage.completion_tokens
    assert made["truncated"] is False
    timings = made["timings"]
    assert timings["prompt_n"] + timings["cache_n"] == expected.usage.prompt_tokens
    assert timings["predicted_n"] == made["tokens_predicted"]
    again = http.post("/infill", json=body).json()
    assert again["timings"]["cache_n"] > timings["prompt_n"] / 2
    events = events_of(http, body)
    assert "".join(event["content"] for event in events) == expected.text
    assert [event["stop"] for event in events] == [False] * (len(events) - 1) + [True]
    assert events[-1]["timings"]["predicted_n"] == made["tokens_predicted"]


def test_infill_as_llama_vim_requests_it(http: httpx.Client) -> None:
    body = {**VSCODE, "n_indent": 4, "response_fields": VIM_FIELDS}
    made = http.post("/infill", json=body).json()
    assert list(made) == VIM_FIELDS
    warm = {
        "input_prefix": "", "input_suffix": "", "prompt": "", "n_predict": 0, "temperature": 0.0,
        "stream": False, "samplers": [], "cache_prompt": True, "t_max_prompt_ms": 1,
        "t_max_predict_ms": 1, "input_extra": [{"text": "ab" * 30, "filename": "w.py", "time": []}],
    }  # fmt: skip
    assert http.post("/infill", json={**warm, "response_fields": [""]}).json() == {}
    made = http.post("/infill", json=warm).json()
    assert (made["content"], made["tokens_predicted"], made["stop_type"]) == ("", 0, "limit")
    assert made["timings"]["cache_n"] > 30
    private = http.post("/infill", json={**warm, "cache_prompt": False}).json()
    assert private["timings"]["cache_n"] == 0


def test_a_prompt_longer_than_the_context_is_cut(http: httpx.Client) -> None:
    extra = [{"text": "word " * 200, "filename": f"{i}.py"} for i in range(20)]
    body = {**VSCODE, "input_prefix": "word " * 5000, "input_extra": extra, "n_predict": 8}
    made = http.post("/infill", json=body).json()
    assert 400 < made["tokens_evaluated"] <= 512 - 8


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"model": "none"}, 400, None),
        ({"input_prefix": None}, 400, "input_prefix"),
        ({"prompt": [1, 2]}, 400, "prompt"),
        ({"samplers": ["top_p", "top_k"]}, 400, "samplers"),
        ({"samplers": ["top_k", "top_k"]}, 400, "samplers"),
        ({"samplers": ["mirostat"]}, 400, "samplers[0]"),
        ({"lora": [{"id": 0, "scale": 0.5}]}, 400, "lora"),
        ({"n_predict": -2}, 400, "n_predict"),
        ({"input_extra": [{"filename": "x"}]}, 400, "input_extra[0].text"),
        ({"top_p": 7}, 400, "top_p"),
        ({"input_sufix": "b"}, 400, "input_sufix"),
        ({"lora": [{"id": 0, "scale": 0}]}, 200, None),
        ({"id_slot": 0, "n_cache_reuse": 8, "response_fields": None, "prompt": None}, 200, None),
        ({"seed": 4, "stop": [""], "top_k": -1, "temperature": -1.0}, 200, None),
    ],
)
def test_bad_fields_are_refused_by_name(
    http: httpx.Client, change: dict[str, Any], status: int, param: str | None
) -> None:
    answer = http.post("/infill", json={**VSCODE, **change})
    assert answer.status_code == status, answer.text
    if status == 400:
        assert answer.json()["error"]["param"] == param


def test_stop_strings(http: httpx.Client) -> None:
    body = {**VSCODE, "grammar": 'root ::= "abcdef"', "n_predict": 12}
    made = http.post("/infill", json=body).json()
    assert (made["content"], made["stop_type"], made["stopping_word"]) == ("abcdef", "eos", "")
    made = http.post("/infill", json={**body, "stop": ["x", "cd"]}).json()
    assert (made["content"], made["stop_type"], made["stopping_word"]) == ("ab", "word", "cd")
    made = http.post("/infill", json={**body, "n_predict": 2}).json()
    assert made["stop_type"] == "limit"


def test_fields_that_end_the_text_by_line() -> None:
    def kept(limit: LineLimit, *pieces: str, ms: float = 0) -> tuple[str, bool]:
        text = "".join(limit.add(piece, ms) for piece in pieces)
        return text + limit.end(), limit.reached

    assert kept(LineLimit(0, 0), "a\n", "b\n  c") == ("a\nb\n  c", False)
    assert kept(LineLimit(2, 0), "a\n  ", "b\n c\n", "d") == ("a\n  b\n", True)
    assert kept(LineLimit(2, 0), "a\n", " ", " b") == ("a\n  b", False)
    assert kept(LineLimit(2, 0), "a\n", " ") == ("a\n ", False)
    assert kept(LineLimit(4, 0), "x\n\t\t\t\ty\n", "\n") == ("x\n\t\t\t\ty\n", True)
    assert kept(LineLimit(0, 10), "a", "b\nc", ms=11) == ("ab\n", True)
    assert kept(LineLimit(0, 10), "a", "b\nc", ms=9) == ("ab\nc", False)
    limit = LineLimit(1, 0)
    assert [limit.add(piece, 0) for piece in ("a\n ", "b", "\n", "c", "d")] == [
        "a\n", " b", "\n", "", "",
    ]  # fmt: skip


def test_an_early_end_frees_the_request(http: httpx.Client) -> None:
    """A limit that the model's first line feed reaches ends the response before n_predict."""
    body = {**VSCODE, "n_predict": 400, "t_max_predict_ms": 0.001, "temperature": 2.0,
            "samplers": ["temperature"], "ignore_eos": True}  # fmt: skip
    ended = 0
    for seed in range(4):
        made = http.post("/infill", json={**body, "seed": seed}).json()
        assert made["content"].count("\n") <= 1
        ended += made["tokens_predicted"] < 400 and made["content"].endswith("\n")
        events = events_of(http, {**body, "seed": seed})
        assert "".join(event["content"] for event in events) == made["content"]
    assert ended > 0
    assert http.get("/ready").json() == {"status": "ok"}
