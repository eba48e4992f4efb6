#!/usr/bin/env python3
"""Every fault of tests/faults.txt has a test that carries its number: in the name of a C++ test or of its
suite, or in a pytest mark."""
import re
import sys

from source_files import ROOT, read, tracked

CPP_TEST = re.compile(r"\bTEST(?:_[FP])?\(\s*(\w+,\s*\w+)\)")
NUMBER = re.compile(r"(?<![a-z0-9])([a-z]\d+)(?![a-z0-9])", re.IGNORECASE)
MARK = re.compile(r"mark\.fault\(([^)]*)\)")


def covered():
    """fault number -> files with a test of it"""
    found = {}
    for path in tracked("_test.cpp", "_test.py"):
        text = read(path)
        numbers = [n.upper() for name in CPP_TEST.findall(text) for n in NUMBER.findall(name)]
        numbers += [n for arguments in MARK.findall(text) for n in re.findall(r'"(\w+)"', arguments)]
        for number in numbers:
            found.setdefault(number, set()).add(path)
    return found


def main():
    lines = (ROOT / "tests/faults.txt").read_text().splitlines()
    wanted = [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
    found = covered()
    missing = [number for number in wanted if number not in found]
    if missing:
        print(f"tests/faults.txt: error: no test carries {', '.join(missing)}; name one after it")
        return 1
    print(f"{len(wanted)} faults are covered by {len(set().union(*(found[n] for n in wanted)))} test files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
