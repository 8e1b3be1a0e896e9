"""Fuzz tests: hypothesis tests whose number of examples is the profile's, and texts to mutate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

_CORPUS = Path(__file__).resolve().parents[1] / "fuzz" / "corpus"
_MOST_CHARS = 20_000


def register_profiles() -> None:
    """`fuzz`, for tools/fuzz; by default tests have hypothesis' own number of examples."""
    settings.register_profile("fuzz", max_examples=500, deadline=None)


def fuzz(test: Callable[..., Any]) -> Callable[..., Any]:
    """A test that tools/fuzz runs as often as its time allows. Stands above ``@given``; the test
    must not set max_examples."""
    quiet = settings(deadline=None, suppress_health_check=list(HealthCheck))
    marked: Callable[..., Any] = pytest.mark.fuzz(quiet(test))
    return marked


def corpus(name: str) -> list[str]:
    """The texts of tests/fuzz/corpus/NAME, in the order of the files' names."""
    files = sorted((_CORPUS / name).iterdir())
    assert files, f"there is no corpus {name}"
    return [file.read_text(encoding="utf-8") for file in files]


@st.composite
def mutated(draw: st.DrawFn, texts: Sequence[str], words: Sequence[str] = ()) -> str:
    """One of the texts after up to 6 edits: a span removed, repeated, or moved in from another
    text, or a word put in, once or many times."""
    text = draw(st.sampled_from(texts))
    pieces = [*words, "\x00", "\ufffd", "é", "[", "{", '"', "\\", "<", "\n"]
    for _ in range(draw(st.integers(0, 6))):
        begin, end = sorted(draw(st.tuples(*[st.integers(0, len(text))] * 2)))
        kind = draw(st.sampled_from(["remove", "repeat", "splice", "insert", "cut"]))
        if kind == "remove":
            text = text[:begin] + text[end:]
        elif kind == "repeat":
            text = text[:begin] + text[begin:end] * draw(st.integers(2, 50)) + text[end:]
        elif kind == "splice":
            other = draw(st.sampled_from(texts))
            text = text[:begin] + other[draw(st.integers(0, len(other))) :] + text[end:]
        elif kind == "insert":
            n = draw(st.sampled_from([1, 1, 1, 2, 100, 5000]))
            text = text[:begin] + draw(st.sampled_from(pieces)) * n + text[begin:]
        else:
            text = text[:begin]
        text = text[:_MOST_CHARS]
    return text
