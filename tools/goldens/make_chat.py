#!/usr/bin/env python3
"""Make the goldens of tests/vectors/chat: what the transformers package renders.

    make_chat.py [MODEL.gguf]

Every template of tests/vectors/chat/templates is rendered over the conversations below, and every
snippet of chat_snippets.py over SNIPPET_VARIABLES. An error is a golden too: "refused" with its
message when the template called raise_exception, "error" otherwise. With MODEL.gguf its own
template (tokenizer.chat_template) is written beside the others first.

Needs: transformers (5.23), jinja2 (3.1.6), gguf. The clock stands at 2025-03-09 14:05:06.
"""
import collections
import datetime as real_datetime
import json
import pathlib
import sys

import jinja2
from transformers.utils import chat_template_utils

import chat_conversations
import chat_snippets

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "tests" / "vectors" / "chat"
NOW = real_datetime.datetime(2025, 3, 9, 14, 5, 6)


class Clock(real_datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


chat_template_utils.datetime = Clock


def render(template, variables):
    """The golden of one render: {"output": ...}, {"refused": ...} or {"error": ...}."""
    # As a server has them: through JSON.
    given = json.loads(json.dumps(variables))
    messages = given.pop("messages", [])
    tools = given.pop("tools", None)
    documents = given.pop("documents", None)
    prompt = given.pop("add_generation_prompt", False)
    try:
        rendered, _ = chat_template_utils.render_jinja_template(
            conversations=[messages], tools=tools, documents=documents, chat_template=template,
            add_generation_prompt=prompt, **given)
        return {"output": rendered[0]}
    except jinja2.exceptions.TemplateError as error:
        if type(error) is jinja2.exceptions.TemplateError:
            return {"refused": str(error.message)}
        return {"error": f"{type(error).__name__}: {error}"}
    except Exception as error:  # what a template can cause is any of Python's
        return {"error": f"{type(error).__name__}: {error}"}


def write(name, head, cases):
    """One case a line, so that a change shows as one."""
    lines = [json.dumps(case, ensure_ascii=False) for case in cases]
    head = "".join(f'"{key}": {json.dumps(value, ensure_ascii=False)},\n'
                   for key, value in head.items())
    text = "{" + head + '"cases": [\n' + ",\n".join(lines) + "\n]}\n"
    (FOLDER / name).write_text(text, encoding="utf-8")
    kinds = collections.Counter(kind for case in cases for kind in ("output", "refused", "error")
                                if kind in case)
    print(name, dict(kinds))


def write_model_template(path):
    import gguf
    field = gguf.GGUFReader(path).fields["tokenizer.chat_template"]
    text = bytes(field.parts[field.data[0]]).decode("utf-8")
    (FOLDER / "templates" / "smollm2.jinja").write_text(text, encoding="utf-8", newline="")


def main():
    if len(sys.argv) > 1:
        write_model_template(sys.argv[1])
    talks = list(chat_conversations.conversations())
    cases = []
    for path in sorted((FOLDER / "templates").glob("*.jinja")):
        template = path.read_bytes().decode("utf-8")
        cases += [{"template": path.name, "talk": at, **render(template, variables)}
                  for at, (_, variables) in enumerate(talks)]
    write("conversations.json",
          {"talks": [{"name": name, "variables": variables} for name, variables in talks]}, cases)
    cases = [{"source": source, **render(source, chat_snippets.VARIABLES)}
             for source in chat_snippets.snippets()]
    # What shows a place in memory cannot be equal anywhere.
    cases = [case for case in cases if " at 0x" not in str(case)]
    write("snippets.json", {"variables": chat_snippets.VARIABLES}, cases)


if __name__ == "__main__":
    main()
