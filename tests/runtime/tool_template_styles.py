"""Chat templates of our own that write tools, calls, results and thoughts as those of well-known models do; not their texts."""

from __future__ import annotations

from tests.runtime.deepseek_template_styles import DEEPSEEK_R1, DEEPSEEK_V3, DEEPSEEK_V31

_CHATML_TURN = "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
_ASK = "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"

#: tools between tags in the system message, calls between tags, neighbouring results in one turn of the user
HERMES = (
    """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {{- 'Functions:\\n<tools>' }}
    {%- for tool in tools %}{{- '\\n' + (tool | tojson) }}{%- endfor %}
    {{- '\\n</tools>\\nCall them as <tool_call>\\n{"name": NAME, "arguments": OBJECT}\\n</tool_call><|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first)
        or (message.role == 'assistant' and not message.tool_calls) %}
        """
    + _CHATML_TURN
    + """
    {%- elif message.role == 'assistant' %}
        {{- '<|im_start|>assistant' }}
        {%- if message.content %}{{- '\\n' + message.content }}{%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}{%- set tool_call = tool_call.function %}{%- endif %}
            {{- '\\n<tool_call>\\n{"name": "' + tool_call.name + '", "arguments": ' + (tool_call.arguments | tojson) }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
"""
    + _ASK
)
#: thoughts of the turn that still goes on, arguments as a text or as an object
QWEN3 = (
    """\
{%- if tools %}
    {{- '<|im_start|>system\\n<tools>' }}
    {%- for tool in tools %}{{- '\\n' + (tool | tojson) }}{%- endfor %}
    {{- '\\n</tools><tool_call></tool_call><|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(going=true, last=messages | length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = messages | length - 1 - loop.index0 %}
    {%- if ns.going and message.role == 'user' and message.content is string %}
        {%- set ns.going = false %}{%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role in ['user', 'system'] %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
    {%- elif message.role == 'assistant' %}
        {%- set thoughts = '' %}
        {%- if message.reasoning_content is string %}
            {%- set thoughts = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thoughts = content.split('</think>')[0].split('<think>')[-1].strip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if loop.index0 > ns.last and (loop.last or thoughts) %}
            {{- '<think>\\n' + thoughts.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}{{- content }}{%- endif %}
        {%- for tool_call in message.tool_calls or [] %}
            {%- if (loop.first and content) or not loop.first %}{{- '\\n' }}{%- endif %}
            {{- '<tool_call>\\n{"name": "' + tool_call.function.name + '", "arguments": ' }}
            {%- if tool_call.function.arguments is string %}{{- tool_call.function.arguments }}
            {%- else %}{{- tool_call.function.arguments | tojson }}{%- endif %}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + content + '\\n</tool_response><|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
"""
    + _ASK
    + "{%- if add_generation_prompt and enable_thinking is defined and enable_thinking is false %}"
    "{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
)
#: tools as XML by macros, arguments by their items
QWEN_CODER = (
    """\
{%- macro described(thing) %}{%- for key, value in thing | items %}
{{- '\\n<' ~ key ~ '>' ~ (value | tojson | safe if value is mapping or value is not string else value) ~ '</' ~ key ~ '>' }}
{%- endfor %}{%- endmacro %}
{%- if tools %}
    {{- '<|im_start|>system\\n<tools>' }}
    {%- for tool in tools %}{{- '\\n<function>' }}{{ described(tool.function) }}{{- '\\n</function>' }}{%- endfor %}
    {{- '\\n</tools>\\n<tool_call>\\n<function=NAME>\\n<parameter=KEY>\\nvalue\\n</parameter>\\n</function><|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'assistant' and message.tool_calls is iterable and message.tool_calls | length > 0 %}
        {{- '<|im_start|>assistant' }}
        {%- if message.content is defined and message.content is string and message.content | trim | length > 0 %}
            {{- '\\n' + message.content | trim + '\\n' }}
        {%- endif %}
        {%- for tool_call in message.tool_calls %}
            {{- '\\n<tool_call>\\n<function=' + tool_call.function.name + '>\\n' }}
            {%- for key, value in tool_call.function.arguments | items %}
                {{- '<parameter=' + key + '>\\n' }}
                {{- value | tojson if value is mapping or (value is sequence and value is not string) else value | string }}
                {{- '\\n</parameter>\\n' }}
            {%- endfor %}
            {{- '</function>\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response>\\n<|im_end|>\\n' }}
    {%- else %}
        """
    + _CHATML_TURN
    + """
    {%- endif %}
{%- endfor %}
"""
    + _ASK
)
#: tools in the first message of the user, one call at a time, results as JSON
LLAMA = """\
{{- bos_token }}
{%- if custom_tools is defined %}{%- set tools = custom_tools %}{%- endif %}
{%- if tools is none %}{%- set tools = [] %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}{%- set messages = messages[1:] %}
{%- else %}{%- set system = '' %}{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' + ('Environment: ipython\\n' if tools else '') + system + '<|eot_id|>' }}
{%- if tools %}
    {%- set first = messages[0]['content'] | trim %}{%- set messages = messages[1:] %}
    {{- '<|start_header_id|>user<|end_header_id|>\\n\\nAnswer with {"name": NAME, "parameters": OBJECT}.\\n\\n' }}
    {%- for tool in tools %}{{- tool | tojson(indent=4) }}{{- '\\n\\n' }}{%- endfor %}
    {{- first + '<|eot_id|>' }}
{%- endif %}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if message.tool_calls | length != 1 %}{{- raise_exception('One call at a time') }}{%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n{"name": "' + tool_call.name + '", "parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- '}<|eot_id|>' }}
    {%- else %}
        {{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' }}
        {%- if message.content is mapping %}{{- message.content | tojson }}{%- else %}{{- message.content }}{%- endif %}
        {{- '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}
"""
_MISTRAL_RESULT = """\
        {%- if message.tool_call_id is not defined or message.tool_call_id | length != 9 %}
            {{- raise_exception('An id has nine letters and digits') }}
        {%- endif %}
"""
#: tools before the last question, calls as a list of objects with ids of nine letters
MISTRAL = (
    """\
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- set user_messages = messages | selectattr('role', 'equalto', 'user') | list %}
{{- bos_token }}
{%- for message in messages %}
    {%- if message['role'] == 'user' %}
        {%- if tools is not none and message == user_messages[-1] %}
            {{- '[AVAILABLE_TOOLS] [' }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != 'return' %}
                    {{- '"' + key + '": ' }}{{- '"' + val + '"' if val is string else val | tojson }}
                    {%- if not loop.last %}{{- ', ' }}{%- endif %}
                {%- endfor %}
                {{- '}}' }}{%- if not loop.last %}{{- ', ' }}{%- else %}{{- ']' }}{%- endif %}
            {%- endfor %}
            {{- '[/AVAILABLE_TOOLS]' }}
        {%- endif %}
        {{- '[INST] ' + message['content'] + '[/INST]' }}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- '[TOOL_CALLS] [' }}
        {%- for tool_call in message.tool_calls %}
            {%- set out = tool_call.function | tojson %}
            {{- out[:-1] }}
            {%- if not tool_call.id is defined or tool_call.id | length != 9 %}
                {{- raise_exception('An id has nine letters and digits') }}
            {%- endif %}
            {{- ', "id": "' + tool_call.id + '"}' }}
            {%- if not loop.last %}{{- ', ' }}{%- else %}{{- ']' + eos_token }}{%- endif %}
        {%- endfor %}
    {%- elif message['role'] == 'assistant' %}{{- ' ' + message['content'] | trim + eos_token }}
    {%- elif message['role'] == 'tool' %}
"""
    + _MISTRAL_RESULT
    + """\
        {{- '[TOOL_RESULTS] {"content": ' + message.content | string + ', "call_id": "' + message.tool_call_id + '"}' }}
        {{- '[/TOOL_RESULTS]' }}
    {%- elif message['role'] != 'system' %}{{- raise_exception('Unknown role') }}
    {%- endif %}
{%- endfor %}
"""
)
#: a name before its arguments, thoughts in brackets, contents as texts or parts
MISTRAL_V11 = (
    """\
{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == 'system' %}{{- '[SYSTEM_PROMPT]' + message.content + '[/SYSTEM_PROMPT]' }}
    {%- elif message.role == 'user' %}
        {%- if tools and loop.last %}{{- '[AVAILABLE_TOOLS]' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}{%- endif %}
        {{- '[INST]' }}
        {%- if message.content is string %}{{- message.content }}
        {%- else %}{%- for block in message.content %}{{- block.text }}{%- endfor %}{%- endif %}
        {{- '[/INST]' }}
    {%- elif message.role == 'assistant' %}
        {%- if message.reasoning_content %}{{- '[THINK]' + message.reasoning_content + '[/THINK]' }}{%- endif %}
        {%- if message.content is string %}{{- message.content }}{%- endif %}
        {%- if message.tool_calls is defined and message.tool_calls | length > 0 %}
            {%- for tool in message.tool_calls %}
                {%- set arguments = tool.function.arguments %}
                {%- if arguments is not string %}{%- set arguments = arguments | tojson | safe %}{%- endif %}
                {{- '[TOOL_CALLS]' + tool.function.name + '[ARGS]' + arguments }}
            {%- endfor %}
        {%- endif %}
        {{- eos_token }}
    {%- elif message.role == 'tool' %}
"""
    + _MISTRAL_RESULT
    + """\
        {{- '[TOOL_RESULTS]' + message.content + '[/TOOL_RESULTS]' }}
    {%- endif %}
{%- endfor %}
"""
)
#: calls whole by tojson, names of roles from a table, results by their names
GRANITE = """\
{%- set names = {'system': 'system', 'user': 'user', 'assistant': 'assistant', 'tool': 'tool_response'} %}
{%- if tools %}{{- '<|start_of_role|>tools<|end_of_role|>' + (tools | tojson(indent=4)) + '<|end_of_text|>\\n' }}{%- endif %}
{%- for message in messages %}
    {{- '<|start_of_role|>' + names[message.role] + '<|end_of_role|>' + (message.content or '') }}
    {%- for tool_call in message.tool_calls or [] %}{{- '\\n<tool_call>' + (tool_call | tojson) + '</tool_call>' }}{%- endfor %}
    {{- '<|end_of_text|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_of_role|>assistant<|end_of_role|>' }}{%- endif %}
"""
#: tools in tokens of their own, the reply in a generation block, thoughts under another name
PHI4 = """\
{%- for message in messages %}
    {%- if message['role'] == 'system' and tools is not none %}
        {{- '<|system|>' + message['content'] + '<|tool|>' + (tools | tojson) + '<|/tool|><|end|>' }}
    {%- elif message['role'] == 'assistant' %}
        {{- '<|assistant|>' }}{%- generation %}
        {{- ('<thinking>' + message.thinking + '</thinking>' if message.thinking) }}{{- message.content or '' }}
        {%- for call in message.tool_calls or [] %}{{- '<|tool_call|>' + (call.function | tojson(indent=1)) }}{%- endfor %}
        {%- endgeneration %}{{- '<|end|>' }}
    {%- else %}{{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}
    {%- endif %}
{%- endfor %}
{{- '<|assistant|>' if add_generation_prompt else eos_token }}
"""

