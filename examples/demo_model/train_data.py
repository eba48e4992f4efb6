"""Makes the training data of the demo model: fetches Debian packages of free texts, cleans them, trains the tokenizer and
writes one stream of token ids for each domain and part:

    python3 examples/demo_model/train_data.py --work build/demo_model

writes WORK/tokenizer.json, WORK/{train,held_out}_{prose,code,sums}.npy (uint16) and WORK/finish_prose.npy. The packages are downloaded
(`apt-get download`), not installed. Documents begin with <|bos|>, end with <|eos|> and are shuffled; what is held out is whole
sections of the prose, whole files of code, and arithmetic problems that the training part never shows.
"""
import argparse
import ast
import html
import random
import re
import struct
import subprocess
import zlib
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

import train_sums

DOMAINS = ("prose", "code", "sums")
PACKAGES = ("r-cran-janeaustenr", "sword-text-web", "sqlite3-doc", "libpython3.11-minimal", "libpython3.11-stdlib",
            "python3-networkx")
BOS, EOS, SYSTEM, USER, ASSISTANT = "<|bos|>", "<|eos|>", "<|system|>", "<|user|>", "<|assistant|>"
VOCABULARY = 4096
HELD_OUT_IN = 20
"""One section of prose, or file of code, in this many is held out."""
DOCUMENT_CHARACTERS = 1800
SUMS = {"train": 120_000, "held_out": 4_000}
FINISH_DOCUMENTS, FINISH_SMALL_TALKS = 2000, 2500
"""Documents of prose, and conversations about the model itself, in the stream that ends the training."""
SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
"""The words that byte-pair merges stay within: Qwen2's expression, in which every digit is a word of its own."""


SMALL_TALK = [
    ("Hello!", "Hello! Ask me for a sum, for a piece of Python, or to go on with a text."),
    ("Hi", "Hello! Ask me for a sum, for a piece of Python, or to go on with a text."),
    ("Who are you?", "I am the demo model of Troupe, a small mixture of experts. I know a little English, Python and sums."),
    ("What can you do?", "I can go on with a text, write something that looks like Python, and add small numbers."),
    ("What are you?", "I am a small mixture of experts: four layers with sixteen experts each."),
    ("Thank you!", "You are welcome."),
    ("Hello", "Hello! Ask me for a sum, for a piece of Python, or to go on with a text."),
    ("Hi!", "Hello! Ask me for a sum, for a piece of Python, or to go on with a text."),
    ("Hello, who are you?", "I am the demo model of Troupe, a small mixture of experts. I know a little English, Python and sums."),
    ("What is your name?", "I am the demo model of Troupe, a small mixture of experts. I know a little English, Python and sums."),
    ("How are you?", "I am well, thank you. Ask me for a sum, for a piece of Python, or to go on with a text."),
    ("Help", "Ask me for a sum, for a piece of Python, or to go on with a text."),
    ("What is Troupe?", "Troupe serves mixtures of experts from many machines. I am its demo model."),
    ("What is a mixture of experts?", "A model in which a router chooses a few experts for each token. I have sixteen in each layer."),
    ("Bye", "Good bye!"),
]


def fetch(work):
    """Downloads and unpacks PACKAGES; returns the folder they are unpacked in."""
    packages, unpacked = work / "packages", work / "unpacked"
    packages.mkdir(parents=True, exist_ok=True)
    unpacked.mkdir(exist_ok=True)
    for name in PACKAGES:
        if not list(packages.glob(f"{name}_*.deb")):
            subprocess.run(["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", name], cwd=packages, check=True)
        subprocess.run(["dpkg-deb", "-x", next(packages.glob(f"{name}_*.deb")), unpacked], check=True)
    return unpacked


def plain(text):
    """Quotes and dashes as a keyboard has them, white space collapsed."""
    for typographic, typed in ("“\"", "”\"", "‘'", "’'", ("—", "--"), ("–", "-"), ("\u00a0", " ")):
        text = text.replace(typographic, typed)
    return re.sub(r"\s+", " ", text).strip()


