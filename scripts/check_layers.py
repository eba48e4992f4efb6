#!/usr/bin/env python3
"""Refuses includes and names that cross the layers of docs/architecture.md; the table is scripts/layers.yaml."""
import fnmatch
import re
import sys

import yaml

from source_files import ROOT, includes, read, tracked, without_comments_and_strings


def matches(name, patterns):
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def layer_of(path, layers):
    return next((layer for layer in layers if matches(path, layer["files"])), None)


def include_faults(path, layer, groups):
    for line, quoted, name in includes(path):
        if quoted:
            if not matches(name, layer["may"]) or matches(name, layer.get("may_not", [])):
                yield line, f'must not include "{name}"'
        for group in layer["never"]:
            if matches(name, groups[group].get("include", [])):
                yield line, f"must not include <{name}> ({group})"


def token_faults(path, layer, groups):
    text = without_comments_and_strings(read(path))
    for group in layer["never"]:
        for token in groups[group].get("token", []):
            for match in re.finditer(token, text):
                yield text.count("\n", 0, match.start()) + 1, f"must not use {match[0].strip()} ({group})"


def main():
    table = yaml.safe_load((ROOT / "scripts/layers.yaml").read_text())
    faults, checked = [], 0
    for path in tracked(".hpp", ".cpp", ".cu"):
        layer = layer_of(path, table["layers"])
        if layer is None:
            continue
        checked += 1
        for line, what in [*include_faults(path, layer, table["groups"]), *token_faults(path, layer, table["groups"])]:
            faults.append(f"{path}:{line}: error: {what}; see scripts/layers.yaml")
    print("\n".join(faults) or f"{checked} files keep to their layers")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