TOOL_STYLES = {
    "hermes": HERMES,
    "qwen3": QWEN3,
    "qwen-coder": QWEN_CODER,
    "llama": LLAMA,
    "mistral": MISTRAL,
    "mistral-v11": MISTRAL_V11,
    "deepseek-v3": DEEPSEEK_V3,
    "deepseek-r1": DEEPSEEK_R1,
    "deepseek-v3.1": DEEPSEEK_V31,
    "granite": GRANITE,
    "phi4": PHI4,
    "command": """\
{{- bos_token }}
{%- for message in messages %}
    {%- if message.role | lower == 'assistant' %}
        {{- '<|CHATBOT|>' }}
        {%- if message.tool_calls %}
            {{- '<|START_THINKING|>' + (message.reasoning_content or '') + '<|END_THINKING|><|START_ACTION|>[' }}
            {%- for tool_call in message.tool_calls %}
                {{- '{"tool_call_id": "' ~ loop.index0 ~ '", "tool_name": "' + tool_call.function.name + '", "parameters": ' }}
                {{- tool_call.function.arguments | tojson }}{{- '}' }}{% if not loop.last %}{{- ',' }}{% endif %}
            {%- endfor %}
            {{- ']<|END_ACTION|>' }}
        {%- else %}{{- '<|START_RESPONSE|>' + message.content + '<|END_RESPONSE|>' }}{%- endif %}
    {%- elif message.role == 'tool' %}{{- '<|START_TOOL_RESULT|>' + (message.content | tojson) + '<|END_TOOL_RESULT|>' }}
    {%- else %}{{- '<|' + message.role | upper + '|>' + message.content }}{%- endif %}
    {{- '<|END_OF_TURN|>' }}
    {%- if loop.first and tools %}{{- tools | map(attribute='function') | list | tojson }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|CHATBOT|>' }}{%- endif %}
""",
}