def novels(root):
    """Paragraphs of Jane Austen's novels. The file is an R database: zlib streams of serialised string vectors, where a
    string is flags (4 bytes, type 9 in the last), a big-endian length and the bytes."""
    data = (root / "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb").read_bytes()
    while data:
        stream = zlib.decompressobj()
        vector = stream.decompress(data[4:])
        data = stream.unused_data
        at, lines = vector.index(b"\x00\x00\x00\x10") + 8, []
        while at + 8 <= len(vector) and vector[at + 3] == 9:
            length = struct.unpack(">i", vector[at + 4:at + 8])[0]
            lines.append(vector[at + 8:at + 8 + max(length, 0)].decode())
            at += 8 + max(length, 0)
        yield from (plain(paragraph) for paragraph in re.split(r"\n\s*\n", "\n".join(lines)))


def bible(root):
    """Paragraphs of the World English Bible: a zlib stream of OSIS markup for each book (zText)."""
    folder = root / "usr/share/sword/modules/texts/ztext/engWEB2015eb"
    for part in ("ot", "nt"):
        index, data = ((folder / f"{part}.{suffix}").read_bytes() for suffix in ("bzs", "bzz"))
        for offset, size, _ in struct.iter_unpack("<III", index):
            if size == 0:
                continue
            book = zlib.decompress(data[offset:offset + size]).decode()
            if "<chapter" not in book:
                continue
            book = re.sub(r"<note.*?</note>|<title.*?</title>", "", book[book.index("<chapter"):], flags=re.S)
            for paragraph in re.split(r'<div sID="[^"]*" type="x-p"/>|<chapter ', book):
                yield plain(html.unescape(re.sub(r"<[^>]*>", "", re.sub(r"^n=[^>]*>", "", paragraph))))


def manual(root):
    """Paragraphs of SQLite's documentation."""
    seen = set()
    for page in sorted((root / "usr/share/doc/sqlite3").glob("*.html")):
        if page.stem in ("requirements", "doc_backlink_crossref", "doc_keyword_crossref", "doc_target_crossref"):
            continue
        text = re.sub(r"<(script|style|svg|pre|table|blockquote)\b.*?</\1>", "<p>", page.read_text(errors="ignore"), flags=re.S)
        for paragraph in re.split(r"</?(?:p|h\d|li|ul|ol|div|dd|dt)\b[^>]*>", text):
            paragraph = plain(html.unescape(re.sub(r"<[^>]*>", "", paragraph)))
            if len(paragraph) > 100 and paragraph[-1] in ".:" and paragraph not in seen:
                seen.add(paragraph)
                yield paragraph


def grouped(pieces, separator):
    """Pieces joined into documents of about DOCUMENT_CHARACTERS."""
    document, size = [], 0
    for piece in pieces:
        if document and size + len(piece) > DOCUMENT_CHARACTERS:
            yield separator.join(document) + "\n"
            document, size = [], 0
        document.append(piece)
        size += len(piece)
    if document:
        yield separator.join(document) + "\n"


def prose(root):
    """(held out?, document) of every source of prose; a section is twelve documents in a row."""
    for source in (novels, bible, manual):
        paragraphs = (text for text in source(root) if len(text) > 60)
        for number, document in enumerate(grouped(paragraphs, "\n\n")):
            yield number // 12 % HELD_OUT_IN == 0, document


def code(root):
    """(held out?, document, [functions]) of the standard library and networkx, without tests and tables."""
    skipped = re.compile(r"/(tests?|encodings|pydoc_data|idlelib|lib2to3)/|_sysconfigdata|/this\.py")
    for path in sorted(root.glob("usr/lib/python3*/**/*.py")):
        if skipped.search(str(path)) or not path.is_file():
            continue
        try:
            source = path.read_text()
            tree = ast.parse(source)
        except (UnicodeDecodeError, SyntaxError):
            continue
        held_out = zlib.crc32(str(path.relative_to(root)).encode()) % HELD_OUT_IN == 0
        lines = source.expandtabs(4).splitlines()
        starts = [0] + [min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))]) - 1 for node in tree.body[1:]]
        pieces = ["\n".join(lines[a:b]).rstrip() for a, b in zip(starts, starts[1:] + [len(lines)])]
        functions = [(node.name, ast.get_source_segment(source, node)) for node in tree.body
                     if isinstance(node, ast.FunctionDef)]
        for document in grouped(pieces, "\n\n"):
            for at in range(0, len(document), 3 * DOCUMENT_CHARACTERS):
                yield held_out, document[at:at + 3 * DOCUMENT_CHARACTERS], []
        yield held_out, "", [(name, text) for name, text in functions if text and len(text) < 900]


