"""Makes the reference cases of tests/data/siglip from open_clip and transformers: tiny scorers with random weights.

    pip install open_clip_torch==3.3.0 timm==1.0.31 transformers==5.24.0 torch safetensors sentencepiece protobuf tokenizers
    python scripts/make_siglip_goldens.py tests/data/siglip

Each case is a checkpoint in the layout of its library, and what that computed from it (fp32, CPU, one thread), in `golden.safetensors`:

  images          u8  [N,S,S,3]   RGB, already at the model's size
  text            i64 [T,L]       ids, padded to the context
  image_features  f32 [N,E]       L2-normalised image embedding
  text_features   f32 [T,E]       L2-normalised text embedding
  probability     f32 [N,T]       sigmoid(exp(logit_scale) * cosine + logit_bias), of a SigLIP
  text_ids        i64 [n,L]       ids of the texts in golden.json, by the library's tokenizer

`golden.json` has special ids (`sot` is the end token where texts have no start), texts and versions. A second run writes the same bytes.
open_clip 3.3.0 has no `timm_model_kwargs`, with which a tower of timm is this small; they are passed on as open_clip 4 does it.
"""
import functools, json, os, pathlib, random, shutil, sys, tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
import numpy as np, open_clip, sentencepiece, timm, torch, transformers
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.tokenizer import HFTokenizer
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import build_siglip_tokenizer

torch.set_num_threads(int(os.environ.get("THREADS", 1)))
transformers.logging.set_verbosity_error()

CONTEXT = 16
WORDS = ("a the of in on and with at photo picture red blue green yellow circle square triangle star small large left right above dog cat boat "
         "two three café street quotes dashes upper lower word case snake really").split()
TEXTS = ["A photo of a red circle.", "a  photo,\tof a CAT!", "Two dogs & 3 stars", "it's snake_case (really)", "café — naïve 東京",
         "HTML &amp; entities &lt;b&gt;", "", "word " * 40, "ΟΔΟΣ İstanbul", "“quotes” — dashes…", "UPPER lower 123", "ﬁne ½ ①", "star-shaped/dogs"]
HALF = [0.5, 0.5, 0.5]
VISION = {"img_size": 26, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
TEXT = {"context_length": CONTEXT, "width": 20, "heads": 2, "layers": 2, "mlp_ratio": 2.5}


def sentences():
    rng = random.Random(0)
    return [" ".join(rng.choices(WORDS, k=rng.randint(3, 9))) for _ in range(600)]


# Tokenizers, each written into a folder.

def write_sentence_piece(folder, entries=150, rule="identity"):
    """spiece.model with T5's ids, and tokenizer.json made of it. T5's rule of normalisation is nmt_nfkc, whose table has 300 kB."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences()), model_prefix=str(folder / "spiece"), vocab_size=entries, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
        hard_vocab_limit=False, normalization_rule_name=rule, minloglevel=2, num_threads=1)
    (folder / "spiece.vocab").unlink()
    tok = build_siglip_tokenizer.build(folder / "spiece.model")
    tok.save(str(folder / "tokenizer.json"), pretty=False)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings) + "\n")
    return tok.get_vocab_size()


def write_gemma(folder):
    """A vocabulary of Gemma's kind: byte-pair merges with bytes to fall back on."""
    tok = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tok.normalizer = normalizers.Replace(" ", "▁")
    tok.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    tok.train_from_iterator(sentences(), trainers.BpeTrainer(vocab_size=470, special_tokens=special + [f"<0x{b:02X}>" for b in range(256)], show_progress=False))
    spec = json.loads(tok.to_str())
    # The trainer makes the bytes special; Gemma's are entries.
    spec["added_tokens"] = [t for t in spec["added_tokens"] if t["content"] in special]
    tok = Tokenizer.from_str(json.dumps(spec))
    tok.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tok.post_processor = processors.TemplateProcessing(single="$A <eos>", pair="$A <eos> $B <eos>", special_tokens=[("<eos>", 1)])
    tok.save(str(folder / "tokenizer.json"), pretty=False)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<eos>", "bos_token": "<bos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings) + "\n")
    return tok.get_vocab_size()


