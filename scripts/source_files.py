"""What the checks of this folder share: which files are ours, and what a C++ file includes."""
import functools
import hashlib
import pathlib
import re
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)


def tracked(*suffixes):
    """Files that git knows or would add, as paths relative to the root, with one of the suffixes."""
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True,
                            capture_output=True, text=True).stdout.splitlines()
    return sorted(p for p in set(listed) if p.endswith(suffixes) and (ROOT / p).is_file())


@functools.cache
def read(path):
    return (ROOT / path).read_text(encoding="utf-8")


@functools.cache
def includes(path):
    """[(line, is_quoted, name)] of one file."""
    text = read(path)
    return [(text.count("\n", 0, m.start(2)) + 1, m[1] == '"', m[2]) for m in INCLUDE.finditer(text)]


@functools.cache
def closure_hash(path):
    """Hash over a file and every own header that it reaches: equal hash, equal verdict of a compiler."""
    seen, queue = set(), [path]
    while queue:
        current = queue.pop()
        if current in seen:
            continue
        seen.add(current)
        queue += [name for _, quoted, name in includes(current) if quoted and (ROOT / name).is_file()]
    digest = hashlib.sha256()
    for name in sorted(seen):
        digest.update(name.encode() + b"\0" + read(name).encode())
    for proto in tracked(".proto"):
        digest.update(read(proto).encode())
    return digest.hexdigest()


def without_comments_and_strings(text):
    """The same text with comments and literals blanked, line breaks kept."""
    pattern = re.compile(r'//[^\n]*|/\*.*?\*/|R"([^(\s]*)\(.*?\)\1"|"(?:\\.|[^"\\\n])*"|(?<![0-9A-Fa-f])\'(?:\\.|[^\'\\\n])+\'',
                         re.DOTALL)

    def blank(match):
        kept = re.sub(r"[^\n]", " ", match[0])
        return kept if match[0].startswith("/") else '"' + kept[1:-1] + '"'

    return pattern.sub(blank, text)
