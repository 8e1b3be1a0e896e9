"""Options and figures that are written in several places agree."""

from __future__ import annotations

import dataclasses
import inspect

from llamaherd import CacheMetrics, Metrics, SamplingParams
from llamaherd.cli.generate import generate
from llamaherd.server.api.request_schemas import SAMPLING_FIELDS
from llamaherd.server.observability import metrics

# Options that OpenAI's API spells in another way, or whose meaning differs between routes.
OF_ROUTES = {
    *("best_of", "echo", "json_object", "json_schema", "logprobs", "max_tokens"),
    *("infill", "prompt_logprobs", "prompt_logprobs_from"),
}

# Figures of Metrics and CacheMetrics that /metrics leaves out.
NOT_EXPORTED = {
    "follower_wait_ns",
    "mask_wait_ns",
    "n_cache_rebuilds",
    "n_cells_used_max",
    "n_damaged",
    "n_decode_steps",
    "n_dropped_disk",
    "n_dropped_ram",
    "n_followers",
    "n_holders",
    "n_holders_used",
    "n_mask_waits",
    "n_nodes",
    "n_padding_rows",
    "n_pins",
    "n_prompt_logits_hits",
    "n_saved",
    "n_sequences_dropped",
    "n_steps",
    "n_submitted",
    "n_threads",
    "prefill_budget_ns",
    "step_ns",
}


def exported_figures() -> set[str]:
    simple = {key for _, _, key in (*metrics._COUNTERS, *metrics._GAUGES, *metrics._CACHE_GAUGES)}
    sums = {key for _, _, keys in metrics._CACHE_COUNTERS for key in keys}
    parts = {key for *_, entries in metrics._PARTS for _, key, _ in entries}
    return simple | sums | parts


def figures() -> set[str]:
    names = {name for cls in (Metrics, CacheMetrics) for name in vars(cls) if name[0] != "_"}
    return names - {"as_dict", "cache"}


def test_every_figure_is_exported_or_listed_as_not_exported() -> None:
    assert exported_figures() | NOT_EXPORTED == figures()
    assert not exported_figures() & NOT_EXPORTED


def test_figures_have_descriptions() -> None:
    for cls in (Metrics, CacheMetrics):
        for name, value in vars(cls).items():
            assert name[0] == "_" or name == "cache" or inspect.getdoc(value), name


def test_http_bodies_have_every_sampling_option() -> None:
    names = {field.name for field in dataclasses.fields(SamplingParams)}
    assert names - OF_ROUTES <= set(SAMPLING_FIELDS)
    assert names >= OF_ROUTES


def test_generate_has_the_common_sampling_options() -> None:
    names = {field.name for field in dataclasses.fields(SamplingParams)}
    given = set(inspect.signature(generate).parameters)
    assert {"temperature", "top_k", "top_p", "min_p", "seed", "max_tokens"} <= names & given
