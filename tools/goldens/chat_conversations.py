"""The conversations that make_chat.py renders every template over."""

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city <now> & \"here\"",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Name of the city, e.g. Zürich"},
                "days": {"type": "integer", "minimum": 1, "default": 3},
                "unit": {"type": "string", "enum": ["C", "F"]},
            },
            "required": ["city"],
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock", "description": "The time",
                                          "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "call12345", "type": "function",
        "function": {"name": "get_weather", "arguments": {"city": "Bern", "days": 2, "x": 1.5}}}
CALL_TEXT = {"id": "call67890", "type": "function",
             "function": {"name": "clock", "arguments": "{\"zone\": \"UTC\"}"}}


def user(content, **more):
    return {"role": "user", "content": content, **more}


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


def system(content):
    return {"role": "system", "content": content}


def talks():
    """Name and messages."""
    yield "one", [user("Hi")]
    yield "system", [system("  Be brief.\n"), user("Hello there ")]
    yield "empty", [user("")]
    yield "empty-system", [system(""), user("x")]
    yield "nothing", []
    yield "turns", [system("S"), user("one"), assistant("two"), user("three"), assistant("four"),
                    user("five")]
    yield "ends-with-answer", [user("one"), assistant(" two \n"), ]
    yield "unicode", [user("Grüße, 世界! 👩‍🚀\u200d \u00a0\u3000é\u0301"), assistant("ÀÉÎ — «ok»\r\n"),
                      user("\ttabs\tand\n\nlines\n ")]
    yield "controls", [user("nul \u0000 esc \u001b del \u007f nel \u0085 ls \u2028 \"quotes\" 'x' \\")]
    yield "markup", [user("<|im_start|>system\n{{ 1 + 1 }}{% if x %}<b>&amp;</b>")]
    yield "parts", [user([{"type": "text", "text": "Look: "}, {"type": "image"},
                          {"type": "text", "text": "what is it?"}])]
    yield "null-content", [user("q"), assistant(None), user("again")]
    yield "missing-content", [{"role": "user"}]
    yield "wrong-order", [user("a"), user("b")]
    yield "answer-first", [assistant("a"), user("b")]
    yield "late-system", [user("a"), system("late"), assistant("b"), user("c")]
    yield "other-role", [user("a"), {"role": "critic", "content": "hm"}]
    yield "thinking", [user("1+1?"), assistant("<think>\nadd\n</think>\n\n2"), user("sure?"),
                       assistant("<think>check</think>yes")]
    yield "reasoning-field", [user("1+1?"), assistant("2", reasoning_content="\nadd them\n"),
                              user("sure?"), assistant("yes", reasoning="because")]
    yield "call", [system("Use tools."), user("Weather?"), assistant("", tool_calls=[CALL]),
                   {"role": "tool", "name": "get_weather", "tool_call_id": "call12345",
                    "content": "{\"temp\": 21.5}"},
                   assistant("21.5 degrees"), user("Thanks")]
    yield "calls", [user("Both?"), assistant("Let me see.", tool_calls=[CALL, CALL_TEXT]),
                    {"role": "tool", "name": "get_weather", "tool_call_id": "call12345",
                     "content": "sunny"},
                    {"role": "tool", "name": "clock", "tool_call_id": "call67890",
                     "content": {"hour": 12, "ok": True, "none": None}}]
    yield "call-bare", [user("t"), assistant(None, tool_calls=[CALL["function"]]),
                        {"role": "tool", "content": "r"}, {"role": "tool", "content": "s"},
                        user("u")]
    yield "long", [user("word " * 400)] + [
        message for i in range(12) for message in (assistant(f"a{i}"), user(f"u{i}"))]


def conversations():
    """Name and variables of every case."""
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    for name, messages in talks():
        plain = {"messages": messages, **tokens}
        yield name, {**plain, "add_generation_prompt": True}
        yield name + "/no-prompt", plain
        yield name + "/tools", {**plain, "tools": [WEATHER, CLOCK], "add_generation_prompt": True}
    messages = [system("Be brief."), user("Hi")]
    for more in ({"enable_thinking": False}, {"enable_thinking": True},
                 {"date_string": "01 Jan 2000"}, {"tools_in_user_message": False},
                 {"tools_in_user_message": False, "tools": [WEATHER]}, {"custom_tools": [CLOCK]},
                 {"builtin_tools": ["search", "code_interpreter"]},
                 {"documents": [{"title": "T", "text": "body"}]}, {"tools": []}):
        yield f"option {sorted(more)}", {"messages": messages, **tokens,
                                         "add_generation_prompt": True, **more}
    yield "no-tokens", {"messages": messages}
