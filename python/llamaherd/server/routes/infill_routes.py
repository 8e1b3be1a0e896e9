"""/infill: llama-server's endpoint to fill in the middle, for llama.vim and llama.vscode."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from llamaherd.config.params import SamplingParams
from llamaherd.request.infill import ExtraFile, InfillPrompt
from llamaherd.server.api import response_schemas
from llamaherd.server.api.infill_schemas import InfillRequest
from llamaherd.server.api.response_schemas import ERRORS
from llamaherd.server.common.errors import ApiError
from llamaherd.server.common.settings import ServerSettings
from llamaherd.server.jobs.context import Context
from llamaherd.server.routes.body_route import BodyRoute
from llamaherd.server.routes.infill_writer import InfillWriter
from llamaherd.server.routes.respond import respond

router = APIRouter(route_class=BodyRoute)
# llama.cpp's default order, which is that of SamplingParams.
_ORDER = ("penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc",
          "temperature", "infill")  # fmt: skip


@router.post(
    "/infill",
    response_model=response_schemas.Infill,
    responses={**ERRORS, 200: response_schemas.events("With stream: the text in pieces.")},
)
async def infill(body: InfillRequest, request: Request) -> Response:
    """Fill in the middle between a prefix and a suffix."""
    context: Context = request.app.state.context
    if any(adapter.scale != 0 for adapter in body.lora):
        raise ApiError(
            400, "lora is not supported: omit it", param="lora", code="unsupported_field"
        )
    prompt = InfillPrompt(
        prefix=body.input_prefix,
        suffix=body.input_suffix,
        line=body.prompt,
        extra=[ExtraFile(chunk.filename, chunk.text) for chunk in body.input_extra],
        suffix_first=context.settings.spm_infill,
        truncate=True,
    )
    params = _params(body, context.settings)
    return await respond(request, body, [prompt], params, lambda job: InfillWriter(job, body))


def _params(body: InfillRequest, settings: ServerSettings) -> SamplingParams:
    n_predict = settings.default_max_tokens if body.n_predict == -1 else body.n_predict
    return SamplingParams(
        **_samplers(body),
        max_tokens=max(1, n_predict),  # a prompt is computed once its next token is sampled
        seed=None if body.seed == -1 else body.seed,
        stop=[text for text in body.stop if text],
        ignore_eos=body.ignore_eos,
        grammar=body.grammar,
    )


def _samplers(body: InfillRequest) -> dict[str, Any]:
    """Options of the samplers that are used."""
    used = _ORDER[:-1] if body.samplers is None else tuple(body.samplers)
    if list(used) != sorted(set(used), key=_ORDER.index):
        raise ApiError(
            400,
            f"samplers must be in the order {', '.join(_ORDER)}, each at most once; got "
            f"{', '.join(used)}",
            param="samplers",
        )
    options: dict[str, Any] = {}
    if "penalties" in used:
        options["repetition_penalty"] = body.repeat_penalty
        options["presence_penalty"] = body.presence_penalty
        options["frequency_penalty"] = body.frequency_penalty
    if "top_k" in used:
        options["top_k"] = max(0, body.top_k)
    if "typ_p" in used:
        options["typical_p"] = body.typical_p
    if "top_p" in used:
        options["top_p"] = body.top_p
    if "min_p" in used:
        options["min_p"] = body.min_p
    if "temperature" in used:
        options["temperature"] = max(0.0, body.temperature)
    if "infill" in used:
        options["infill"] = True
    return options