def write_bert(folder):
    letters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *("##" + c for c in "abcdefghijklmnopqrstuvwxyz"), *(w for w in WORDS if len(w) > 1)]
    ids = {entry: i for i, entry in enumerate(entries)}
    tok = Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    tok.normalizer, tok.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tok.decoder = decoders.WordPiece()
    tok.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])])
    tok.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    tok.save(str(folder / "tokenizer.json"), pretty=False)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings) + "\n")
    return tok.get_vocab_size()


def write_xlm(folder):
    """SentencePiece's unigrams with XLM-V's special entries: <s> 0, <pad> 1, </s> 2, <unk> 3."""
    with tempfile.TemporaryDirectory() as place:
        place = pathlib.Path(place)
        write_sentence_piece(place)
        spec = json.loads((place / "tokenizer.json").read_text())
    pieces = [p for p in spec["model"]["vocab"] if p[0] not in ("<pad>", "</s>", "<unk>")]
    spec["model"]["vocab"] = [["<s>", 0.0], ["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], *pieces]
    spec["model"]["unk_id"] = 3
    spec["added_tokens"], spec["post_processor"] = [], None
    tok = Tokenizer.from_str(json.dumps(spec))
    tok.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in ("<s>", "<pad>", "</s>", "<unk>")])
    tok.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    tok.save(str(folder / "tokenizer.json"), pretty=False)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings) + "\n")
    return tok.get_vocab_size()


# Weights, images and texts.

