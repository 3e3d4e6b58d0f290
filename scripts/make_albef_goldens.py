"""Makes the reference cases of tests/data/albef: tiny ALBEFs with random weights under the authors' names.

    pip install torch safetensors tokenizers numpy
    python scripts/make_albef_goldens.py tests/data/albef

The model is written here in plain torch from the authors' code (github.com/salesforce/ALBEF: models/vit.py, models/xbert.py,
models/model_pretrain.py, models/model_retrieval.py, dataset/utils.py); nothing of the exporter is used. `tests/data/albef/README.md`
lists cases and tensors. A second run writes the same bytes.
"""
import json, math, pathlib, re, shutil, sys

import numpy as np, torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

torch.set_num_threads(1)
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
WORDS = "the of in on and with is to at picture red blue green yellow circle square triangle star small large left right above dog cat boat".split()
TEXTS = ["A red circle, on the left!", "cat", "Two  dogs' small-large BOAT above a star.", "a picture of the green square and the yellow triangle"]
CLEANED = TEXTS + ["", "<person> on-a/boat;\n", "café (crème)", "[SEP] cat", "of " * 40]


def vocabulary():
    letters = list("abcdefghijklmnopqrstuvwxyz")
    return ["[PAD]", "[unused0]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"!',-.", *letters, *("##" + c for c in letters), *WORDS]


def pre_caption(caption, max_words=30):
    """dataset/utils.py"""
    caption = re.sub(r"([,.'!?\"()*#:;~])", "", caption.lower()).replace("-", " ").replace("/", " ").replace("<person>", "person")
    caption = re.sub(r"\s{2,}", " ", caption).rstrip("\n").strip(" ")
    words = caption.split(" ")
    return " ".join(words[:max_words]) if len(words) > max_words else caption


def encode(vocab, text, most):
    """[CLS] and words: the authors' tokenizer puts no [SEP] behind a single text."""
    ids = {entry: i for i, entry in enumerate(vocab)}
    tok = Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    tok.normalizer, tok.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tok.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    return [ids["[CLS]"], *tok.encode(pre_caption(text), add_special_tokens=False).ids[: most - 1]]


def linear(w, name, x):
    return F.linear(x, w[name + ".weight"], w[name + ".bias"])


def norm(w, name, x, eps):
    return F.layer_norm(x, x.shape[-1:], w[name + ".weight"], w[name + ".bias"], eps)


def attend(q, k, v, heads, mask=None):
    split = lambda x: x.unflatten(-1, (heads, -1)).transpose(1, 2)
    scores = split(q) @ split(k).transpose(-1, -2) / (q.shape[-1] // heads) ** 0.5
    scores = scores if mask is None else scores + (1.0 - mask[:, None, None, :]) * -10000.0
    return (scores.softmax(-1) @ split(v)).transpose(1, 2).flatten(2)


def interpolated(positions, patches):
    """models/vit.py, interpolate_pos_embed"""
    old, new = int((positions.shape[1] - 1) ** 0.5), int(patches ** 0.5)
    if old == new:
        return positions
    grid = positions[:, 1:].reshape(-1, old, old, positions.shape[-1]).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    return torch.cat((positions[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)), 1)


def image_tokens(w, c, pixels):
    eps, p = c["vision_norm_eps"], "visual_encoder."
    x = F.conv2d(pixels, w[p + "patch_embed.proj.weight"], w[p + "patch_embed.proj.bias"], stride=c["patch_size"]).flatten(2).transpose(1, 2)
    x = torch.cat((w[p + "cls_token"].expand(len(x), -1, -1), x), 1) + interpolated(w[p + "pos_embed"], x.shape[1])
    for i in range(c["vision_depth"]):
        b = f"{p}blocks.{i}."
        q, k, v = linear(w, b + "attn.qkv", norm(w, b + "norm1", x, eps)).chunk(3, -1)
        x = x + linear(w, b + "attn.proj", attend(q, k, v, c["vision_heads"]))
        x = x + linear(w, b + "mlp.fc2", F.gelu(linear(w, b + "mlp.fc1", norm(w, b + "norm2", x, eps))))
    return norm(w, p + "norm", x, eps)


def bert(w, c, prefix, mask, ids=None, tokens=None, image=None, layers=None):
    """models/xbert.py: from ids, or from the text layers' tokens."""
    b, eps = c["bert"], c["bert"]["layer_norm_eps"]
    if tokens is None:
        e = prefix + "embeddings."
        sums = w[e + "word_embeddings.weight"][ids] + w[e + "token_type_embeddings.weight"][0] + w[e + "position_embeddings.weight"][: ids.shape[1]]
        tokens = norm(w, e + "LayerNorm", sums, eps)
    for i in layers:
        p = f"{prefix}encoder.layer.{i}."

        def add(kind, context, allowed):
            q, k, v = (linear(w, f"{p}{kind}.self.{part}", x) for part, x in (("query", tokens), ("key", context), ("value", context)))
            out = linear(w, f"{p}{kind}.output.dense", attend(q, k, v, b["num_attention_heads"], allowed))
            return norm(w, f"{p}{kind}.output.LayerNorm", out + tokens, eps)

        tokens = add("attention", tokens, mask)
        if i >= b["fusion_layer"]:
            tokens = add("crossattention", image, None)
        out = linear(w, p + "output.dense", F.gelu(linear(w, p + "intermediate.dense", tokens)))
        tokens = norm(w, p + "output.LayerNorm", out + tokens, eps)
    return tokens


def shapes(c, prefix):
    """Names and shapes of the model's tensors, without momentum copies."""
    v, b, e, p = c["vision_width"], c["bert"], c["embed_dim"], "visual_encoder."
    t, side = b["hidden_size"], c["stored_res"] // c["patch_size"]
    out = {p + "cls_token": (1, 1, v), p + "pos_embed": (1, side * side + 1, v)}
    lin = lambda name, o, i: out.update({name + ".weight": (o, i), name + ".bias": (o,)})
    ln = lambda name, n: out.update({name + ".weight": (n,), name + ".bias": (n,)})
    out.update({p + "patch_embed.proj.weight": (v, 3, c["patch_size"], c["patch_size"]), p + "patch_embed.proj.bias": (v,)})
    for i in range(c["vision_depth"]):
        n = f"{p}blocks.{i}."
        ln(n + "norm1", v), lin(n + "attn.qkv", 3 * v, v), lin(n + "attn.proj", v, v), ln(n + "norm2", v)
        lin(n + "mlp.fc1", 4 * v, v), lin(n + "mlp.fc2", v, 4 * v)
    ln(p + "norm", v)
    n = prefix + "embeddings."
    for kind, count in (("word", b["vocab_size"]), ("position", b["max_position_embeddings"]), ("token_type", b["type_vocab_size"])):
        out[f"{n}{kind}_embeddings.weight"] = (count, t)
    ln(n + "LayerNorm", t)
    for i in range(b["num_hidden_layers"]):
        n = f"{prefix}encoder.layer.{i}."
        for kind, width in [("attention", t)] + [("crossattention", v)] * (i >= b["fusion_layer"]):
            lin(f"{n}{kind}.self.query", t, t), lin(f"{n}{kind}.self.key", t, width), lin(f"{n}{kind}.self.value", t, width)
            lin(f"{n}{kind}.output.dense", t, t), ln(f"{n}{kind}.output.LayerNorm", t)
        lin(n + "intermediate.dense", b["intermediate_size"], t), lin(n + "output.dense", t, b["intermediate_size"]), ln(n + "output.LayerNorm", t)
    if "bert" in prefix:
        n = "text_encoder.cls.predictions."
        out[n + "bias"] = (b["vocab_size"],)
        lin(n + "transform.dense", t, t), ln(n + "transform.LayerNorm", t)
    lin("vision_proj", e, v), lin("text_proj", e, t), lin("itm_head", 2, t)
    return out


def draw(c, prefix, gen):
    """Weights large enough that every part matters."""
    w = {}
    for name, shape in shapes(c, prefix).items():
        noise = torch.randn(shape, generator=gen)
        if "word_embeddings" in name:
            w[name] = noise * 2.2 / shape[1] ** 0.5
        elif "embed" in name and len(shape) in (2, 3) or "cls_token" in name:
            w[name] = noise * 0.4
        elif len(shape) >= 2:
            w[name] = noise * (2.0 if "patch" in name or "qkv" in name else 1.4) / math.prod(shape[1:]) ** 0.5
        else:
            w[name] = (0 if name.endswith("bias") else 1) + noise * 0.15
    return w


def state_dict(w, c, prefix, gen):
    """What the authors store: the model, its momentum copy, queues, temperature, and the output embeddings once more."""
    state = dict(w)
    if "bert" in prefix:
        head = "text_encoder.cls.predictions."
        state[head + "decoder.weight"], state[head + "decoder.bias"] = w[prefix + "embeddings.word_embeddings.weight"], w[head + "bias"]
    copied = {"visual_encoder": "visual_encoder_m", "text_encoder": "text_encoder_m", "vision_proj": "vision_proj_m", "text_proj": "text_proj_m"}
    for name in list(state):
        top, rest = name.split(".", 1)
        if top in copied:
            state[f"{copied[top]}.{rest}"] = state[name] + 0.02 * torch.randn(state[name].shape, generator=gen)
    for top in ("text_encoder", "text_encoder_m"):
        state[prefix.replace("text_encoder", top) + "embeddings.position_ids"] = torch.arange(c["bert"]["max_position_embeddings"])[None]
    for kind in ("image", "text"):
        state[kind + "_queue"] = F.normalize(torch.randn(c["embed_dim"], c["queue_size"], generator=gen), dim=0)
    state |= {"temp": torch.tensor(0.07), "queue_ptr": torch.zeros(1, dtype=torch.int64)}
    return state if "bert" in prefix else state | {"idx_queue": torch.full((1, c["queue_size"]), -100)}


def draw_images(rng, count, side):
    y, x = np.mgrid[0:side, 0:side] / side
    images = []
    for _ in range(count):
        image = np.stack([rng.uniform(0, 255) + rng.uniform(-150, 150) * x + rng.uniform(-150, 150) * y for _ in range(3)], -1)
        cx, cy, r = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.1, 0.4)
        image[(x - cx) ** 2 + (y - cy) ** 2 < r * r] = rng.uniform(0, 255, 3)
        images.append(np.clip(image + rng.normal(0, 10, image.shape), 0, 255).astype(np.uint8))
    return np.stack(images)


def golden(w, c, prefix, vocab, most, rng):
    side = c["image_res"]
    images = torch.from_numpy(draw_images(rng, len(TEXTS), side))
    mean, std = torch.tensor(c.get("mean", MEAN)).view(1, 3, 1, 1), torch.tensor(c.get("std", STD)).view(1, 3, 1, 1)
    image = image_tokens(w, c, (images.permute(0, 3, 1, 2) / 255 - mean) / std)
    texts = [encode(vocab, text, most) for text in TEXTS]
    ids = torch.zeros(len(texts), max(map(len, texts)), dtype=torch.int64)
    for row, text in zip(ids, texts):
        row[: len(text)] = torch.tensor(text)
    mask = (ids != 0).long()
    layers, fusion = c["bert"]["num_hidden_layers"], c["bert"]["fusion_layer"]
    text = bert(w, c, prefix, mask.float(), ids=ids, layers=range(fusion))
    fused = bert(w, c, prefix, mask.float(), tokens=text, image=image, layers=range(fusion, layers))
    unit = lambda x: F.normalize(x, dim=-1)
    out = dict(images=images, ids=ids, attention_mask=mask, image_features=unit(linear(w, "vision_proj", image[:, 0])),
               text_features=unit(linear(w, "text_proj", text[:, 0])), itm_logits=linear(w, "itm_head", fused[:, 0]))
    if "bert" in prefix:
        masked = ids.clone()
        # Masked, replaced by another word, replaced by padding's id: all that the authors' `mask` may do.
        masked[:, 1], masked[2, 3], masked[3, 2] = vocab.index("[MASK]"), vocab.index("boat"), 0
        tokens = bert(w, c, prefix, mask.float(), ids=masked, image=image, layers=range(layers))
        head = "text_encoder.cls.predictions."
        tokens = norm(w, head + "transform.LayerNorm", F.gelu(linear(w, head + "transform.dense", tokens)), c["bert"]["layer_norm_eps"])
        logits = F.linear(tokens, w[prefix + "embeddings.word_embeddings.weight"], w[head + "bias"])
        out |= dict(masked_ids=masked, mlm_labels=torch.where(masked != ids, ids, -100), mlm_logits=logits)
    return out


def write_case(out, name, c, prefix, most, seed):
    folder, vocab = out / name, vocabulary()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    c["bert"]["vocab_size"] = len(vocab)
    gen, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    w = draw(c, prefix, gen)
    state = state_dict(w, c, prefix, gen)
    if "bert" in prefix:
        save_file({k: v.contiguous().clone() for k, v in state.items()}, folder / "albef.safetensors")
    else:
        # As Retrieval.py saves it.
        config = {"image_res": c["image_res"], "queue_size": c["queue_size"], "train_file": ["data/coco_train.json"], "distill": True}
        torch.save({"model": state, "optimizer": {"state": {0: {"step": 3}}, "param_groups": [{"lr": 1e-5, "params": [0]}]}, "config": config, "epoch": 4}, folder / "retrieval.pth")
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n")
    config = {key: value for key, value in c.items() if key != "stored_res"}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    tensors = golden(w, c, prefix, vocab, most, rng)
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, folder / "golden.safetensors")
    cases = [{"text": text, "cleaned": pre_caption(text), "ids": encode(vocab, text, most)} for text in CLEANED]
    (folder / "texts.json").write_text(json.dumps(cases, indent=1, ensure_ascii=False) + "\n")
    print(name, tensors["itm_logits"].softmax(-1)[:, 1])