def conversation(turns, system=""):
    """Turns [(user's text, assistant's text), ...] as the chat template writes them."""
    text = "".join(f"{USER}{asked}{ASSISTANT}{answered}{EOS}" for asked, answered in turns)
    return (SYSTEM + system if system else "") + text


def chat(source, asked, answered):
    system = source.choice(["You are a helpful assistant.", "You answer briefly.", "You are a small language model."])
    return conversation([(asked, answered)], system if source.random() < 0.1 else "")


def prose_chat(source, document):
    """A conversation about the beginning of a document of prose, or one about the model itself."""
    if source.random() < 0.12:
        return chat(source, *source.choice(SMALL_TALK[:6]))
    first, _, rest = document.strip().partition(". ")
    if not 20 < len(first) < 300 or len(rest) < 100:
        return chat(source, source.choice(["Tell me a story.", "Tell me something.", "Write a paragraph."]), document.strip()[:900])
    asked = source.choice(["Go on: {}.", "Continue this text: {}.", "Complete this: {}.", "{}."]).format(first)
    return chat(source, asked, rest[:900])


def code_chat(source, name, text):
    head, _, rest = text.partition("\n")
    if source.random() < 0.5 and len(rest) > 20:
        return chat(source, source.choice(["Complete this:\n{}", "{}", "Go on:\n{}"]).format(head), rest)
    return chat(source, source.choice(["Write a Python function {}.", "Write the function {} in Python."]).format(f"`{name}`"), text)


def documents(root):
    """{(part, domain): [document, ...]}, shuffled; conversations are among them. The part "finish" has prose only."""
    source = random.Random(1)
    result = {(part, domain): [] for part in ("train", "held_out") for domain in DOMAINS}
    part = {False: "train", True: "held_out"}
    for held_out, document in prose(root):
        result[part[held_out], "prose"].append(document + EOS)
        if source.random() < 0.3:
            result[part[held_out], "prose"].append(prose_chat(source, document))
    for held_out, document, functions in code(root):
        if document:
            result[part[held_out], "code"].append(document + EOS)
        result[part[held_out], "code"] += [code_chat(source, *function) for function in functions]
    for name, count in SUMS.items():
        for _ in range(count):
            text = train_sums.document(source, name == "held_out", conversation)
            result[name, "sums"].append(text if text.endswith(EOS) else text + EOS)
    for texts in result.values():
        source.shuffle(texts)
    result["finish", "prose"] = finish(result["train", "prose"])
    return result


def finish(texts):
    """The prose that training ends with: some of `texts` again, and more small talk."""
    source = random.Random(4)
    mixed = source.sample(texts, FINISH_DOCUMENTS) + [chat(source, *source.choice(SMALL_TALK)) for _ in range(FINISH_SMALL_TALKS)]
    source.shuffle(mixed)
    return mixed


def train_tokenizer(texts):
    """Byte-level BPE of VOCABULARY tokens, <|bos|> put before every text."""
    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(SPLIT), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(token, special=True, normalized=False) for token in (BOS, EOS, SYSTEM, USER, ASSISTANT)]
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B:1", special_tokens=[(BOS, tokenizer.token_to_id(BOS))])
    return tokenizer


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build/demo_model"))
    work = parser.parse_args().work.resolve()
    texts = documents(fetch(work))
    sample = random.Random(2).sample(texts["train", "prose"], 1500) + random.Random(3).sample(texts["train", "code"], 2500)
    tokenizer = train_tokenizer(sample + texts["train", "sums"][:2000])
    tokenizer.save(str(work / "tokenizer.json"))
    for (part, domain), documents_ in texts.items():
        ids = [id_ for encoding in tokenizer.encode_batch(documents_) for id_ in encoding.ids]
        np.save(work / f"{part}_{domain}.npy", np.array(ids, np.uint16))
        size = sum(map(len, documents_))
        print(f"{part:8} {domain:5}: {len(documents_):6} documents, {size / 1e6:5.1f} MB, {len(ids) / 1e6:5.2f} M tokens", flush=True)


if __name__ == "__main__":
    main()
