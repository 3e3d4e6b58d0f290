"""What open_clip itself generates and scores with a bundled captioner on its 200 reference pictures.

    pip install open_clip_torch==3.3.0 transformers==4.48.3 torch tokenizers safetensors pillow
    python scripts/make_reference.py onnx/models/coca-scenes-base

Reads MODEL/reference-00000.tar (scenes that no captioner was trained on) and writes MODEL/reference.json: for every key the
greedy caption (ids and text), the similarity of image and caption and that of image and alt text, both through the padded text
tower; and the share of captions that name a true object. To be run again whenever the model's weights change; tests/reference.rs
holds the whole pipeline against it.
"""
import io, json, pathlib, re, sys, tarfile
import torch
from PIL import Image
from open_clip.coca_model import CoCa
from open_clip.transform import PreprocessCfg, image_transform_v2
from safetensors.torch import load_file
from tokenizers import Tokenizer

MODEL = pathlib.Path(sys.argv[1])
conf = json.loads((MODEL / "open_clip_config.json").read_text())
cfg = {k: v for k, v in conf["model_cfg"].items() if k != "custom_text"}
model = CoCa(**cfg).eval()
model.load_state_dict({k: v.float() for k, v in load_file(MODEL / "open_clip_model.safetensors").items()}, strict=True)
tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
context, vocabulary = cfg["text_cfg"]["context_length"], cfg["text_cfg"]["vocab_size"]
sot, eos = vocabulary - 2, vocabulary - 1
preprocess = image_transform_v2(
    PreprocessCfg(size=cfg["vision_cfg"]["image_size"], **{k: tuple(conf["preprocess_cfg"][k]) for k in ("mean", "std")}), is_train=False)


def ids(texts):
    out = torch.zeros(len(texts), context, dtype=torch.long)
    for i, text in enumerate(texts):
        row = [sot, *tokenizer.encode(text).ids[: context - 2], eos]
        out[i, : len(row)] = torch.tensor(row)
    return out


def tidy(text):
    """Decoded pieces to a caption: one space between words, none before punctuation."""
    return re.sub(r"\s+([,.;:!?])", r"\1", " ".join(text.split()))


samples = {}
with tarfile.open(MODEL / "reference-00000.tar") as tar:
    for member in tar:
        key, extension = member.name.split(".", 1)
        samples.setdefault(key, {})[extension] = tar.extractfile(member).read()
keys = sorted(samples)
pixels = torch.stack([preprocess(Image.open(io.BytesIO(samples[k]["jpg"]))) for k in keys])
truth = [json.loads(samples[k]["json"]) for k in keys]
with torch.no_grad():
    features = model.encode_image(pixels)
    generated = model.generate(pixels, generation_type="top_k", top_k=1, seq_len=context, min_seq_len=2, sot_token_id=sot, eos_token_id=eos,
                               pad_token_id=0, fixed_output_length=True)
    texts = [tidy(tokenizer.decode([t for t in row.tolist() if t not in (0, sot, eos)])) for row in generated]
    similarity = (features * model.encode_text(ids(texts))).sum(-1)
    original = (features * model.encode_text(ids([samples[k]["txt"].decode() for k in keys]))).sum(-1)
named = sum(any(f"{o['colour']} {o['shape']}" in t for o in s["objects"]) for s, t in zip(truth, texts)) / len(keys)
total = dict(samples=len(keys), names_true_object=named, mean_similarity=float(similarity.mean()), generate=dict(seq_len=context, min_seq_len=2))
rows = {k: dict(ids=row.tolist(), caption=t, similarity=round(float(a), 5), org_similarity=round(float(b), 5))
        for k, row, t, a, b in zip(keys, generated, texts, similarity, original)}
(MODEL / "reference.json").write_text(json.dumps(dict(total=total, rows=rows), indent=0) + "\n")
print(json.dumps(total, indent=1))
