"""Train small tokenizers in the styles of published ones and record what the reference libraries make of nasty strings.

    python -m venv /tmp/tok && /tmp/tok/bin/pip install tokenizers==0.22.1 sentencepiece==0.2.3
    /tmp/tok/bin/python make_tokenizers.py [--out FOLDER] [--cases 140] [--seed 1]

Writes STYLE/tokenizer.json (or tokenizer.model) and STYLE/cases.json: {"cases": [[text, ids, ids with special tokens, decoded,
decoded without special tokens]], "decode_only": [[ids, decoded, decoded without special tokens]]}. The same seed gives the same cases.
"""
import argparse
import json
import random
import string
import sysconfig
from pathlib import Path

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPACE = "\u2581"
FOREIGN = ["naïve café über straße – “quoted” text… ", "привет мир, как дела? ", "你好，世界。今天天气很好！", "こんにちは世界 カタカナ ",
           "😀😃🚀👍🏽 ", "مرحبا بالعالم ", "한국어 문장 ", "हिन्दी भाषा ", "Ελληνικά γράμματα "]
PIECES = ["hello world", " The quick", " it's", "I'LL don't WE'VE they'ſ", "x = [i**2 for i in range(10)]", "def f(a, b=None):\n    return a\n", "0",
          "1234567890", "3.14e-10", "   ", "\t\t", "\n\n\n", "\r\n", "  \n  \n", "e\u0301o\u0308\u0323", "\u0323\u0307s", "ﬁ ﷺ Å", "你好世界", "日本語テスト", "한국",
          "\u1112\u1161\u11ab", "שלום", "مرحبا", "😀", "👩‍👩‍👧‍👦", "🇩🇪🇫🇷", "👍🏽", "\u200b\u200d", "\u00a0nbsp\u00a0", "\u3000", "\u2028\u2029\u0085", "\u180e", "\ufeff",
          "\u0000", "\u0001\u001f\u007f", "½²③Ⅳ٣", "İstanbul ıǅ ΑΒΓ ς", "ไทย", "हिन्दी", "தமிழ்", "𝒳𝓎𝓏𐍈", "\U0010fffd", "\ue000\ufffd", SPACE, SPACE * 3, "a" + SPACE + "b",
          "<0x0A>", "<unk>", "<s>", "</s>", "<|endoftext|>", "<|im_start|>user\n", "<|im_end|>", "<tool>", "  <mask>  ", "word", "words", "sword", "ſtraße", "x\u0304" * 20, " " * 37,
          "\n" * 9, "!!!???", "{}[]()<>", "snake_case-kebab", "http://a.b/c?d=e&f=g#h", "\"quoted\" 'single'", "´`^~"]
PLANES = [(0x20, 0x7f), (0xa0, 0x250), (0x300, 0x370), (0x370, 0x600), (0x900, 0xe00), (0x1e00, 0x2100), (0x2150, 0x2300), (0x3040, 0x3100), (0x4e00, 0x9fff),
          (0xac00, 0xd7a4), (0xf900, 0xfa6e), (0xfb00, 0xfb07), (0xfe20, 0xfe30), (0xff00, 0xffef), (0x10330, 0x1034b), (0x1d400, 0x1d455), (0x1f300, 0x1f650), (0x20000, 0x20100)]


def corpus():
    folder = Path(sysconfig.get_paths()["stdlib"])
    return [(folder / name).read_text(encoding="utf-8")[:60000] for name in ("argparse.py", "textwrap.py", "json/decoder.py", "pathlib.py")] + [e * 12 for e in FOREIGN]


def strings(rng, count):
    out = [""] + PIECES
    while len(out) < count:
        kind = rng.randrange(5)
        if kind == 0:
            out.append("".join(rng.choice(PIECES) for _ in range(rng.randint(2, 6))))
        elif kind == 1:
            out.append(rng.choice([" ", "\n", "  ", ""]).join(rng.choice(PIECES) for _ in range(rng.randint(2, 6))))
        elif kind == 2:
            out.append("".join(rng.choice("".join(PIECES) + string.printable) for _ in range(rng.randint(1, 40))))
        elif kind == 3:
            out.append("".join(chr(rng.randrange(*rng.choice(PLANES))) for _ in range(rng.randint(1, 25))))
        else:
            out.append("".join(rng.choice([" ", "\n", "\t", "a", "ab", "1", "'", "\u3000", "é", "\u0301"]) for _ in range(rng.randint(1, 60))))
    return list(dict.fromkeys(out))[:count]


