#!/usr/bin/env python3
"""Checks that need a compiler: every header compiles alone, and the short clang-tidy list (.clang-tidy) is clean.

A file that did not change since it last passed (with all own headers that it reaches) is not compiled again: its hash is
kept in ~/.cache/troupe-checks (XDG_CACHE_HOME), so that a clean clone does not begin from nothing either. usage: compile_checks.py headers|tidy
"""
import concurrent.futures
import hashlib
import json
import os
import pathlib
import shlex
import subprocess
import sys

from source_files import ROOT, closure_hash, includes, read, tracked

BUILD = ROOT / "build"
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "troupe-checks"


def compile_flags():
    """-I, -isystem, -D and -std flags per own source file, from the build's compile_commands.json."""
    flags = {}
    for entry in json.loads((BUILD / "compile_commands.json").read_text()):
        words, kept = shlex.split(entry["command"]), []
        for i, word in enumerate(words):
            if word == "-isystem":
                kept += [word, words[i + 1]]
            elif word.startswith(("-I", "-D", "-std")):
                kept.append(word)
        flags[os.path.relpath(entry["file"], ROOT)] = kept
    return flags


def flags_for_header(path, flags):
    """The flags of the nearest source file: same folder first, then its parents."""
    folder = pathlib.PurePath(path).parent
    for candidate in [folder, *folder.parents]:
        near = [f for source, f in flags.items() if source.startswith(f"{candidate}/") or str(candidate) == "."]
        if near:
            return max(near, key=len)
    return []


def needs_toolkit(path):
    return any(not quoted and name.startswith(("cuda", "cublas", "nccl")) for _, quoted, name in includes(path))


def header_jobs(flags, faults):
    for path in tracked(".hpp"):
        if "/stand_ins/" in path:
            continue  # of the build for GPUs alone, with what a CUDA toolkit brings
        if "compute/cuda/runtime.cpp" not in flags and needs_toolkit(path):
            continue  # nor is it built here
        source = path[:-3] + "cpp"
        if (ROOT / source).is_file() and source in flags:
            # The build itself proves it, as long as the source file includes its own header before anything else.
            names = [name for _, quoted, name in includes(source)]
            if names and (names[0] == path or names[0].endswith("/" + pathlib.PurePath(path).name)):
                continue
            faults.append(f"{source}:1: error: its own header must be its first include")
        yield path, ["g++", "-std=c++20", "-fsyntax-only", "-w", "-x", "c++",
                     *flags_for_header(path, flags), path]


def tidy_jobs(flags):
    for path in tracked(".cpp"):
        if path in flags and not path.startswith("tests/"):
            yield path, ["clang-tidy", "--quiet", "-p", str(BUILD), path]


def run(job):
    path, command = job
    settings = read(".clang-tidy") if command[0] == "clang-tidy" else ""
    words = [word.replace(str(ROOT), ".") for word in command]
    key = hashlib.sha256("\0".join([closure_hash(path), settings, *words]).encode()).hexdigest()
    stamp = CACHE / key
    if stamp.exists():
        return path, 0, "", True
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 0:
        stamp.touch()
    return path, done.returncode, done.stdout + done.stderr, False


def main():
    if len(sys.argv) != 2 or sys.argv[1] not in ("headers", "tidy"):
        print(__doc__, file=sys.stderr)
        return 2
    CACHE.mkdir(parents=True, exist_ok=True)
    flags, faults = compile_flags(), []
    jobs = list(header_jobs(flags, faults) if sys.argv[1] == "headers" else tidy_jobs(flags))
    cached = 0
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for path, code, output, was_cached in pool.map(run, jobs):
            cached += was_cached
            if code != 0:
                faults.append(output.strip() or f"{path}:1: error: exit status {code}")
    print("\n".join(faults) or f"{len(jobs)} files clean ({cached} unchanged since the last run)")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
