"""The bounds of a server: their values, their messages, their page."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from llamaherd import EngineConfig, InvalidRequestError
from llamaherd.server.common.limits import Limits

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_holds_the_table() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "make_limits_page.py", "--check"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_pairs_set_limits_and_leave_the_others() -> None:
    limits = Limits.parse(["max_body_mib=0.5", " max_prompts = 7"])
    assert limits == dataclasses.replace(Limits(), max_body_mib=0.5, max_prompts=7)
    assert limits.most("max_body_mib") == 1 << 19
    assert limits.most("max_prompts") == 7


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        (["max_prompts"], "must be NAME=VALUE; got 'max_prompts'"),
        (["max_prompt=3"], "unknown limit 'max_prompt'; did you mean max_prompts?"),
        (["max_bodymib=3"], "did you mean max_body_mib"),
        (["=3"], "unknown limit ''"),
        (["max_prompts=3", "max_prompts=4"], "max_prompts is given twice"),
        (["max_prompts=0"], "max_prompts must be a whole number of prompts, > 0"),
        (["max_prompts=1.5"], "got 1.5"),
        (["max_prompts="], "got ''"),
        (["max_prompts=x"], "got 'x'"),
        (["max_body_mib=-1"], "max_body_mib must be a number of MiB, > 0"),
        (["max_body_mib=nan"], "got nan"),
        (["max_body_mib=inf"], "got inf"),
    ],
)
def test_a_bad_pair_is_refused(pairs: list[str], expected: str) -> None:
    with pytest.raises(InvalidRequestError, match=expected):
        Limits.parse(pairs)


@pytest.mark.parametrize("field", dataclasses.fields(Limits), ids=lambda field: str(field.name))
def test_every_limit_has_a_rule_and_an_answer(field: dataclasses.Field[object]) -> None:
    for value in (0, -1, float("nan"), True, "1"):
        with pytest.raises(InvalidRequestError, match=f"{field.name} must be"):
            Limits(**{field.name: value})  # type: ignore[arg-type]
    limits = Limits(**{field.name: 1})  # type: ignore[arg-type]
    most = limits.most(field.name)
    limits.require(field.name, most, what="x must hold")
    error = limits.error(field.name, most + 1, what="x must hold", param="x")
    assert error.status == field.metadata["exceeded"].status
    assert error.code == field.metadata["exceeded"].code
    assert f"at most {most} " in error.message
    assert f"got {most + 1} (limit {field.name})" in error.message


def test_queues_of_models_are_bounded_unless_they_have_bounds() -> None:
    limits = Limits(max_queued=5, max_queued_tokens=50)
    bounded = limits.bound_queue(EngineConfig())
    assert (bounded.max_queued, bounded.max_queued_tokens) == (5, 50)
    own = limits.bound_queue(EngineConfig(max_queued=9))
    assert (own.max_queued, own.max_queued_tokens) == (9, 50)