def shake(model, gen):
    """Random weights large enough that embeddings differ from image to image and from text to text."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name in ("logit_scale", "logit_bias"):
                p.fill_(1.5 if name == "logit_scale" else -1.25)
            elif p.dim() >= 2 and "pos" not in name:
                fan = p[0].numel() if p.dim() > 2 else p.shape[-1]
                p.copy_(torch.randn(p.shape, generator=gen) * 1.6 / fan**0.5)
            elif name.endswith("bias"):
                p.copy_(torch.randn(p.shape, generator=gen) * 0.1)
            elif name.endswith("weight") and p.dim() == 1:
                p.copy_(1 + torch.randn(p.shape, generator=gen) * 0.1)
            else:
                p.copy_(torch.randn(p.shape, generator=gen) * 0.5)


def draw(n, size, rng):
    """Smooth gradients, two discs and noise: unlike one another."""
    yy, xx = np.mgrid[0:size, 0:size] / size
    images = []
    for _ in range(n):
        img = np.stack([rng.uniform(0, 255) + rng.uniform(-160, 160) * xx + rng.uniform(-160, 160) * yy for _ in range(3)], -1)
        for _ in range(2):
            cx, cy, r = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.1, 0.35)
            img[(xx - cx) ** 2 + (yy - cy) ** 2 < r * r] = rng.uniform(0, 255, 3)
        images.append(np.clip(img + rng.normal(0, 12, img.shape), 0, 255).astype(np.uint8))
    return torch.from_numpy(np.stack(images))


def draw_texts(n, context, vocabulary, special, rng, is_sealed):
    """Ids of n texts: the first fills the context, the last has no words. `is_sealed`: the end token is written as such."""
    low = max(special["pad"], special["eos"], special["sot"] or 0) + 1
    low = low if low < vocabulary // 2 else 1
    high = vocabulary if special["eos"] < vocabulary // 2 else vocabulary - 2
    rows = torch.full((n, context), special["pad"], dtype=torch.int64)
    for i in range(n):
        ends = 1 if special["sot"] is None else 2
        words = context - ends if i == 0 else 0 if i == n - 1 else int(rng.integers(1, context - ends))
        ids = [*([] if special["sot"] is None else [special["sot"]]), *rng.integers(low, high, words), special["eos"]]
        rows[i, : len(ids)] = torch.tensor([int(i) for i in ids])
    return rows


def normalise(images, mean, std):
    x = images.float().div(255).permute(0, 3, 1, 2)
    return ((x - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)).contiguous()


def write_golden(folder, model, encode, special, ids, counts, seed, size, vocabulary, context, versions):
    images, text = None, None
    rng = np.random.default_rng(seed)
    images = draw(counts, size, rng)
    text = draw_texts(counts + 1, context, vocabulary, special, rng, True)
    with torch.no_grad():
        image_features, text_features = (torch.nn.functional.normalize(f, dim=-1) for f in encode(images, text))
        tensors = dict(images=images, text=text, image_features=image_features, text_features=text_features)
        if getattr(model, "logit_bias", None) is not None:
            logits = image_features @ text_features.T * model.logit_scale.exp() + model.logit_bias
            tensors["probability"] = torch.sigmoid(logits)
    meta = dict(sot=special["eos"] if special["sot"] is None else special["sot"], eos=special["eos"], pad=special["pad"], seed=seed, **versions)
    if ids is not None:
        tensors["text_ids"] = torch.as_tensor(ids, dtype=torch.int64)
        meta["texts"] = TEXTS
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "golden.safetensors")
    (folder / "golden.json").write_text(json.dumps(meta, indent=1, ensure_ascii=False) + "\n")
    similarity = image_features @ text_features.T
    spread = [float((f @ f.T).fill_diagonal_(-1).max()) for f in (image_features, text_features)]
    print(f"{folder.name}: {sum(p.numel() for p in model.parameters()):,} parameters, largest cosine between images {spread[0]:.3f}, between texts "
          f"{spread[1]:.3f}, between image and text {float(similarity.max()):.3f}")


def rounded(model, dtype):
    """Rounds the weights to what the file holds."""
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.to(dtype))
    return {k: v.to(dtype).contiguous() for k, v in model.state_dict().items() if v.is_floating_point()}


def open_clip_model(cfg):
    """open_clip 3.3.0's model of a `model_cfg`; `timm_model_kwargs` go to timm as in open_clip 4."""
    cfg = json.loads(json.dumps(cfg))
    options = cfg["vision_cfg"].pop("timm_model_kwargs", {})
    kind = CustomTextCLIP if cfg.pop("custom_text", False) else CLIP
    create = timm.create_model
    timm.create_model = functools.partial(create, **options)
    try:
        return kind(**cfg).eval()
    finally:
        timm.create_model = create


