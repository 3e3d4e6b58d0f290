#!/usr/bin/env python3
"""Makes a WordPiece vocabulary (vocab.txt) of captions, for training a small ALBEF from random weights.

    make_word_piece.py SIZE SHARD.tar... > vocab.txt

The entries are BERT's special tokens, every character of the captions, also as a continuation, then the most frequent words,
frequent first, until SIZE entries. Captions are read as ALBEF's are: lower case, without most punctuation; then words are split as
by BERT's uncased tokenizer for ASCII, at white space, every remaining punctuation mark alone.
"""

import collections
import re
import sys
import tarfile

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def words(paths):
    """Yields the words of every .txt member."""
    for path in paths:
        with tarfile.open(path) as shard:
            for member in shard:
                if member.name.endswith(".txt"):
                    text = shard.extractfile(member).read().decode("utf-8").lower()
                    text = re.sub(r"[-/]", " ", re.sub(r"[,.'!?\"()*#:;~]", "", text))
                    yield from re.findall(r"[^\W_]+|[^\w\s]|_", text)


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    size, paths = int(sys.argv[1]), sys.argv[2:]
    counts = collections.Counter(words(paths))
    characters = sorted({character for word in counts for character in word})
    entries = SPECIAL + characters + ["##" + c for c in characters if c.isalnum()]
    known = set(entries)
    # Frequent words first; ties by the alphabet, so that the same captions give the same file.
    for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if word not in known and len(entries) < size:
            entries.append(word)
    if len(entries) > size:
        sys.exit(f"error: {len(entries)} entries are needed for special tokens and characters alone, more than {size}")
    print("\n".join(entries))


if __name__ == "__main__":
    main()
