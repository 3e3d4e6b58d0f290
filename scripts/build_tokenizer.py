"""Builds CLIP's tokenizer.json from open_clip's vocabulary, and shows that recaption's ids are open_clip's.

    pip install open_clip_torch==3.3.0 tokenizers
    python scripts/build_tokenizer.py --out CHECKPOINT/tokenizer.json
    python scripts/build_tokenizer.py --check [--count 10000] [--seed 1]

The file is for any checkpoint whose vocabulary is CLIP's 49,408 entries. Hugging Face's tokenizers loads it: byte-level
BPE with `</w>` at the end of words, CLIP's pattern, lower case. What open_clip does to a text before that (ftfy, HTML
entities, white space) no tokenizer.json can hold; recaption does it in onnx/src/clean.

--check builds the file, makes hard strings, sends them through onnx/examples/tokenize.rs (built by cargo) and compares
every id with open_clip's SimpleTokenizer: whole, and cut to 77. Exit status 1 when an id differs.
"""
import argparse, collections, gzip, json, pathlib, random, subprocess, sys, tempfile, unicodedata
import open_clip.tokenizer as reference

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONTEXT = 77
# More ids than any hard string has.
WHOLE = 1 << 20
# As in open_clip, whose pattern ignores case: the long s is an s, and U+0345, a mark that is a case of the letter iota, is
# neither letter nor anything else, and left out.
PATTERN = r"'[sſ]|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}\x{345}]+"


def clip_merges():
    return gzip.open(reference.default_bpe()).read().decode().split("\n")[1 : 49152 - 256 - 2 + 1]


def build():
    merges = [merge.split() for merge in clip_merges()]
    alphabet = list(reference.bytes_to_unicode().values())
    vocabulary = alphabet + [c + "</w>" for c in alphabet] + ["".join(merge) for merge in merges]
    ids = {token: i for i, token in enumerate(vocabulary)}
    start, end = len(vocabulary), len(vocabulary) + 1
    special = [("<start_of_text>", start), ("<end_of_text>", end)]
    ids.update(special)
    space = reference.bytes_to_unicode()[ord(" ")]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
            for token, i in special
        ],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Removed", "invert": True},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            ],
        },
        "post_processor": {
            "type": "RobertaProcessing", "sep": list(special[1]), "cls": list(special[0]), "trim_offsets": False, "add_prefix_space": False,
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "</w>"}, "content": space},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            ],
        },
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "", "end_of_word_suffix": "</w>",
            "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": ids, "merges": merges,
        },
    }


