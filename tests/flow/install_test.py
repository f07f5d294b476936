#!/usr/bin/env python3
"""What `make install` lays down: a binary that runs, and a man page for each command, with all its
options.

usage: install_test.py BATON
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile

from baton import SLOW, main


def said(*words, **more):
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=60 * SLOW, check=False, **more)
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout


def plain(troff):
    """The text without the marks of a man page."""
    return re.sub(r"\\f[A-Z]", "", troff).replace("\\-", "-")


def options_of(help_text):
    return set(re.findall(r"^  (--[a-z][a-z-]*)", help_text, re.M))


def installed(binary):
    with tempfile.TemporaryDirectory() as folder:
        said("cmake", "--install", os.path.dirname(binary), "--prefix", "/opt/baton",
             env=dict(os.environ, DESTDIR=folder))
        root = os.path.join(folder, "opt", "baton")
        baton = os.path.join(root, "bin", "baton")
        assert said(baton, "--version") == said(binary, "--version")
        pages = os.path.join(root, "share", "man", "man1")
        commands = re.findall(r"^  ([a-z]+(?: [a-z]+)?) +[a-z]", said(baton, "--help"), re.M)
        assert {"serve", "router", "prefill", "decode", "run", "bench"} <= set(commands), commands
        names = {"baton.1"} | {f"baton-{c.replace(' ', '-')}.1" for c in commands}
        assert set(os.listdir(pages)) == names, set(os.listdir(pages)) ^ names
        with open(os.path.join(pages, "baton.1"), encoding="utf-8") as file:
            listed = set(re.findall(r"^\.BR (\S+) \(1\)$", plain(file.read()), re.M))
        assert {f"{page}.1" for page in listed} == names - {"baton.1"}, listed
        for command in commands:
            page = os.path.join(pages, f"baton-{command.replace(' ', '-')}.1")
            with open(page, encoding="utf-8") as file:
                text = file.read()
            assert text == said(baton, "man", *command.split()), command
            described = set(re.findall(r"^\.B (--[a-z][a-z-]*)", plain(text), re.M))
            asked = options_of(said(baton, *command.split(), "--help"))
            assert described == asked and "--help" in asked, (command, described ^ asked)


if shutil.which("cmake") is None:
    print("skipped: cmake is not installed")
    sys.exit(77)
main([installed], sys.argv)
