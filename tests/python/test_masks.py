"""From where on calls of tools obey their grammar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest
from llamaherd import InvalidRequestError, _core
from llamaherd.structured_output import token_masks as masks_module
from llamaherd.structured_output.guides import GuideCache
from llamaherd.structured_output.reasoning import ReasoningMarkers
from llamaherd.structured_output.reasoning_budget import ReasoningBudget
from llamaherd.structured_output.rule import Rule
from llamaherd.structured_output.token_masks import OutputConstraint, TokenMasks
from llamaherd.structured_output.triggers import Triggers
from rule_child import Vocabulary

CALL = Rule("tools", 'root ::= ">"? "<call>" [0-9]+ "</call>"', special=frozenset())


class Core(Vocabulary):
    """Notes what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.masks: dict[int, bytes] = {}
        self.errors: list[str] = []
        self.is_lifted = False

    def lift_mask(self, request_id: int) -> None:
        self.is_lifted = True

    def set_mask(self, request_id: int, index: int, mask: bytes) -> None:
        self.masks[index] = mask

    def fail_mask(self, request_id: int, error: str) -> None:
        self.errors.append(error)


class Delta:
    request_id = 7
    finish_reason = None

    def __init__(self, token: int, n_completion: int) -> None:
        self.token_ids = [token]
        self.n_completion = n_completion


def allowed(mask: bytes) -> str:
    """Characters that may be next; * for any token."""
    if not mask:
        return "*"
    return "".join(chr(t) for t in range(128) if mask[t >> 3] >> (t & 7) & 1)


def masks_behind(text: str, triggers: Triggers) -> list[str]:
    """What may be next behind each character; empty: nobody was told."""
    core = Core()
    guides = GuideCache(cast("_core.BatchEngine", core))
    masks = TokenMasks(cast("_core.BatchEngine", core), threaded=False)
    masks.start([7], OutputConstraint(guides.n_vocab, guides.make(CALL), triggers))
    for i, token in enumerate(text.encode()):
        masks.advance(masks.of(cast("Sequence[_core.Delta]", [Delta(token, i + 1)])))
    assert not core.errors
    return [allowed(core.masks[i + 1]) if i + 1 in core.masks else "" for i in range(len(text))]


DIGITS = "0123456789"


@pytest.mark.parametrize(
    ("text", "triggers", "last"),
    [
        ("so <call", Triggers(("<call>",)), ["", ""]),
        ("so <call>", Triggers(("<call>",)), ["", DIGITS]),
        ("so <call>12", Triggers(("<call>",)), [DIGITS, DIGITS + "<", DIGITS + "<"]),
        ("so <call>1<", Triggers(("<call>", "{")), [DIGITS + "<", "/"]),
        ("a >", Triggers((), (">",)), ["*", "*", "<"]),
        ("a ><call>", Triggers((), ("a (>)",)), ["*", "<", "c", "a", "l", "l", ">", DIGITS]),
        (" <", Triggers((), ("^<$",)), ["*", "*"]),
        ("<", Triggers((), ("^<$",)), ["c"]),
        ("<\n", Triggers((), ("^x|q$",)), ["*", "*"]),
        (
            "<t>a <call> b</t>c",
            Triggers(("<call>",), reasoning=ReasoningMarkers("<t>", ("</t>", "</s>"))),
            ["*"] * 6 + ["*", "*"],
        ),
        (
            "<t>a</s><call>",
            Triggers(("<call>",), reasoning=ReasoningMarkers("<t>", ("</t>", "</s>"))),
            ["", DIGITS],
        ),
        (
            "a <call></t><call>",
            Triggers(("<call>",), reasoning=ReasoningMarkers("<t>", ("</t>",), "x<t>")),
            ["*"] * 9 + [DIGITS],
        ),
    ],
)
def test_a_rule_is_obeyed_from_its_trigger_on(
    text: str, triggers: Triggers, last: list[str]
) -> None:
    assert masks_behind(text, triggers)[-len(last) :] == last


def test_what_does_not_obey_behind_a_trigger_ends_its_request() -> None:
    core: Any = Core()
    guides = GuideCache(core)
    masks = TokenMasks(core, threaded=False)
    triggers = Triggers(("<call>",))
    masks.start([7], OutputConstraint(guides.n_vocab, guides.make(CALL), triggers))
    for i, token in enumerate(b"<call>x"):
        masks.advance(masks.of(cast("Sequence[_core.Delta]", [Delta(token, i + 1)])))
    (error,) = core.errors
    assert error == "the output constraint failed: the output cannot be continued"


