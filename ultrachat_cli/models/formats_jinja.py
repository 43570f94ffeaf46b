"""The chat formats of formats.py as Jinja templates, for everybody else's software."""

from __future__ import annotations

from ultrachat_cli.models.formats import FORMATS, TOKENIZER, Format


def jinja(name: str) -> str | None:
    """A template that renders as `formats.text` does; None for `tokenizer`, whose template is there already."""
    if name == TOKENIZER:
        return None
    chat_format = FORMATS[name]
    closed = "{%- set ns.opened = false -%}" if chat_format.system_opens_user else ""
    lines = [
        "{%- set ns = namespace(asked=false, opened=false) -%}",
        "{{- bos_token if bos_token }}" if chat_format.bos else "",
        "{%- for message in messages -%}",
        f"{{%- if not loop.first -%}}{_out(chat_format.between)}{{%- endif -%}}" if chat_format.between else "",
        "{%- if message['role'] == 'system' -%}",
        _out(chat_format.system[0]), "{{- message['content'] }}", _out(chat_format.system[1]),
        "{%- set ns.opened = true -%}" if chat_format.system_opens_user else "",
        "{%- elif message['role'] == 'user' -%}",
        _user(chat_format), "{{- message['content'] }}", _out(chat_format.user[1]),
        "{%- set ns.asked = true -%}", closed,
        "{%- elif message['role'] == 'assistant' -%}",
        _assistant(chat_format), closed,
        "{%- else -%}{{- raise_exception('unknown role: ' + message['role']) }}",
        "{%- endif -%}",
        "{%- endfor -%}",
        "{%- if add_generation_prompt -%}",
        f"{{%- if messages -%}}{_out(chat_format.between)}{{%- endif -%}}" if chat_format.between else "",
        _out(chat_format.assistant[0]),
        "{%- endif -%}",
    ]  # fmt: skip
    return "\n".join(line for line in lines if line) + "\n"


def _user(chat_format: Format) -> str:
    """What stands before a user's text: nothing inside an opened turn, something else from the second round on."""
    first, later = chat_format.user[0], chat_format.later_user
    text = (
        _out(first)
        if later is None
        else f"{{%- if ns.asked -%}}{_out(later)}{{%- else -%}}{_out(first)}{{%- endif -%}}"
    )
    return f"{{%- if not ns.opened -%}}{text}{{%- endif -%}}" if chat_format.system_opens_user else text


def _assistant(chat_format: Format) -> str:
    whole = (
        _out(chat_format.assistant[0] + chat_format.lead) + "{{- message['content'] }}"
        + _out(chat_format.assistant[1] + chat_format.after_end)
    )  # fmt: skip
    if chat_format.past_assistant is None:
        return whole
    before, after = chat_format.past_assistant
    past = _out(before) + "{{- message['content'] }}" + _out(after)
    return f"{{%- if loop.last -%}}{whole}{{%- else -%}}{past}{{%- endif -%}}"


def _out(text: str) -> str:
    """An expression that writes a text, whitespace included."""
    if not text:
        return ""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"{{{{- '{escaped}' }}}}"
