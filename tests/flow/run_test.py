"""baton run, and `make run`: known answers on the terminal, prompts of any characters."""
import os
import re
import subprocess
import sys
import tempfile

from baton import HERE, MODEL, SLOW, SMALL, main

MAKEFILE = os.path.abspath(os.path.join(HERE, "..", "..", "Makefile"))
NASTY = "He said \"it's $HOME, $(touch made), ${PATH}, $$ and `touch made`\" \\ #1; %s * ~\n2nd & last?"


def run(*words, fails=False, **more):
    if "input" not in more:
        more["stdin"] = subprocess.DEVNULL
    done = subprocess.run(words, capture_output=True, timeout=60 * SLOW, check=False, **more)
    assert (done.returncode != 0) == fails, (words, done.returncode, done.stderr)
    return done.stderr.decode() if fails else (done.stdout.decode(), done.stderr.decode())


def known_answers(binary):
    """As it is, and through the chat template; the prompt as an option and on standard input."""
    words = [binary, "run", "--threads", "1", MODEL]
    assert run(*words, "--raw", "--max-tokens", "2", "--prompt",
               "The capital of France is")[0] == " Paris.\n"
    ask = "Name the capital of France."
    for found in (run(*words, "--prompt", ask), run(*words, input=ask.encode())):
        assert found == ("The capital of France is Paris.\n", ""), found


def bad_prompts(binary):
    for more, prompt, said in ((["--raw"], b"", "found none"), ([], b"\xff\xfe", "UTF-8"),
                               ([], b"word " * 2000, "--ctx")):
        found = run(binary, "run", "--threads", "1", "--ctx", "128", SMALL, *more, fails=True,
                    input=prompt)
        assert said in found, (said, found)


def with_make(binary):
    """`make run PROMPT=...` answers as baton does: neither make nor a shell looks into the prompt."""
    with tempfile.TemporaryDirectory() as folder:
        os.makedirs(os.path.join(folder, "build", "release"))
        os.symlink(binary, os.path.join(folder, "build", "release", "baton"))
        more = ["--raw", "--stats", "--max-tokens", "12", "--ignore-eos"]
        for prompt in (NASTY, "It's 5 o'clock"):
            # -o: the binary is built, and the model is there.
            text, stats = run("make", "-f", MAKEFILE, "-o", "build", "--no-print-directory", "run",
                              f"MODEL={os.path.abspath(SMALL)}", f"ARGS={' '.join(more)}",
                              f"PROMPT={prompt}", cwd=folder)
            plain, plain_stats = run(binary, "run", *more, "--prompt", prompt, SMALL)
            counts = [re.search(r"prompt: (\d+) tokens", s).group(1) for s in (stats, plain_stats)]
            assert text == plain and counts[0] == counts[1], (text, plain, counts)
            assert os.listdir(folder) == ["build"], os.listdir(folder)


main([known_answers, bad_prompts, with_make], sys.argv)
