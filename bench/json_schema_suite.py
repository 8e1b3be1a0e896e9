"""Which JSON schemas are accepted, and whether outputs conform to them.

    python bench/json_schema_suite.py SUITE.json [--samples 20] [--max-tokens 300] [--model MODEL]

SUITE.json holds the official JSON-Schema-Test-Suite: file -> groups of {schema, tests}. For each
accepted schema, --samples outputs are generated at temperature 1; those that finish with "stop" are
validated by the jsonschema package. Prints a table by file, the reasons of rejections, and each
invalid output.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from llamaherd import LLM, EngineConfig, FinishReason, InvalidRequestError, SamplingParams
from llamaherd.models import DEFAULT_MODEL
from referencing.exceptions import Unresolvable


@dataclass
class Tally:
    """Counts of one file."""

    n_groups: int = 0
    n_accepted: int = 0
    n_judged: int = 0
    wrong: list[str] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)


def refusal_of(llm: LLM, schema: Any) -> str:
    """Reason of the rejection; "": the schema is accepted."""
    try:
        llm.engine.check(SamplingParams(json_schema=schema))
    except InvalidRequestError as error:
        return re.sub(r"\s+", " ", str(error).rpartition("cannot be used: ")[2])[:100]
    return ""


def is_obeyed(schema: Any, text: str) -> bool | None:
    """Whether the output is valid; None: the validator fails."""
    try:
        value = json.loads(text)
    except ValueError:
        return False
    try:
        return bool(Draft202012Validator(schema).is_valid(value))
    except (re.error, Unresolvable):
        return None


def sample(llm: LLM, schemas: list[Any], n: int, max_tokens: int) -> list[list[str]]:
    """Outputs that finished with "stop"."""
    messages = [{"role": "user", "content": "Answer with a JSON value."}]
    params = [
        SamplingParams(json_schema=schema, n=n, max_tokens=max_tokens, seed=i)
        for i, schema in enumerate(schemas)
    ]
    results = llm.generate([messages] * len(schemas), params)
    return [
        [c.text for c in (r.choices or (r,)) if c.finish_reason is FinishReason.STOP]
        for r in results
    ]


def run(llm: LLM, groups: list[Any], n_samples: int, max_tokens: int) -> Tally:
    tally = Tally(n_groups=len(groups))
    refusals = [refusal_of(llm, group["schema"]) for group in groups]
    accepted = [g for g, refusal in zip(groups, refusals, strict=True) if not refusal]
    tally.refused.update(refusal for refusal in refusals if refusal)
    tally.n_accepted = len(accepted)
    schemas = [group["schema"] for group in accepted]
    for group, texts in zip(accepted, sample(llm, schemas, n_samples, max_tokens), strict=True):
        for text in texts:
            verdict = is_obeyed(group["schema"], text)
            tally.n_judged += verdict is not None
            if verdict is False:
                tally.wrong.append(f"{group['description']}: {text}")
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("suite", type=Path)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--max-tokens", type=int, default=300)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    args = parser.parse_args()
    suite = json.loads(args.suite.read_text())
    config = EngineConfig(preset="high_throughput")
    tallies = {}
    with LLM(args.model, config, progress=False) as llm:
        for name, groups in suite.items():
            tallies[name] = run(llm, groups, args.samples, args.max_tokens)
            print(name, file=sys.stderr)
    print("| file | groups | accepted | outputs validated | invalid |")
    print("| --- | --- | --- | --- | --- |")
    for name, t in tallies.items():
        print(f"| {name} | {t.n_groups} | {t.n_accepted} | {t.n_judged} | {len(t.wrong)} |")
    n = [sum(getattr(t, f) for t in tallies.values()) for f in ("n_groups", "n_accepted")]
    n_wrong = sum(len(t.wrong) for t in tallies.values())
    n_judged = sum(t.n_judged for t in tallies.values())
    print(f"| all | {n[0]} | {n[1]} | {n_judged} | {n_wrong} |\n")
    refused: Counter[str] = Counter()
    for t in tallies.values():
        refused += t.refused
    for reason, count in refused.most_common():
        print(f"- rejected {count}: {reason}")
    for name, t in tallies.items():
        for text in t.wrong:
            print(f"- invalid, {name}: {text}")
    return 1 if n_wrong else 0


if __name__ == "__main__":
    sys.exit(main())