def train(tok, vocab, alphabet=(), specials=()):
    tok.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=vocab, special_tokens=list(specials), initial_alphabet=list(alphabet), show_progress=False))


def special(text, **kind):
    return AddedToken(text, special=True, normalized=False, **kind)


def qwen():
    """Qwen2, Qwen3: NFC, the expression of GPT-4 with single digits, bytes; tokens added behind the vocabulary."""
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    tok.post_processor = processors.ByteLevel(trim_offsets=False)
    train(tok, 600, pre_tokenizers.ByteLevel.alphabet())
    tok.add_special_tokens([special("<|endoftext|>"), special("<|im_start|>"), special("<|im_end|>")])
    tok.add_tokens([AddedToken("<tool>", normalized=False)])
    return json.loads(tok.to_str())


def neox():
    """OLMoE (GPT-NeoX): NFC, GPT-2's words, runs of blanks as added tokens; merges as lines."""
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tok.decoder = decoders.ByteLevel()
    tok.post_processor = processors.TemplateProcessing(single="$A:0", pair="$A:0 $B:1", special_tokens=[])
    train(tok, 600, pre_tokenizers.ByteLevel.alphabet(), [special("<|endoftext|>")])
    tok.add_tokens([AddedToken(" " * n, normalized=True) for n in range(24, 1, -1)] + [AddedToken("café", normalized=True)])
    tok.add_special_tokens([special("<|im_end|>", lstrip=True)])
    out = json.loads(tok.to_str())
    out["model"]["merges"] = [" ".join(pair) for pair in out["model"]["merges"]]
    return out


def llama_model(vocab):
    tok = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tok.normalizer = normalizers.Replace(" ", SPACE)
    tok.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always")
    train(tok, vocab, [SPACE], [special("<unk>"), special("<s>"), special("</s>")] + [f"<0x{b:02X}>" for b in range(256)])
    out = json.loads(tok.to_str())
    out["added_tokens"] = out["added_tokens"][:3]  # the tokens of bytes are not added ones
    out["decoder"] = {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": SPACE}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
                                                       {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    out["post_processor"] = json.loads(processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]).__getstate__())
    return out


def mixtral():
    """Mixtral, Llama 2: U+2581 by normalizers, no words, characters fall back to bytes."""
    out = llama_model(800)
    out["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]}
    out["pre_tokenizer"] = None
    out["model"]["merges"] = [" ".join(pair) for pair in out["model"]["merges"]]
    return out


def mixtral_new():
    """The same as newer files say it: Metaspace, in front of the first word only, not split."""
    out = llama_model(700)
    out["normalizer"] = None
    out["pre_tokenizer"] = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first", "split": False}
    return out


def llama3():
    """Digits by three, whole words first (ignore_merges), a token in front by a sequence of processors."""
    tok = Tokenizer(models.BPE(ignore_merges=True))
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    train(tok, 600, pre_tokenizers.ByteLevel.alphabet(), [special("<s>"), special("</s>")])
    tok.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])])
    out = json.loads(tok.to_str())
    # Words that no merge makes.
    for word in ("Ġrange", "hello", "return", "Ġworld"):
        out["model"]["vocab"].setdefault(word, len(out["model"]["vocab"]))
    return out


