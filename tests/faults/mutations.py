"""Breaks each safety line in turn, in a copy of the project, and shows which test notices.

    ./test.sh mutations              all of them, some five minutes
    ./test.sh mutations ack trim     those whose name contains one of the words

Ends with a line of JSON and status 1 when a broken line goes unnoticed.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.faults.safety_lines import MUTATIONS, ROOT, Mutation

LIMIT_S = 300.0


def copy_project(target: Path) -> None:
    """The files that git knows, as they are in the working tree."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def break_line(copy: Path, mutation: Mutation) -> str:
    """Break the line in the copy; returns the file as it was. ValueError: the line is not there once."""
    path = copy / mutation.path
    text = path.read_text()
    if text.count(mutation.line) != 1:
        raise ValueError(f"{mutation.path} has {mutation.line!r} {text.count(mutation.line)} times; mend mutations.py")
    path.write_text(text.replace(mutation.line, mutation.broken))
    return text


def noticed_by(copy: Path, mutation: Mutation) -> str:
    """The first test that failed; empty when all passed. Its directory comes first on the path, so the copy runs."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *mutation.tests.split()]
    try:
        run = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return f"no end within {LIMIT_S:.0f} s"
    found = re.search(r"^(?:FAILED|ERROR) (\S+)", run.stdout, re.MULTILINE)
    return found[1] if found else ""


def main(words: list[str]) -> int:
    chosen = [mutation for mutation in MUTATIONS if not words or any(word in mutation.name for word in words)]
    unnoticed = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        copy_project(copy)
        for mutation in chosen:
            text = break_line(copy, mutation)
            test = noticed_by(copy, mutation)
            (copy / mutation.path).write_text(text)
            print(f"{mutation.name:52} {test or 'NOT NOTICED'}", flush=True)
            unnoticed += [] if test else [mutation.name]
    print(json.dumps({"mutations": len(chosen), "noticed": len(chosen) - len(unnoticed), "unnoticed": unnoticed}))
    return 1 if unnoticed or not chosen else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
