"""Chat templates whose tool calls and thoughts can be read; the default model's has neither."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from llamaherd import BatchEngine, EngineConfig

TOOLS_AND_THOUGHTS = """
{%- if tools %}
{{- '<|im_start|>system\nYou may call these tools:\n' }}
{%- for tool in tools %}{{- tool | tojson }}{{- '\n' }}{%- endfor %}
{{- '<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\n' }}
{%- if message.role == 'assistant' and message.reasoning_content %}
{{- '<think>\n' + message.reasoning_content + '\n</think>\n\n' }}
{%- endif %}
{{- message.content or '' }}
{%- for call in message.tool_calls or [] %}
{{- '<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' }}
{{- call.function.arguments | tojson }}
{{- '}\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\n' }}
{%- if enable_thinking is defined and not enable_thinking %}
{{- '<think>\n\n</think>\n\n' }}
{%- endif %}
{%- endif %}
"""

# llama.cpp chooses the parser of a family by words in the template's source.
_WORDS = {
    "cohere2moe": "<|START_TEXT|> <|START_ACTION|>",
    "deepseek": "dsml_token DSML tool_calls",
    "functionary": ">>>all >>>${recipient}",
    "gemma4": "'<|tool_call>call:'",
    "gigachat": "<|role_sep|> <|message_sep|>",
    "gpt_oss": "<|channel|>",
    "kimi_k2": "<|tool_calls_section_begin|> <|tool_call_begin|>",
    "kimi_k3": "<|open|> <|close|> <|end_of_msg|>",
    "lfm2": "List of tools: [",
    "ling3": "<role>ASSISTANT</role> <arg_key>",
    "minicpm5": 'Tool usage guidelines: <function name=" <param name="',
    "minimax_m3": "]<]minimax[>[ <tool_call> <invoke name=",
    "ministral3": "[SYSTEM_PROMPT] [TOOL_CALLS] [ARGS]",
    "muse_glimmer": "<atem:function_calls> <|eom|>",
    "qwen3_coder": "<tool_call> <function= <parameter=",
}
# What begins the assistant's turn, where the family's parser asks for it.
_BEGINNINGS = {
    "cohere2moe": "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
    "deepseek": "<\uff5cAssistant\uff5c>",
    "functionary": "<|start_header_id|>assistant<|end_header_id|>\n\n>>>",
    "gemma4": "<|turn>model\n",
    "gigachat": "assistant<|role_sep|>\n",
    "gpt_oss": "<|start|>assistant",
    "kimi_k2": "<|im_assistant|>assistant<|im_middle|>",
    "ling3": "<role>ASSISTANT</role>",
    "ministral3": "",
}


def _family(name: str, words: str) -> str:
    template = f"{{# {words} #}}{TOOLS_AND_THOUGHTS}"
    beginning = _BEGINNINGS.get(name, "<|im_start|>assistant\n")
    return template.replace("<|im_start|>assistant\n", beginning)


FORMATS = {"hermes": TOOLS_AND_THOUGHTS} | {
    name: _family(name, words) for name, words in _WORDS.items()
}


class FamilyEngines:
    """One engine for each family's template, made when it is first asked for."""

    def __init__(self, model: Path, templates: Mapping[str, str]) -> None:
        self._model = model
        self._templates = templates
        self._made: dict[str, BatchEngine] = {}

    def get(self, family: str) -> BatchEngine:
        if family not in self._made:
            config = EngineConfig(
                n_ctx=256,
                max_seqs=1,
                n_threads=1,
                warmup=False,
                chat_template=self._templates[family],
            )
            self._made[family] = BatchEngine(self._model, config, progress=False)
        return self._made[family]

    def close(self) -> None:
        for engine in self._made.values():
            engine.close()