WORDS = """a photo of the dog's breakfast isn't I'm we'll they've you're he'd rock'n'roll o'clock 1920x1080 v2.0 naïve café
Straße ΟΔΥΣΣΕΥΣ İstanbul Ǆ ĳ ﬁlm ﬀ oﬃce ﬆ œuvre Œuvre ﾀｲﾄﾙ ＦＵＬＬ２０２４ º ª № ™ ® © … “quoted” ‘single’ „low“ «guillemets» – — ― − × ÷ ½ ² ³ ٣ ४ Ⅷ ①
ſcript K Å Ω ﷺ é à ñ résumé""".split()
CAMERAS = ["IMG_%04d.JPG", "DSC%05d", "P10%05d.jpeg", "Canon EOS 5D Mark %d", "NIKON D%d f/2.8 1/250s ISO%d00", "DSCF%04d (2).jpg", "GOPR%04d", "20%02d-01-%02d_12-30-45.png"]
URLS = ["https://example.com/%s?q=%d&amp;lang=en#top", "www.example.org/%s/%d.html", "http://user:pw@host:%d/%s", "someone@example.com %s %d", "//cdn.example.net/%s/%d_x.webp"]
ENTITIES = """&amp; &amp;amp; &amp;amp;amp; &lt; &gt; &quot; &apos; &nbsp; &hellip; &eacute; &EACUTE; &Eacute; &NTILDE; &szlig; &SZLIG; &copy &reg &notit; &notin;
&ampamp; &#39; &#039; &#x27; &#X2019; &#8217; &#146; &#128; &#0; &#1; &#13; &#xD83D;&#xDE00; &#128512; &#1114112; &#99999999999; &# &#x; & &; &unknown; &CounterClockwiseContourIntegral;
&hearts; &rarr; &frac12; &AMP; &LT; &GT &ouml &ouml; &Ouml; &acE; &fjlig; &ThickSpace; &#173; &#160; &#65279; &#xFFFE; &#x10FFFF; &thetasym; &upsih; &Tab; &NewLine; &zwj; &shy;""".split()
EMOJI = ["😀", "👍🏽", "👩‍👩‍👧‍👦", "🏴󠁧󠁢󠁷󠁬󠁳󠁿", "🇩🇪", "❤️", "☎️", "1️⃣", "🤷🏿‍♀️", "🫠", "✔", "☃", "🧑‍🚀"]
HIDDEN = ["\u200b", "\u200c", "\u200d", "\u2060", "\ufeff", "\u00ad", "\u200e", "\u202e", "\u2028", "\u2029", "\u0085", "\u00a0", "\u3000", "\u2009", "\u180e", "\u206a", "\ufff9", "\ufffc", "\ufffd"]
CONTROL = [chr(i) for i in [*range(0x20), 0x7F, *range(0x80, 0xA0)]]
SPECIAL = ["<start_of_text>", "<end_of_text>", "<END_OF_TEXT>", "<|startoftext|>", "<|endoftext|>", "</w>", "<pad>", "!", "!!<start_of_text>", "<end_of_text><end_of_text>", "a<end_of_text>b", "'<end_of_text>", "<start_of_text", "it's<start_of_text>"]
SCRIPTS = [(0x41, 0x5A), (0xC0, 0x17F), (0x180, 0x24F), (0x250, 0x2AF), (0x300, 0x36F), (0x370, 0x3FF), (0x400, 0x52F), (0x531, 0x586), (0x591, 0x5F4), (0x600, 0x6FF), (0x900, 0x97F), (0x980, 0x9FB),
           (0xE01, 0xE5B), (0xF00, 0xFBC), (0x1000, 0x109F), (0x10A0, 0x10FF), (0x1100, 0x11FF), (0x13A0, 0x13F4), (0x1780, 0x17F9), (0x1E00, 0x1FFE), (0x2000, 0x206F), (0x2070, 0x209C), (0x20A0, 0x20BF),
           (0x2100, 0x218B), (0x2190, 0x23FF), (0x2460, 0x24FF), (0x2500, 0x27BF), (0x2C00, 0x2DFF), (0x3000, 0x30FF), (0x3105, 0x318E), (0x3200, 0x33FF), (0x4E00, 0x9FFF), (0xA640, 0xA69F), (0xAC00, 0xD7A3),
           (0xE000, 0xF8FF), (0xFB00, 0xFDFF), (0xFE00, 0xFFEF), (0x10000, 0x100FA), (0x10400, 0x1044F), (0x1D400, 0x1D7FF), (0x1F300, 0x1FAFF), (0x20000, 0x2A6D6), (0xE0020, 0xE007F)]
WRONG = ["latin-1", "cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1257", "iso-8859-2", "mac_roman", "cp437"]
SENTENCES = ["Déjà vu à la plage — “très chic”", "Größe: 5 € für die Straße…", "¿Dónde está la niña? ¡Aquí!", "Привет, мир: фото кота", "Καλημέρα κόσμε", "日本語のタイトル 写真", "Żółć, śnieg i źrebię", "Üçüncü şahıs ığdır",
             "Příliš žluťoučký kůň", "עברית וערבית العربية", "it’s a dog’s life… “really”", "Ærøskøbing £5 ½ price ©", "Ķēniņš ļoti šķībs", "naïve – café ™ ★ ♥ 😀", "São João às 5 à tarde"]


def mojibake(r):
    text = r.choice(SENTENCES)
    for _ in range(r.choice([1, 1, 1, 2])):
        wrong = r.choice(WRONG)
        text = "".join(bytes([b]).decode(wrong, errors=r.choice(["replace", "ignore"])) for b in text.encode(errors="replace"))
    if r.random() < 0.3:
        text = text.replace("\xa0", " ")
    if r.random() < 0.2:
        at = r.randrange(len(text) + 1)
        text = text[:at] + r.choice(["?", "�", " ", "<b>"]) + text[at:]
    return text


