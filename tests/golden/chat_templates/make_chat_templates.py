#!/usr/bin/env python3
"""Writes expected.json: what Jinja2, in the environment that transformers gives chat templates, makes of templates/ (whole
templates in the style of published ones) and of SNIPPETS (one construct each).

    python3 -m venv /tmp/jinja && /tmp/jinja/bin/pip install jinja2==3.1.6 && /tmp/jinja/bin/python make_chat_templates.py
"""
import datetime
import json
import pathlib

from jinja2.exceptions import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from snippets import SNIPPETS, VARIABLES

HERE = pathlib.Path(__file__).parent
NOW = 1722902400  # 2024-08-06 00:00:00, a Tuesday
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}


class Generation(Extension):
    """{% generation %}: transformers notes where the body stands; its text is the body."""

    tags = {"generation"}

    def parse(self, parser):
        next(parser.stream)
        from jinja2 import nodes
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True))


def environment():
    def raise_exception(message):
        raise TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    made.filters["tojson"] = tojson
    made.globals["raise_exception"] = raise_exception
    made.globals["strftime_now"] = lambda form: datetime.datetime.fromtimestamp(NOW, datetime.timezone.utc).strftime(form)
    return made


def u(text):
    return {"role": "user", "content": text}


def a(text):
    return {"role": "assistant", "content": text}


def s(text):
    return {"role": "system", "content": text}


CALL = {"id": "call12345", "type": "function",
        "function": {"name": "weather", "arguments": {"city": "Zürich", "days": 3, "exact": True, "share": 0.5, "no": None}}}
TOOLS = [{"type": "function", "function": {
    "name": "weather", "description": "Tells the weather.\nOf a city.",
    "parameters": {"type": "object", "required": ["city"], "properties": {
        "city": {"type": "string", "description": "which \"city\""}, "days": {"type": "integer", "minimum": 1},
        "unit": {"type": "string", "enum": ["C", "F"]},
        "list": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "number"}}}}}}}},
    {"type": "function", "function": {"name": "now", "description": "Time <of> day & date", "parameters": {"type": "object", "properties": {}}}}]
WITH_TOOLS = [u("How warm is it?"), {"role": "assistant", "content": "", "tool_calls": [CALL]},
              {"role": "tool", "tool_call_id": "call12345", "name": "weather", "content": "21 °C"}, a("It is warm."), u("Thanks!")]
CHATS = [
    {"messages": [u("Hi there")]},
    {"messages": [s("Be brief."), u("  padded \n"), a("ok"), u("日本 😀 \"quoted\" <b>")]},
    {"messages": [u("one"), a("two"), u("three"), a("four")], "add_generation_prompt": False},
    {"messages": [s("A"), s("B"), u("x")]},
    {"messages": [u("a"), u("b")]},
    {"messages": [a("first")]},
    {"messages": []},
    {"messages": [u("sum?"), a("<think>\nwell, 1+1\n</think>\n\n2"), u("and 2+2?"), a("<think>\nhm\n</think>\n\n4")]},
    {"messages": [{"role": "critic", "content": "x"}]},
    {"messages": [u("")], "extra": {"enable_thinking": False, "reasoning_effort": "high", "date_string": "1 Jan 2000"}},
    {"messages": WITH_TOOLS, "extra": {"tools": TOOLS}},
    {"messages": [s("Use tools."), *WITH_TOOLS[:3]], "extra": {"tools": TOOLS[:1], "tools_in_user_message": False}},
    {"messages": [u("twice"), {"role": "assistant", "content": "a word first", "tool_calls": [CALL, CALL]},
                  {"role": "tool", "content": "1", "tool_call_id": "x"}, {"role": "tool", "content": "2", "tool_call_id": "y"}]},
    {"messages": [u("null"), {"role": "assistant", "content": None, "tool_calls": [CALL]}, u("go on")]},
    {"messages": [u("line\r\nends\u2028and {{ braces }} {% of %} a template"), a("</s>"), u("\t")]},
]


def outcome(render):
    try:
        return {"text": render()}
    except TemplateError as e:
        raised = type(e) is TemplateError  # by raise_exception; what Jinja2 itself says is not compared
        return {"error": str(e) if raised else None}
    except (TypeError, ValueError, IndexError, KeyError, AttributeError, OverflowError, ZeroDivisionError):
        return {"error": None}


def main():
    jinja = environment()
    templates = []
    for path in sorted((HERE / "templates").glob("*.jinja")):
        compiled = jinja.from_string(path.read_text())
        cases = []
        for chat in CHATS:
            variables = {**SPECIAL, "messages": chat["messages"], "tools": None, "documents": None,
                         "add_generation_prompt": chat.get("add_generation_prompt", True), **chat.get("extra", {})}
            cases.append(outcome(lambda: compiled.render(**variables)))
        templates.append({"name": path.stem, "cases": cases})
    snippets = [{"source": source, **outcome(lambda: jinja.from_string(source).render(**VARIABLES))} for source in SNIPPETS]
    chats = [{"messages": json.dumps(c["messages"], ensure_ascii=False), "add_generation_prompt": c.get("add_generation_prompt", True),
              "extra": json.dumps(c.get("extra", {}), ensure_ascii=False)} for c in CHATS]
    document = {"made_by": "make_chat_templates.py, Jinja2 3.1.6", "now": NOW, "special": json.dumps(SPECIAL), "chats": chats,
                "templates": templates, "variables": json.dumps(VARIABLES, ensure_ascii=False),
                "messages": json.dumps(VARIABLES["messages"]), "snippets": snippets}
    (HERE / "expected.json").write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n")
    refused = sum("error" in case for t in templates for case in t["cases"])
    print(f"{len(templates)} templates x {len(CHATS)} chats, {refused} of them refused; {len(snippets)} snippets")


if __name__ == "__main__":
    main()
