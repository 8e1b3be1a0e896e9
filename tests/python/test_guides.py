"""Rules are made ready once for each text, and a slow one keeps nobody else waiting."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from llamaherd import InvalidRequestError, QueueFullError
from llamaherd.structured_output import guides
from llamaherd.structured_output.guides import Guide, GuideCache
from llamaherd.structured_output.rule import MarkedSchema, Rule
from rule_child import Vocabulary


class Held(GuideCache):
    """Rules whose text is slow are not ready before `go` is set."""

    def __init__(self) -> None:
        core: Any = Vocabulary()
        super().__init__(core)
        self.go = threading.Event()
        self.compiled: list[str] = []

    def _compile(self, rule: Rule) -> Guide:
        self.compiled.append(rule.text)
        if rule.text.startswith("slow"):
            self.go.wait()
        return super()._compile(rule)


def test_callers_of_one_text_share_its_guide() -> None:
    held = Held()
    with ThreadPoolExecutor(8) as callers:
        made = [callers.submit(held.make, Rule("regex", "slow[a-z]")) for _ in range(8)]
        assert held.make(Rule("regex", "[0-9]")).first_mask
        held.go.set()
        found = {id(future.result()) for future in made}
    assert len(found) == 1
    assert held.compiled.count("slow[a-z]") == 1


def test_a_rule_is_ready_once_it_was_made_or_refused() -> None:
    held = Held()
    good, bad = Rule("regex", "[0-9]"), Rule("regex", "(a")
    assert not held.is_ready(good)
    held.make(good)
    with pytest.raises(InvalidRequestError):
        held.make(bad)
    assert held.is_ready(good)
    assert held.is_ready(bad)


def test_rules_are_kept_by_number_and_by_size() -> None:
    held = Held()
    small = [Rule("regex", f"[a-{chr(98 + i % 24)}]{{{i + 1}}}") for i in range(70)]
    for rule in small:
        held.make(rule)
    assert [held.is_ready(rule) for rule in small] == [False] * 6 + [True] * 64
    large = [
        Rule(
            "regex", "a" * 2000 + str(i), (MarkedSchema("", json.dumps({"title": "x" * 200_000})),)
        )
        for i in range(4)
    ]
    for rule in large:
        held.make(rule)
    assert not any(held.is_ready(rule) for rule in small)
    assert [held.is_ready(rule) for rule in large] == [False, False, True, True]
    huge = Rule("regex", "b", (MarkedSchema("", json.dumps({"title": "x" * 600_000})),))
    held.make(huge)
    assert held.is_ready(huge)


def test_what_was_refused_is_refused_again_at_once() -> None:
    held = Held()
    for _ in range(3):
        with pytest.raises(InvalidRequestError, match="unclosed group"):
            held.make(Rule("regex", "(a"))
    assert held.compiled == ["(a"]


def test_what_takes_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guides, "_TIMEOUT_S", 0.2)
    held = Held()
    with pytest.raises(InvalidRequestError, match=r"compilation took over 0\.2 s"):
        held.make(Rule("regex", "slow"))
    held.go.set()


def test_as_many_wait_as_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guides, "_TIMEOUT_S", 0.01)
    monkeypatch.setattr(guides, "_MAX_WAITING", 3)
    held = Held()
    for i in range(guides._N_THREADS + 3):
        with pytest.raises((InvalidRequestError, QueueFullError), match=r"(within|over) 0\.01 s"):
            held.make(Rule("regex", f"slow{i}"))
        while len(held.compiled) < min(i + 1, guides._N_THREADS):
            time.sleep(0.01)
    with pytest.raises(QueueFullError, match="at most 3 calls"):
        held.make(Rule("regex", "another"))
    held.go.set()
    monkeypatch.undo()
    assert held.make(Rule("regex", "slow1")).first_mask


def test_an_unforeseen_failure_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held()
    with monkeypatch.context() as patch:
        patch.setattr(Held, "_compile", lambda self, rule: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            held.make(Rule("regex", "a"))
    assert held.make(Rule("regex", "a")).first_mask