def any_character(r):
    return one_of(r, r.choice(SCRIPTS))


def one_of(r, script):
    """A character of a script. Which of the unassigned ones are letters depends on the version of each library's tables."""
    while unicodedata.category(character := chr(r.randint(*script))) == "Cn":
        pass
    return character


MAKERS = {
    "words": lambda r: " ".join(r.choices(WORDS, k=r.randint(1, 14))),
    "glued words": lambda r: "".join(r.choices(WORDS, k=r.randint(2, 8))),
    "capitals": lambda r: r.choice([str.upper, str.title, str.swapcase])(" ".join(r.choices(WORDS + SENTENCES, k=r.randint(1, 6)))),
    "one script": lambda r: (lambda s: "".join(r.choice(" " * (r.random() < 0.2) + one_of(r, s)) for _ in range(r.randint(1, 40))))(r.choice(SCRIPTS)),
    "many scripts": lambda r: "".join(any_character(r) if r.random() < 0.85 else r.choice(" .,'-") for _ in range(r.randint(1, 30))),
    "marks": lambda r: "".join(r.choice("aeiounAEIOUN ") + "".join(chr(r.randint(0x300, 0x36F)) for _ in range(r.randint(0, 3))) for _ in range(r.randint(1, 12))),
    "emoji": lambda r: "".join(r.choice(EMOJI) + r.choice(["", " ", "x"]) for _ in range(r.randint(1, 12))),
    "mojibake": mojibake,
    "mojibake inside": lambda r: f"{r.choice(SENTENCES)} {mojibake(r)} {' '.join(r.choices(WORDS, k=2))}",
    "entities": lambda r: "".join(r.choice(ENTITIES) + r.choice(["", " ", "x", "1"]) for _ in range(r.randint(1, 10))),
    "markup": lambda r: f"<{r.choice('abp')} href=\"{r.choice(ENTITIES)}\">{r.choice(SENTENCES)}{r.choice(ENTITIES)}</a>\n{r.choice(ENTITIES)} {mojibake(r)}",
    "double entities": lambda r: " ".join(e.replace("&", "&amp;").replace("#", r.choice(["#", "&num;"])) for e in r.choices(ENTITIES, k=r.randint(1, 6))),
    "urls": lambda r: (lambda u: u % ((r.randrange(9999), r.choice(WORDS)) if u.index("%d") < u.index("%s") else (r.choice(WORDS), r.randrange(9999))))(r.choice(URLS)),
    "cameras": lambda r: (lambda c: c % tuple(r.randrange(100) for _ in range(c.count("%"))))(r.choice(CAMERAS)),
    "control": lambda r: "".join(r.choice(CONTROL + WORDS) for _ in range(r.randint(1, 16))),
    "hidden": lambda r: "".join(r.choice(HIDDEN + WORDS) for _ in range(r.randint(1, 16))),
    "terminal": lambda r: f"\x1b[{r.randrange(99)};{r.randrange(9)}m{r.choice(WORDS)}\x1b[0m \x1b[K {r.choice(SENTENCES)}",
    "numbers": lambda r: "".join(r.choice("0123456789.,-/ ٠١٢३४５６") for _ in range(r.randint(1, 80))),
    "punctuation": lambda r: "".join(r.choice("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~’“” a1") for _ in range(r.randint(1, 40))),
    "contractions": lambda r: " ".join(r.choice(["it", "IT", "we", "'", "O", "é", "5"]) + r.choice(["'s", "’s", "'S", "'T", "'re", "'VE", "'m", "'LL", "'d", "''s", "'ſ", "&#39;s", "'st"]) for _ in range(r.randint(1, 8))),
    "special": lambda r: r.choice(["", " "]).join(r.choice(SPECIAL + WORDS[:9]) for _ in range(r.randint(1, 8))),
    "long": lambda r: " ".join(r.choices(WORDS + SENTENCES + ENTITIES + EMOJI, k=r.randint(60, 400))),
    "long word": lambda r: "".join(r.choice("abcdeéαя写") for _ in range(r.randint(60, 1500))),
    "odd alone": lambda r: r.choice(["", " ", "\n", "\t \r\n", ".", "'", "&", "\u200b", "\ufeff", "\0", "Ã", "Â ", "â€", "À\n", "í\n", "<", "ﬀ", "İ", "ẞ", "Σ", "ΑΣ", "ΑΣ.", "\u0345"]) + r.choice(["", r.choice(WORDS)]),
}