VISION = dict(patch_size=8, vision_width=20, vision_depth=2, vision_heads=2, vision_norm_eps=4e-3, embed_dim=16, queue_size=8)
TEXT = dict(hidden_size=24, intermediate_size=40, num_attention_heads=4, num_hidden_layers=3, max_position_embeddings=40,
            layer_norm_eps=1e-2, hidden_act="gelu", pad_token_id=0, type_vocab_size=2)
PRETRAIN = {**VISION, "image_res": 24, "stored_res": 24, "momentum": 0.995, "alpha": 0.4, "temp": 0.07, "mlm_probability": 0.15,
            "bert": {**TEXT, "fusion_layer": 1, "encoder_width": 20}, "special_ids": {"pad": 0, "cls": 4, "sep": 5, "mask": 6},
            "mean": MEAN, "std": STD}
RETRIEVAL = {**VISION, "vision_heads": 4, "image_res": 40, "stored_res": 24, "bert": {**TEXT, "num_attention_heads": 3, "fusion_layer": 2}}

if __name__ == "__main__":
    with torch.no_grad():
        write_case(pathlib.Path(sys.argv[1]), "pretraining", PRETRAIN, "text_encoder.bert.", 25, 1)
        write_case(pathlib.Path(sys.argv[1]), "retrieval", RETRIEVAL, "text_encoder.", 30, 2)