def open_clip_case(folder, cfg, special, seed, mean=HALF, std=HALF, dtype=torch.float16, kwargs=None, n=4, interpolation="bicubic"):
    """Writes a checkpoint of open_clip; `kwargs` are the tokenizer's, whose files are in the folder already."""
    torch.manual_seed(seed)
    model = open_clip_model(cfg)
    shake(model, torch.Generator().manual_seed(seed))
    weights = rounded(model, dtype)
    pre = {"mean": mean, "std": std, "interpolation": interpolation, "resize_mode": "squash"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": cfg, "preprocess_cfg": pre}, indent=1) + "\n")
    save_file(weights, folder / "open_clip_model.safetensors", {"format": "pt"})
    context = cfg["text_cfg"]["context_length"]
    ids = None if kwargs is None else HFTokenizer(str(folder), context_length=context, **kwargs)(TEXTS)
    encode = lambda images, text: (model.encode_image(normalise(images, mean, std)), model.encode_text(text))
    versions = dict(open_clip=open_clip.__version__, timm=timm.__version__, transformers=transformers.__version__, torch=torch.__version__)
    write_golden(folder, model, encode, special, ids, n, seed, cfg["vision_cfg"]["image_size"], cfg["text_cfg"]["vocab_size"], context, versions)


def transformers_case(folder, config, special, seed, tokenizer=None, dtype=torch.float16, n=4, processor=None):
    """Writes a checkpoint of transformers; `tokenizer` is its class there, whose files are in the folder already."""
    torch.manual_seed(seed)
    cfg = transformers.SiglipConfig(**json.loads(json.dumps(config)))
    model = transformers.SiglipModel(cfg).eval()
    shake(model, torch.Generator().manual_seed(seed))
    weights = rounded(model, dtype)
    (folder / "config.json").write_text(json.dumps({"architectures": ["SiglipModel"], "model_type": "siglip"} | config, indent=1) + "\n")
    size, context = cfg.vision_config.image_size, cfg.text_config.max_position_embeddings
    (folder / "preprocessor_config.json").write_text(json.dumps(
        {"do_normalize": True, "do_resize": True, "image_mean": HALF, "image_std": HALF, "resample": 3, "size": {"height": size, "width": size}} | (processor or {})) + "\n")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    ids = None
    if tokenizer is not None:
        tok = tokenizer.from_pretrained(str(folder), padding_side="right")
        ids = tok(TEXTS, padding="max_length", truncation=True, max_length=context, return_tensors="pt").input_ids
    pooled = lambda out: out if isinstance(out, torch.Tensor) else out.pooler_output
    encode = lambda images, text: (pooled(model.get_image_features(normalise(images, HALF, HALF))), pooled(model.get_text_features(text)))
    versions = dict(transformers=transformers.__version__, torch=torch.__version__)
    write_golden(folder, model, encode, special, ids, n, seed, size, cfg.text_config.vocab_size, context, versions)


SIGLIP, GEMMA = {"sot": None, "eos": 1, "pad": 1}, {"sot": None, "eos": 1, "pad": 0}


def siglip_cfg(vocabulary, **text):
    """open_clip's ViT-B-16-SigLIP, small."""
    return {
        "embed_dim": 24, "init_logit_bias": -10, "custom_text": True,
        "vision_cfg": {"image_size": 26, "timm_model_name": "vit_base_patch16_siglip_224", "timm_model_pretrained": False, "timm_pool": "map",
                       "timm_proj": "none", "timm_model_kwargs": VISION},
        "text_cfg": TEXT | {"vocab_size": vocabulary, "hf_tokenizer_name": "timm/ViT-B-16-SigLIP", "tokenizer_kwargs": {"clean": "canonicalize"},
                            "no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}} | text}


def hf_config(vocabulary, width=24, **text):
    """transformers' configuration of a small SigLIP."""
    tower = {"hidden_size": width, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2}
    return {"text_config": tower | {"vocab_size": vocabulary, "max_position_embeddings": CONTEXT} | text, "vision_config": tower | {"image_size": 26, "patch_size": 8}}


# Case: timm's tower, its pooling in a CLIP, what is another size than the others'.
EVA = {
    "eva": ("eva_giant_patch14_224", "token", {"num_heads": 4, "mlp_ratio": 2.5}),
    "eva-2": ("eva02_base_patch16_clip_224", "token", {}),
    "eva-2-enormous": ("eva02_enormous_patch14_clip_224", "token", {"mlp_ratio": 3.0}),
    "perception": ("vit_pe_core_base_patch16_224", "map", {}),
    "perception-gigantic": ("vit_pe_core_gigantic_patch14_448", "map", {"embed_dim": 48, "mlp_ratio": 2.0}),
}
EVA_VISION = {"img_size": 28, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}


def eva_cfg(tower, pool, options):
    """A CLIP with one of timm's towers, without a tokenizer."""
    return {"embed_dim": 16, "custom_text": True,
            "vision_cfg": {"image_size": options["img_size"], "timm_model_name": tower, "timm_model_pretrained": False, "timm_pool": pool, "timm_proj": None,
                           "timm_model_kwargs": options},
            "text_cfg": TEXT | {"vocab_size": 120, "layers": 1}}


def main(out):
    def fresh(name):
        folder = out / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    folder = fresh("open-clip")
    open_clip_case(folder, siglip_cfg(write_sentence_piece(folder)), SIGLIP, 1, kwargs={"clean": "canonicalize"})
    (folder / "spiece.model").unlink()

    # SigLIP 2 in open_clip: Gemma's tokenizer, GELU by tanh in both towers, a tower with the classifier as projection.
    folder = fresh("open-clip-2")
    cfg = siglip_cfg(write_gemma(folder), hf_tokenizer_name="timm/ViT-B-32-SigLIP2-256", act_kwargs={"approximate": "tanh"})
    cfg["embed_dim"] = 16
    cfg["vision_cfg"] |= {"timm_model_name": "vit_base_patch32_siglip_256", "timm_proj": None, "timm_model_kwargs": VISION | {"act_layer": "gelu_tanh", "mlp_ratio": 1.6}}
    open_clip_case(folder, cfg, GEMMA, 2, kwargs={"clean": "canonicalize"}, interpolation="bilinear")

    folder = fresh("transformers")
    transformers_case(folder, hf_config(write_sentence_piece(folder)), SIGLIP, 3, transformers.SiglipTokenizer)
    (folder / "spiece.model").unlink()

    folder = fresh("transformers-2")
    config = hf_config(write_gemma(folder))
    config["vision_config"]["layer_norm_eps"] = 1e-4
    transformers_case(folder, config, GEMMA, 4, transformers.Siglip2Tokenizer, processor={"resample": 2})

    # CLIPA: mean of the patches, BERT's tokenizer, text tower without mask.
    folder = fresh("clipa")
    cfg = {"embed_dim": 16,
           "vision_cfg": {"image_size": 26, "layers": 1, "width": 24, "head_width": 12, "patch_size": 8, "no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True},
           "text_cfg": TEXT | {"vocab_size": write_bert(folder) + 9, "hf_tokenizer_name": "bert-base-uncased", "tokenizer_kwargs": {"strip_sep_token": True},
                               "pool_type": "last", "no_causal_mask": True}}
    open_clip_case(folder, cfg, {"sot": 2, "eos": 0, "pad": 0}, 5, kwargs={"strip_sep_token": True})

    # MetaCLIP's multilingual models: a causal text tower whose first end token is pooled, here with padding of another id.
    folder = fresh("worldwide")
    cfg = {"embed_dim": 16, "vision_cfg": {"image_size": 26, "layers": 1, "width": 24, "head_width": 12, "patch_size": 8},
           "text_cfg": TEXT | {"vocab_size": write_xlm(folder), "hf_tokenizer_name": "facebook/xlm-v-base", "pool_type": "eos", "eos_id": 2, "layers": 1}}
    open_clip_case(folder, cfg, {"sot": 0, "eos": 2, "pad": 1}, 6, kwargs={})

    # MobileCLIP2-L-14: timm's ViT of CLIP, CLIP's tokenizer, a text tower without mask whose end token is pooled. No tokenizer here.
    folder = fresh("timm-clip")
    cfg = {"embed_dim": 16, "custom_text": True,
           "vision_cfg": {"image_size": 26, "timm_model_name": "vit_large_patch14_clip_224", "timm_model_pretrained": False, "timm_pool": "token", "timm_proj": None,
                          "timm_model_kwargs": VISION},
           "text_cfg": TEXT | {"vocab_size": 120, "no_causal_mask": True, "layers": 1}}
    open_clip_case(folder, cfg, {"sot": 118, "eos": 119, "pad": 0}, 7)

    # EVA's towers and Perception Encoders.
    for seed, (name, (tower, pool, options)) in enumerate(EVA.items(), 8):
        folder = fresh(name)
        open_clip_case(folder, eva_cfg(tower, pool, EVA_VISION | options), {"sot": 118, "eos": 119, "pad": 0}, seed)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(pathlib.Path(sys.argv[1]))
