# ruff: noqa: RUF001 -- the markers have characters of their own
"""Chat templates of our own that write tools, calls and thoughts as DeepSeek's do."""

from __future__ import annotations

_DEEPSEEK_BEGIN = """\
{%- if not add_generation_prompt is defined %}{%- set add_generation_prompt = false %}{%- endif %}
{%- set ns = namespace(is_tool=false, is_first=true, system='') %}
{%- for message in messages %}
    {%- if message['role'] == 'system' %}{%- set ns.system = ns.system + message['content'] %}{%- endif %}
{%- endfor %}
{{- bos_token + ns.system }}
{%- for tool in tools or [] %}{{- '\\n' + (tool | tojson) }}{%- endfor %}
"""
#: arguments in a fence, which must be a text; a content that must be null; results in a row
DEEPSEEK_V3 = (
    _DEEPSEEK_BEGIN
    + """\
{%- for message in messages %}
    {%- if message['role'] == 'user' %}{%- set ns.is_tool = false %}{{- '<｜User｜>' + message['content'] }}{%- endif %}
    {%- if message['role'] == 'assistant' and message['content'] is none %}
        {%- set ns.is_tool = false %}{%- set ns.is_first = true %}
        {%- for tool in message['tool_calls'] %}
            {{- '<｜Assistant｜><｜tool▁calls▁begin｜>' if ns.is_first else '\\n' }}{%- set ns.is_first = false %}
            {{- '<｜tool▁call▁begin｜>' + tool['type'] + '<｜tool▁sep｜>' + tool['function']['name'] + '\\n```json\\n' }}
            {{- tool['function']['arguments'] + '\\n```<｜tool▁call▁end｜>' }}
        {%- endfor %}
        {{- '<｜tool▁calls▁end｜><｜end▁of▁sentence｜>' }}
    {%- endif %}
    {%- if message['role'] == 'assistant' and message['content'] is not none %}
        {{- ('<｜tool▁outputs▁end｜>' if ns.is_tool else '<｜Assistant｜>') + message['content'] + '<｜end▁of▁sentence｜>' }}
        {%- set ns.is_tool = false %}
    {%- endif %}
    {%- if message['role'] == 'tool' %}
        {{- '\\n' if ns.is_tool else '<｜tool▁outputs▁begin｜>' }}{%- set ns.is_tool = true %}
        {{- '<｜tool▁output▁begin｜>' + message['content'] + '<｜tool▁output▁end｜>' }}
    {%- endif %}
{%- endfor %}
{%- if ns.is_tool %}{{- '<｜tool▁outputs▁end｜>' }}{%- endif %}
{%- if add_generation_prompt and not ns.is_tool %}{{- '<｜Assistant｜>' }}{%- endif %}
"""
)
#: the same with thoughts that are cut off, and begun for the next answer
DEEPSEEK_R1 = DEEPSEEK_V3.replace(
    "message['content'] + '<｜end▁of▁sentence｜>'", "message['content'].split('</think>')[-1] + '<｜end▁of▁sentence｜>'"
).replace("{{- '<｜Assistant｜>' }}{%- endif %}\n", "{{- '<｜Assistant｜><think>\\n' }}{%- endif %}\n")
#: arguments without a fence, contents that are added to whatever they are, thoughts on demand
DEEPSEEK_V31 = (
    _DEEPSEEK_BEGIN
    + """\
{%- if not thinking is defined %}{%- set thinking = false %}{%- endif %}
{%- for message in messages %}
    {%- if message['role'] == 'user' %}{{- '<｜User｜>' + message['content'] + '<｜Assistant｜>' }}
    {%- elif message['role'] == 'assistant' %}
        {{- '</think>' }}
        {%- if message['tool_calls'] is defined and message['tool_calls'] is not none %}
            {{- ('' if message['content'] is none else message['content']) + '<｜tool▁calls▁begin｜>' }}
            {%- for tool in message['tool_calls'] %}
                {{- '<｜tool▁call▁begin｜>' + tool['function']['name'] + '<｜tool▁sep｜>' + tool['function']['arguments'] }}
                {{- '<｜tool▁call▁end｜>' }}
            {%- endfor %}
            {{- '<｜tool▁calls▁end｜><｜end▁of▁sentence｜>' }}
        {%- else %}{{- message['content'] + '<｜end▁of▁sentence｜>' }}{%- endif %}
    {%- elif message['role'] == 'tool' %}{{- '<｜tool▁output▁begin｜>' + message['content'] + '<｜tool▁output▁end｜>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt and messages[-1].role == 'user' %}{{- '<think>' if thinking else '</think>' }}{%- endif %}
"""
)