def test_a_prefix_stands_in_the_prompt() -> None:
    core: Any = Core()
    guide = GuideCache(core).make(Rule("tools", CALL.text, prefix="<call>1"))
    assert allowed(guide.first_mask) == DIGITS + "<"


@pytest.mark.parametrize(("kind", "fails"), [("grammar", True), ("tools", False)])
def test_masks_that_take_too_long_together_end_their_request(
    monkeypatch: pytest.MonkeyPatch, kind: str, fails: bool
) -> None:
    times = (float(i) for i in range(1000))  # each mask takes a second
    monkeypatch.setattr(masks_module.time, "thread_time", lambda: next(times))
    monkeypatch.setattr(masks_module, "_MEAN_OF_TOOLS_S", 1.0)
    core = Core()
    guides = GuideCache(cast("_core.BatchEngine", core))
    masks = TokenMasks(cast("_core.BatchEngine", core), threaded=False)
    masks.start([7], OutputConstraint(guides.n_vocab, guides.make(Rule(kind, "root ::= [a-z]*"))))
    for i in range(8):
        masks.advance(masks.of(cast("Sequence[_core.Delta]", [Delta(ord("a"), i + 1)])))
    assert any("must take at most 2 s + 0.02 s per token" in e for e in core.errors) is fails
    assert len(core.masks) == (2 if fails else 8)


def test_a_pattern_that_does_not_compile_is_refused_before_the_request_is_queued() -> None:
    class Grammar:
        words: tuple[str, ...] = ()
        patterns = ("(<call>",)
        thought_begin = generation_prompt = ""
        thought_ends: tuple[str, ...] = ()

    with pytest.raises(InvalidRequestError, match="tool call format cannot be used: missing \\)"):
        Triggers.of(cast("_core.ToolGrammar", Grammar()))


THOUGHTS = ReasoningMarkers("<t>", ("</t>", "</s>"))


def spoken_under(budget: ReasoningBudget, said: str, rule: Rule | None = None) -> tuple[str, Core]:
    """What is output if the model wants to say a text: forced tokens replace its own."""
    core = Core()
    guides = GuideCache(cast("_core.BatchEngine", core))
    masks = TokenMasks(cast("_core.BatchEngine", core), threaded=False)
    guide = None if rule is None else guides.make(rule)
    triggers = None if rule is None else Triggers(("<call>",), reasoning=budget.markers)
    constraint = OutputConstraint(guides.n_vocab, guide, triggers, budget)
    masks.start([7], constraint)
    assert constraint.first_mask is not None
    assert not constraint.words
    mask, text, left = constraint.first_mask, b"", list(said.encode())
    while left:
        may_be = allowed(mask)
        token = ord(may_be) if len(may_be) == 1 and may_be != "*" else left.pop(0)
        text += bytes([token])
        masks.advance(masks.of(cast("Sequence[_core.Delta]", [Delta(token, len(text))])))
        mask = core.masks.get(len(text), b"")
        assert core.is_lifted or len(text) in core.masks
    assert not core.errors
    return text.decode(), core


@pytest.mark.parametrize(
    ("said", "n_tokens", "spoken"),
    [
        ("<t>abcdef", 3, "<t>abc</t>def"),
        ("<t>abcdef", 0, "<t></t>abcdef"),
        ("<t>ab</s>cdef", 6, "<t>ab</s>cdef"),
        ("<t>ab</s>cdef", 4, "<t>ab</</t>s>cdef"),
        ("<t>\u00e4\u00f6", 1, "<t>\u00e4</t>\u00f6"),
        ("no thought at all", 0, "no thought at all"),
    ],
)
def test_reasoning_ends_when_its_budget_is_spent(said: str, n_tokens: int, spoken: str) -> None:
    budget = ReasoningBudget(n_tokens, THOUGHTS, tuple(b"</t>"))
    text, core = spoken_under(budget, said)
    assert text == spoken
    assert core.is_lifted is ("<t>" in said)


def test_a_budget_of_none_closes_reasoning_that_the_prompt_opens() -> None:
    markers = ReasoningMarkers("<t>", ("</t>",), "assistant<t>")
    text, _ = spoken_under(ReasoningBudget(0, markers, tuple(b"</t>")), "hello")
    assert text == "</t>hello"


def test_calls_obey_their_rule_behind_reasoning_with_a_budget() -> None:
    budget = ReasoningBudget(2, THOUGHTS, tuple(b"</t>"))
    text, core = spoken_under(budget, "<t>abc <call>12", CALL)
    assert text == "<t>ab</t>c <call>12"
    assert allowed(core.masks[len(text)]) == DIGITS + "<"
    assert not core.is_lifted