def mixed():
    """The other normalizers, pre-tokenizers and kinds of added tokens at once; unknown characters, no bytes."""
    tok = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=False))
    tok.normalizer = normalizers.Sequence([normalizers.Strip(left=True, right=False), normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase(), normalizers.NFC(),
                                           normalizers.Replace(Regex(r"\d+"), "#"), normalizers.Replace("``", '"')])
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="first", split=True), pre_tokenizers.Digits(individual_digits=True),
                                                 pre_tokenizers.Punctuation("merged_with_previous"), pre_tokenizers.Split("-", "merged_with_next", invert=False)])
    tok.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="first")
    tok.train_from_iterator([text for text in corpus()[:4]], trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>"], show_progress=False))
    tok.add_special_tokens([special("<mask>", lstrip=True, rstrip=True), special("<s>", rstrip=True)])
    tok.add_tokens([AddedToken("word", single_word=True, normalized=False), AddedToken("Istanbul", normalized=True), AddedToken("quick", normalized=True, single_word=True)])
    return json.loads(tok.to_str())


def words():
    """Whitespace, WhitespaceSplit, contiguous splitting, prefix space; no decoder, fused unknown characters."""
    tok = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tok.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.Strip()])
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=False),
                                                 pre_tokenizers.Split(Regex(r"_+|\d(?=\d)|(?<=a)b"), "contiguous", invert=True)])
    tok.train_from_iterator(corpus()[:5], trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>"], show_progress=False))
    return json.loads(tok.to_str())


JSON_STYLES = {f.__name__: f for f in (qwen, neox, mixtral, mixtral_new, llama3, mixed, words)}
SENTENCEPIECE_STYLES = {
    # Mixtral's tokenizer.model: bytes for unknown characters, text as it is.
    "spm_mixtral": dict(model_type="bpe", vocab_size=700, byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True,
                        allow_whitespace_only_pieces=True, user_defined_symbols=["<tool>"]),
    # A small table of characters instead of NFKC's, which takes 240 kB.
    "spm_unigram": dict(model_type="unigram", vocab_size=500, user_defined_symbols=["<tool>"], control_symbols=["<|im_end|>"], normalization_rule_tsv="RULES"),
}


# As code points: what is replaced, and by what.
RULES = ["A\t20", "9\t20", "D\t20", "3000\t20", "A0\t20", "FB01\t66 69", "FDFA\t635 644 649 20 627 644 644 647", "65 301\tE9", "65 301 323\t45", "200B\t", "BD\t31 2044 32"]


def record_json(folder, document, texts, rng, loose):
    folder.mkdir(parents=True, exist_ok=True)
    document["truncation"] = document["padding"] = None
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    tok = Tokenizer.from_str(text)
    cases = []
    for t in texts:
        ids = tok.encode(t, add_special_tokens=False).ids
        cases.append([t, ids, tok.encode(t).ids, tok.decode(ids, skip_special_tokens=False), tok.decode(ids)])
    loose = [[rng.randrange(tok.get_vocab_size() + 3) for _ in range(rng.randint(1, 16))] for _ in range(loose)]
    write_cases(folder, cases, [[i, tok.decode(i, skip_special_tokens=False), tok.decode(i)] for i in loose])


def record_sentencepiece(folder, settings, texts, rng, loose):
    folder.mkdir(parents=True, exist_ok=True)
    lines = [line for text in corpus() for line in text.splitlines()]
    if "normalization_rule_tsv" in settings:
        rules = folder / "rules.tsv"
        rules.write_text("\n".join(RULES) + "\n")
        settings = settings | {"normalization_rule_tsv": str(rules)}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_prefix=str(folder / "tokenizer"), minloglevel=2, self_test_sample_size=0, **settings)
    (folder / "tokenizer.vocab").unlink()
    (folder / "rules.tsv").unlink(missing_ok=True)
    tok = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    plain = [i for i in range(tok.get_piece_size()) if not tok.is_control(i) and not tok.is_unknown(i)]
    controls = [tok.id_to_piece(i) for i in range(tok.get_piece_size()) if tok.is_control(i) or tok.is_unknown(i)]
    cases = []
    for t in texts:  # special tokens are cut out before sentencepiece sees a text; how they decode is our own business
        if any(c in t for c in controls):
            continue
        ids = tok.encode(t)
        cases.append([t, ids, [tok.bos_id()] + ids, None if tok.unk_id() in ids else tok.decode(ids), None])
    loose = [[rng.choice(plain) for _ in range(rng.randint(1, 16))] for _ in range(loose)]
    write_cases(folder, cases, [[i, tok.decode(i), None] for i in loose])


def write_cases(folder, cases, loose):
    lines = [json.dumps(c, ensure_ascii=True, separators=(",", ":")) for c in cases]
    more = [json.dumps(c, ensure_ascii=True, separators=(",", ":")) for c in loose]
    (folder / "cases.json").write_text('{"cases": [\n' + ",\n".join(lines) + '\n], "decode_only": [\n' + ",\n".join(more) + "\n]}\n")


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--out", default=str(Path(__file__).parent))
    options.add_argument("--cases", type=int, default=140)
    options.add_argument("--seed", type=int, default=1)
    chosen = options.parse_args()
    rng = random.Random(chosen.seed)
    texts = strings(rng, chosen.cases)
    for name, make in JSON_STYLES.items():
        record_json(Path(chosen.out) / name, make(), texts, rng, chosen.cases // 4)
    for name, settings in SENTENCEPIECE_STYLES.items():
        record_sentencepiece(Path(chosen.out) / name, settings, texts, rng, chosen.cases // 4)


if __name__ == "__main__":
    main()
