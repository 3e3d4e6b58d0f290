"""Makes reference values of the caption metrics with pycocoevalcap.

    pip install pycocoevalcap==1.2 numpy
    python scripts/make_metric_goldens.py > tests/data/metrics.json

Captions and references are random sentences over a small vocabulary, so that n-grams repeat and some match; among them captions
without a word in common, of one word, equal to a reference, and references of unlike length. Words are joined by single spaces,
so pycocoevalcap and recaption read the same tokens.
"""
import json, random

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

rng = random.Random(7)
VOCABULARY = "a the small large red green cat dog car tree on in under left of and with sky grass walking sleeping two".split()


def sentence(low, high):
    return " ".join(rng.choice(VOCABULARY) for _ in range(rng.randint(low, high)))


def near(text):
    """A sentence with some words changed, dropped or doubled."""
    words = []
    for word in text.split():
        words += {0: [rng.choice(VOCABULARY)], 1: [], 2: [word, word]}.get(rng.randint(0, 9), [word])
    return " ".join(words) or "a"


def cases():
    out = []
    for _ in range(60):
        references = [sentence(4, 16) for _ in range(rng.randint(1, 5))]
        out.append({"caption": near(rng.choice(references)), "references": references})
    out.append({"caption": "zebra", "references": ["a cat on the grass"]})
    out.append({"caption": "a", "references": ["a"]})
    out.append({"caption": "the red car under the tree", "references": ["the red car under the tree"]})
    out.append({"caption": sentence(40, 40), "references": ["two"]})
    return out


def main():
    data = cases()
    refs = {i: c["references"] for i, c in enumerate(data)}
    hyps = {i: [c["caption"]] for i, c in enumerate(data)}
    bleu, _ = Bleu(4).compute_score(refs, hyps, verbose=0)
    _, cider = Cider().compute_score(refs, hyps)
    _, rouge = Rouge().compute_score(refs, hyps)
    print(json.dumps({"cases": data, "bleu": list(bleu), "cider": list(map(float, cider)), "rouge": list(map(float, rouge))}, indent=0))


main()