def hard_strings(count, seed):
    """Pairs of kind and text; all kinds equally often."""
    r = random.Random(seed)
    kinds = list(MAKERS)
    return [(kinds[i % len(kinds)], MAKERS[kinds[i % len(kinds)]](r)) for i in range(count)]


def ours(file, texts, context):
    command = ["cargo", "run", "--quiet", "--release", "-p", "recaption-onnx", "--example", "tokenize", "--", file, "49408", str(context)]
    lines = "".join(json.dumps(text) + "\n" for text in texts)
    out = subprocess.run(command, input=lines.encode(), stdout=subprocess.PIPE, check=True, cwd=ROOT).stdout
    return [json.loads(line) for line in out.decode().splitlines()]


def check_plain(file, cleaned):
    """The file by itself, in Hugging Face's tokenizers: on clean texts without specials it needs no help."""
    import tokenizers
    theirs, tokenizer = tokenizers.Tokenizer.from_file(file), reference.SimpleTokenizer()
    plain = [text for text in cleaned if "_of_text>" not in text]
    wanted = [[tokenizer.sot_token_id, *tokenizer.encode(text), tokenizer.eot_token_id] for text in plain]
    equal = sum(theirs.encode(text).ids == want for text, want in zip(plain, wanted) if reference._clean_lower(text) == text)
    total = sum(reference._clean_lower(text) == text for text in plain)
    print(f"tokenizers {tokenizers.__version__} alone: {equal:,} of {total:,} clean texts equal; decodes to {theirs.decode(wanted[0])!r}")


def check(file, count, seed):
    tokenizer = reference.SimpleTokenizer()
    strings = hard_strings(count, seed)
    texts = [text for _, text in strings]
    wanted = [[tokenizer.sot_token_id, *tokenizer.encode(text), tokenizer.eot_token_id] for text in texts]
    failed = 0
    for context in [WHOLE, CONTEXT]:
        cut = [ids if len(ids) <= context else ids[: context - 1] + [tokenizer.eot_token_id] for ids in wanted]
        different = [i for i, (a, b) in enumerate(zip(ours(file, texts, context), cut, strict=True)) if a != b]
        print(f"{count - len(different):,} of {count:,} equal, {'whole' if context == WHOLE else f'cut to {context}'}")
        if different and context == WHOLE:
            print(dict(collections.Counter(strings[i][0] for i in different)))
            for i in different[:20]:
                print(f"  {strings[i][0]}: {texts[i][:200]!r}\n    open_clip cleans it to {tokenizer.clean_fn(texts[i])[:200]!r}")
        failed += len(different)
    check_plain(file, [tokenizer.clean_fn(text) for text in texts])
    return failed


def main():
    a = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    a.add_argument("--out", type=pathlib.Path, help="the file to write")
    a.add_argument("--merges", type=pathlib.Path, help="write the merges alone, as the program holds them, to this file")
    a.add_argument("--check", action="store_true", help="compare ids with open_clip's")
    a.add_argument("--count", type=int, default=10_000)
    a.add_argument("--seed", type=int, default=1)
    a = a.parse_args()
    if not (a.out or a.check or a.merges):
        sys.exit("give --out FILE, --check, or both")
    if a.merges:
        a.merges.write_bytes(gzip.compress("".join(merge + "\n" for merge in clip_merges()).encode(), 9, mtime=0))
    text = json.dumps(build(), ensure_ascii=False)
    if a.out:
        a.out.write_text(text, encoding="utf-8")
    if a.check:
        with tempfile.TemporaryDirectory() as directory:
            file = pathlib.Path(directory, "tokenizer.json")
            file.write_text(text, encoding="utf-8")
            sys.exit(1 if check(str(file), a.count, a.seed) else 0)


if __name__ == "__main__":
    main()
