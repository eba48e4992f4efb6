#!/usr/bin/env python3
"""Functions of at most 70 lines, files of at most 600, no unfinished-work marks. What was larger before may only shrink: the ratchet
in scripts/size_ratchet.txt names it with its size ("path lines" or "path function lines")."""
import re
import sys

from source_files import ROOT, read, tracked, without_comments_and_strings

FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 600
SCOPE = re.compile(r'\b(namespace|class|struct|union|enum)\b[^()]*$|extern\s*"[^"]*"\s*$')
NAME = re.compile(r"([~\w:]+|operator[^\s(]+)\s*\(")


def function_sizes(text):
    """(name, first line, lines) of every function with a body outside of another function."""
    clean = without_comments_and_strings(text)
    clean = re.sub(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", lambda m: re.sub(r"[^\n]", " ", m[0]), clean, flags=re.MULTILINE)
    stack, head_start = [], 0  # stack of (kind, head, position)
    for position, char in enumerate(clean):
        inside_function = any(kind == "function" for kind, _, _ in stack)
        if char == "{":
            head = clean[head_start:position]
            kind = "block"
            if not inside_function:
                kind = "scope" if SCOPE.search(head) else "function" if "(" in head else "block"
            stack.append((kind, head, head_start))
        elif char == "}" and stack:
            kind, head, begin = stack.pop()
            if kind == "function":
                begin += len(head) - len(head.lstrip())
                first = clean.count("\n", 0, begin) + 1
                name = NAME.search(head)
                yield name[1] if name else "?", first, clean.count("\n", 0, position) + 2 - first
        if char in "{};":
            head_start = position + 1


def load_ratchet():
    path = ROOT / "scripts/size_ratchet.txt"
    rows = [line.split() for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return {tuple(row[:-1]): int(row[-1]) for row in rows}


def main():
    ratchet, faults = load_ratchet(), []
    for path in tracked(".hpp", ".cpp", ".cu", ".py", ".sh"):
        text = read(path)
        lines = text.count("\n")
        if lines > ratchet.get((path,), FILE_LINES_MAX):
            faults.append(f"{path}:1: error: {lines} lines, the limit is {FILE_LINES_MAX}; split the file")
        for number, line in enumerate(text.splitlines(), 1):
            if re.search(r"\b" + "FIX" + r"ME\b", line):
                faults.append(f"{path}:{number}: error: unfinished work is marked here; finish it before merging")
        if path.endswith((".hpp", ".cpp", ".cu")):
            for name, first, size in function_sizes(text):
                if size > ratchet.get((path, name), FUNCTION_LINES_MAX):
                    faults.append(f"{path}:{first}: error: {name} has {size} lines, the limit is {FUNCTION_LINES_MAX}; split it")
    print("\n".join(faults) or "all functions and files are within their limits")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
