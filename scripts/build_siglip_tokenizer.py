"""Writes `tokenizer.json` beside a SentencePiece model of SigLIP (`spiece.model`), as transformers' converter makes it.

    pip install sentencepiece tokenizers protobuf
    python scripts/build_siglip_tokenizer.py CHECKPOINT/spiece.model

A SigLIP of transformers needs it where the hub has only `spiece.model`. Gemma's model (SigLIP 2) is of another kind, which the hub has as
`tokenizer.json` already. `scripts/make_siglip_goldens.py` compares the ids with transformers' SiglipTokenizer.
"""
import pathlib, sys
from sentencepiece import sentencepiece_model_pb2 as sentencepiece_model
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

UNIGRAM = 1


def build(path):
    """The tokenizer of a SentencePiece model; `</s>` ends a text."""
    proto = sentencepiece_model.ModelProto()
    proto.ParseFromString(pathlib.Path(path).read_bytes())
    if proto.trainer_spec.model_type != UNIGRAM:
        sys.exit(f"{path}: not a unigram model; of SigLIP's vocabularies only those are converted")
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    tok = Tokenizer(models.Unigram(pieces, proto.trainer_spec.unk_id, byte_fallback=False))
    steps = [normalizers.Strip(left=False, right=True), normalizers.Replace(Regex(" {2,}"), "▁")]
    charsmap = proto.normalizer_spec.precompiled_charsmap
    tok.normalizer = normalizers.Sequence([normalizers.Precompiled(charsmap), *steps] if charsmap else steps)
    tok.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tok.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tok.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", tok.token_to_id("</s>"))])
    known = [name for name in ("<pad>", "</s>", "<unk>") if tok.token_to_id(name) is not None]
    tok.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in known])
    return tok


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    model = pathlib.Path(sys.argv[1])
    build(model).save(str(model.with_name("tokenizer.json")), pretty=False)
    print(f"wrote {model.with_name('tokenizer.json')}")
