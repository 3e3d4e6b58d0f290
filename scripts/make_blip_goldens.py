"""Makes the reference cases of tests/data/blip from transformers' BLIP: tiny captioners, and a model that scores, with random weights.

    pip install transformers==5.17.0 torch safetensors tokenizers pillow numpy
    python scripts/make_blip_goldens.py tests/data/blip [CASE]...

Each case is a checkpoint as transformers writes it, `golden.safetensors` with what transformers computed from it (fp32, CPU, one
thread), and `golden.json` with ids, lengths and texts. `tests/data/blip/README.md` lists the tensors. A second run writes the same
bytes.

Weights are drawn until captions differ, end at different lengths and at the maximal one, and no decision of greedy or beam search is
close: float64 makes the same. Beam search is repeated here in plain Python by both rules that transformers had, version 5's and
version 4's (BeamSearchScorer); the first must give what `generate` gives, the second is written as `beams_all_448`.
"""
import json, math, os, pathlib, shutil, sys

os.environ["HF_HUB_OFFLINE"] = "1"
import numpy as np, torch, transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BlipConfig, BlipForConditionalGeneration, BlipForImageTextRetrieval

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
MAX_LENGTH, MIN_LENGTH, BEAMS, TEXT_LENGTH = 12, 5, 3, 9
# A decision closer than this is not a test: another order of summation may take it differently.
MIN_GAP = 2e-4
WORDS = "the of in on and with is to at picture red blue green yellow circle square triangle star small large left right above dog cat boat".split()
SUFFIXES = ["##es", "##ing", "##ish"]
TOKENIZER_TEXTS = ["a red circle", "A  Cat,\tboats!", "café crème", "a [SEP] b [MASK]", "", "汉字 cat", "x" * 101, "star-shaped dogs."]


def vocabulary():
    letters = list("abcdefghijklmnopqrstuvwxyz")
    return ["[PAD]", "[unused0]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"!',-.", *letters, *("##" + c for c in letters), *WORDS, *SUFFIXES]


def write_tokenizer(folder, vocab, as_json):
    """tokenizer.json, or vocab.txt alone; [DEC] and [ENC] are only in tokenizer_config.json."""
    ids = {entry: i for i, entry in enumerate(vocab)}
    tok = Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    tok.normalizer = normalizers.BertNormalizer()
    tok.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tok.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", special_tokens=[(t, ids[t]) for t in ("[CLS]", "[SEP]")])
    tok.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    tok.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    if as_json:
        tok.save(str(folder / "tokenizer.json"), pretty=False)
    else:
        (folder / "vocab.txt").write_text("\n".join(vocab) + "\n")
        settings = {"do_lower_case": True, "bos_token": "[DEC]", "additional_special_tokens": ["[ENC]"], "tokenizer_class": "BertTokenizer"}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings) + "\n")
        tok.add_special_tokens(["[DEC]", "[ENC]"])
    return tok


def draw_images(rng, count, height, width):
    """Gradients with two discs and noise, u8 [count, height, width, 3]."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    images = []
    for _ in range(count):
        image = np.stack([rng.uniform(0, 255) + rng.uniform(-150, 150) * x + rng.uniform(-150, 150) * y for _ in range(3)], -1)
        for _ in range(2):
            cx, cy, r = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.1, 0.4)
            image[(x - cx) ** 2 + (y - cy) ** 2 < r * r] = rng.uniform(0, 255, 3)
        images.append(np.clip(image + rng.normal(0, 10, image.shape), 0, 255).astype(np.uint8))
    return np.stack(images)


def normalise(images):
    x = torch.from_numpy(images.copy()).double().div(255).permute(0, 3, 1, 2)
    return ((x - torch.tensor(MEAN).double().view(1, 3, 1, 1)) / torch.tensor(STD).double().view(1, 3, 1, 1)).float().contiguous()


def draw_weights(model, gen, case, ids):
    """Weights large enough that every part matters, and with which special entries are never generated."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=gen)
            if "word_embeddings" in name:
                p.copy_(noise * 2.2 / p.shape[1] ** 0.5)
            elif "position_embedding" in name or "class_embedding" in name:
                p.copy_(noise * 0.4)
            elif p.dim() >= 2:
                gain = 2.0 if "patch" in name or ".query" in name or ".key" in name else 0.6 if "crossattention" in name else 1.4
                p.copy_(noise * gain / math.prod(p.shape[1:]) ** 0.5)
            else:
                p.copy_((0 if name.endswith("bias") else 1) + noise * 0.15)
        head = model.text_decoder.cls.predictions
        if case["untied"]:
            own = head.decoder.weight.detach()
            head.decoder.weight = torch.nn.Parameter(own + 0.15 * torch.randn(own.shape, generator=gen))
        never = [ids[t] for t in ("[PAD]", "[unused0]", "[unused1]", "[UNK]", "[CLS]", "[MASK]")] + [len(ids), len(ids) + 1]
        # In one case padding may be generated, as transformers does it.
        head.bias[never[1:] if case["says_padding"] else never] = -25.0
        if case["says_padding"]:
            head.bias[0] += 1.2
        head.bias[ids["[SEP]"]] += case["end_bias"]
        if case["half"]:
            for p in model.parameters():
                p.copy_(p.half().float())


@torch.no_grad()
def generate(model, pixels, prompt=None, **settings):
    settings = dict(max_length=MAX_LENGTH, do_sample=False, return_dict_in_generate=True, output_scores=True) | settings
    mask = None if prompt is None else torch.ones_like(prompt)
    return model.generate(pixel_values=pixels, input_ids=None if prompt is None else prompt.clone(), attention_mask=mask, **settings)


def until_end(row, end):
    row = list(row)
    return row[: row.index(end) + 1] if end in row else row


def padded(rows, end):
    out = torch.zeros(len(rows), MAX_LENGTH, dtype=torch.int64)
    for i, row in enumerate(rows):
        row = until_end(row, end)
        out[i, : len(row)] = torch.tensor(row)
    return out


@torch.no_grad()
def next_logprobs(model, hidden, rows):
    """Log-probabilities after rows of ids of one length, without a cache: f32 or f64 [rows, V]."""
    ids = torch.tensor(rows)
    hidden = hidden.expand(len(rows), -1, -1)
    logits = model.text_decoder(input_ids=ids, attention_mask=torch.ones_like(ids), encoder_hidden_states=hidden,
                                encoder_attention_mask=torch.ones(hidden.shape[:2], dtype=torch.int64), is_decoder=True).logits
    return logits[:, -1].log_softmax(-1)


def search(model, hidden, prefix, end, version, gaps, known):
    """Beam search for one image (length penalty 1): the finished captions, best first, with scores. `known` keeps log-probabilities for the
    search by the other rule, whose steps are mostly the same."""
    going, finished, length = [(0.0, list(prefix))], [], len(prefix)
    while True:
        rows = tuple(tuple(ids) for _, ids in going)
        if rows not in known:
            known[rows] = next_logprobs(model, hidden, [list(row) for row in rows])
        logprobs = known[rows].clone()
        if length < MIN_LENGTH:
            logprobs[:, end] = -math.inf
        made = length + 1 - len(prefix)
        every = [(total + value, ids + [token]) for (total, ids), row in zip(going, logprobs.tolist()) for token, value in enumerate(row)]
        every.sort(key=lambda c: -c[0])
        gaps += [a[0] - b[0] for a, b in zip(every[: 2 * BEAMS], every[1:]) if b[0] > -math.inf]
        best, last = every[: 2 * BEAMS], length + 1 == MAX_LENGTH
        ends = [c for c in best[:BEAMS] if c[1][-1] == end or last and version == 5]
        going = [c for c in best if c[1][-1] != end][:BEAMS]
        finished = sorted(finished + [(total / made, ids) for total, ids in ends], key=lambda c: -c[0])[:BEAMS]
        gaps += [a[0] - b[0] for a, b in zip(finished, finished[1:])]
        bar = best[0][0] if version == 4 else going[0][0]
        if len(finished) == BEAMS:
            gaps.append(abs(bar / made - finished[-1][0]))
            if bar / made <= finished[-1][0]:
                return finished
        if last:
            rest = [(total / made, ids) for total, ids in going] if version == 4 else []
            return sorted(finished + rest, key=lambda c: -c[0])[:BEAMS]
        length += 1


def top_gap(out):
    scores = torch.stack(out.scores, 1)
    best = scores.topk(2, -1).values
    return (best[..., 0] - best[..., 1]).min().item()


def attempt(case, seed, vocab):
    """Draws a model and images; returns them if they are worth testing."""
    ids = {entry: i for i, entry in enumerate(vocab)}
    end, start = ids["[SEP]"], len(vocab)
    gen, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    torch.manual_seed(0)
    model = BlipForConditionalGeneration(BlipConfig(**json.loads(json.dumps(case["config"])))).eval()
    draw_weights(model, gen, case, ids)
    side = case["config"]["vision_config"]["image_size"]
    images = draw_images(rng, case["images"], side, side)
    x = normalise(images)
    greedy = [until_end(row, end) for row in generate(model, x).sequences.tolist()]
    lengths = {len(row) for row in greedy}
    if len({tuple(row) for row in greedy}) < len(greedy) or len(lengths) < min(3, len(greedy)) or all(row[-1] == end for row in greedy):
        return None
    if case["says_padding"] and not any(0 in row for row in greedy):
        return None
    prompt = torch.tensor([[ids["[CLS]"], ids["a"], ids["picture"], end]]).repeat(len(images), 1)
    double = BlipForConditionalGeneration(model.config).eval()
    if case["untied"]:
        head = double.text_decoder.cls.predictions.decoder
        head.weight = torch.nn.Parameter(head.weight.detach().clone())
    double.load_state_dict(model.state_dict())
    double = double.double()
    outs = [generate(double, x.double(), **kw) for kw in ({}, {"min_length": MIN_LENGTH}, {"prompt": prompt})]
    if min(map(top_gap, outs)) < MIN_GAP:
        return None
    hidden = double.vision_model(pixel_values=x.double()).last_hidden_state
    gaps = []
    for prefix in ([start], [start, ids["a"], ids["picture"]]):
        for image in hidden[:, None]:
            known = {}
            new, old = (search(double, image, prefix, end, version, gaps, known) for version in (5, 4))
            if len(new) < BEAMS or new[0][1] != old[0][1] or min(gaps) < MIN_GAP / 2:
                return None
    return model, images, prompt, min(gaps)


def write_case(out, name, case):
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    vocab = vocabulary()
    ids = {entry: i for i, entry in enumerate(vocab)}
    start, end = len(vocab), ids["[SEP]"]
    case["config"]["text_config"] |= {"vocab_size": len(vocab) + 2, "bos_token_id": start, "sep_token_id": end, "pad_token_id": 0, "eos_token_id": 2}
    seed, found = case["seed"], None
    while found is None:
        found, used, seed = attempt(case, seed, vocab), seed, seed + 1
    model, images, prompt, gap = found
    print(f"{name}: seed {used}, closest beam decision {gap:.1e}")
    tok = write_tokenizer(folder, vocab, case["has_json"])
    save_checkpoint(folder, model, case)
    save_golden(folder, model, images, prompt, tok, ids, used)


def save_checkpoint(folder, model, case):
    config = {"architectures": [type(model).__name__], "model_type": "blip"} | case["config"]
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    side = case["config"]["vision_config"]["image_size"]
    (folder / "preprocessor_config.json").write_text(json.dumps(
        {"do_normalize": True, "do_resize": True, "image_mean": MEAN, "image_std": STD, "size": {"height": side, "width": side}}) + "\n")
    state = model.state_dict()
    drop = ["text_decoder.cls.predictions.decoder.bias"] + ([] if case["untied"] else ["text_decoder.cls.predictions.decoder.weight"])
    if case["torch"]:
        # As transformers 4 saved it: tied names and the positions' buffer included.
        state["text_decoder.bert.embeddings.position_ids"] = torch.arange(case["config"]["text_config"]["max_position_embeddings"])[None]
        torch.save(state, folder / "pytorch_model.bin")
        return
    dtype = torch.float16 if case["half"] else torch.float32
    save_file({k: v.to(dtype).contiguous() for k, v in state.items() if k not in drop}, folder / "model.safetensors", {"format": "pt"})


@torch.no_grad()
def save_golden(folder, model, images, prompt, tok, ids, seed):
    start, end, count = len(ids), ids["[SEP]"], len(images)
    x, rng = normalise(images), np.random.default_rng(seed + 1)
    hidden = model.vision_model(pixel_values=x).last_hidden_state
    text, mask = torch.zeros(count, TEXT_LENGTH, dtype=torch.int64), torch.zeros(count, TEXT_LENGTH, dtype=torch.int64)
    for i in range(count):
        words = TEXT_LENGTH - 2 if i == 0 else int(rng.integers(1, TEXT_LENGTH - 2))
        text[i, : words + 2] = torch.tensor([start, *rng.integers(ids["a"], len(ids), words), end])
        mask[i, : words + 2] = 1
    logits = model(pixel_values=x, input_ids=text, attention_mask=mask).logits
    logprobs = logits[:, :-1].log_softmax(-1).gather(2, text[:, 1:, None])[..., 0] * mask[:, 1:]

    side = images.shape[1]
    raw = draw_images(rng, 1, side - 11, side + 25)[0]
    squashed = np.asarray(Image.fromarray(raw).resize((side, side), Image.BICUBIC)).copy()
    greedy = generate(model, x)
    steps = model.text_decoder.compute_transition_scores(greedy.sequences, greedy.scores, normalize_logits=True)
    made = torch.tensor([len(until_end(row, end)) - 1 for row in greedy.sequences.tolist()])
    greedy_logprob = steps.masked_fill(torch.arange(steps.shape[1])[None] >= made[:, None], 0).sum(1)
    beam_settings = dict(num_beams=BEAMS, min_length=MIN_LENGTH, early_stopping=False, length_penalty=1.0)
    beams = generate(model, x, num_return_sequences=BEAMS, **beam_settings)
    beams_all = padded(beams.sequences.tolist(), end).view(count, BEAMS, -1)
    beam_scores = beams.sequences_scores.view(count, BEAMS)
    found = {version: [search(model, image, [start], end, version, [], {}) for image in hidden[:, None]] for version in (5, 4)}
    rows = {version: torch.stack([padded([c[1] for c in captions], end) for captions in found[version]]) for version in found}
    assert torch.equal(rows[5], beams_all), "transformers' beams are not those of this file's search"
    print(f"  of {count * BEAMS} beams {(rows[4] == rows[5]).all(-1).sum()} are those of transformers 4 too")
    prompt_greedy = padded(generate(model, x, prompt).sequences.tolist(), end)
    prompt_beam = generate(model, x, prompt, **beam_settings)
    tensors = dict(
        images=torch.from_numpy(images), pixel_values=x, raw_image=torch.from_numpy(raw), raw_squashed=torch.from_numpy(squashed),
        raw_pixel_values=normalise(squashed[None]), vision_hidden=hidden, text=text, attention_mask=mask, logits=logits,
        text_logprob=logprobs.sum(1), greedy=padded(greedy.sequences.tolist(), end), greedy_logprob=greedy_logprob,
        greedy_min=padded(generate(model, x, min_length=MIN_LENGTH).sequences.tolist(), end), beam=beams_all[:, 0], beam_score=beam_scores[:, 0],
        beams_all=beams_all, beams_all_score=beam_scores, beams_all_448=rows[4],
        beams_all_448_score=torch.tensor([[c[0] for c in captions] for captions in found[4]]), prompt=prompt, prompt_greedy=prompt_greedy,
        prompt_beam=padded(prompt_beam.sequences.tolist(), end), prompt_beam_score=prompt_beam.sequences_scores)
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, folder / "golden.safetensors")
    decode = lambda rows: [tok.decode([i for i in until_end(row, end) if i != 0], skip_special_tokens=True) for row in rows.tolist()]
    tok.no_padding()
    settings = dict(
        dec=start, sep=end, pad=0, max_length=MAX_LENGTH, min_length_beam=MIN_LENGTH, num_beams=BEAMS, length_penalty=1.0, prompt_text="a picture",
        greedy_text=decode(tensors["greedy"]), beam_text=decode(tensors["beam"]), prompt_greedy_text=decode(prompt_greedy),
        tokenizer_cases=[{"text": t, "ids": tok.encode(t).ids} for t in TOKENIZER_TEXTS], transformers=transformers.__version__)
    (folder / "golden.json").write_text(json.dumps(settings, indent=1, ensure_ascii=False) + "\n")
    print("  " + "\n  ".join(settings["greedy_text"]))


@torch.no_grad()
def write_retrieval(out, name, config):
    """A model that scores: every image with every text, with [CLS] as transformers has it and with [ENC] as it was trained."""
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    vocab = vocabulary()
    ids = {entry: i for i, entry in enumerate(vocab)}
    config["text_config"] |= {"vocab_size": len(vocab) + 2, "bos_token_id": len(vocab), "sep_token_id": ids["[SEP]"], "pad_token_id": 0}
    torch.manual_seed(0)
    model = BlipForImageTextRetrieval(BlipConfig(**json.loads(json.dumps(config)))).eval()
    gen = torch.Generator().manual_seed(3)
    for parameter_name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=gen)
        if "word_embeddings" in parameter_name:
            p.copy_(noise * 2.2 / p.shape[1] ** 0.5)
        elif p.dim() >= 2:
            p.copy_(noise * (0.4 if "embedding" in parameter_name else 1.4 / math.prod(p.shape[1:]) ** 0.5))
        else:
            p.copy_((0 if parameter_name.endswith("bias") else 1) + noise * 0.15)
    tok = write_tokenizer(folder, vocab, True)
    save_checkpoint(folder, model, dict(config=config, untied=True, torch=False, half=False))
    images = draw_images(np.random.default_rng(3), 3, *[config["vision_config"]["image_size"]] * 2)
    x, texts = normalise(images), ["a red circle on the left", "cat", "two  Dogs, above a boat!", "with"]
    tok.enable_padding(pad_id=0, pad_token="[PAD]")
    encoded = tok.encode_batch(texts)
    ids_cls, mask = torch.tensor([e.ids for e in encoded]), torch.tensor([e.attention_mask for e in encoded])
    ids_enc = ids_cls.clone()
    ids_enc[:, 0] = len(vocab) + 1
    hidden = model.vision_model(pixel_values=x).last_hidden_state
    unit = lambda v: torch.nn.functional.normalize(v, dim=-1)
    tensors = dict(images=torch.from_numpy(images), pixel_values=x, vision_hidden=hidden, attention_mask=mask,
                   image_features=unit(model.vision_proj(hidden[:, 0])))
    n, m = len(images), len(texts)
    for kind, ids_of in (("cls", ids_cls), ("enc", ids_enc)):
        tokens = model.text_encoder(input_ids=ids_of, attention_mask=mask).last_hidden_state
        pairs = dict(pixel_values=x.repeat_interleave(m, 0), input_ids=ids_of.repeat(n, 1), attention_mask=mask.repeat(n, 1))
        logits = model(**pairs).itm_score.view(n, m, 2)
        tensors |= {f"text_{kind}": ids_of, f"text_hidden_{kind}": tokens, f"text_features_{kind}": unit(model.text_proj(tokens[:, 0])),
                    f"cosine_{kind}": model(pixel_values=x, input_ids=ids_of, attention_mask=mask, use_itm_head=False).itm_score,
                    f"itm_logits_{kind}": logits, f"itm_prob_{kind}": logits.softmax(-1)[..., 1]}
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, folder / "golden.safetensors")
    settings = dict(cls=ids["[CLS]"], enc=len(vocab) + 1, sep=ids["[SEP]"], pad=0, texts=texts, transformers=transformers.__version__)
    (folder / "golden.json").write_text(json.dumps(settings, indent=1) + "\n")
    print(name, tensors["itm_prob_cls"], tensors["itm_prob_enc"])


RETRIEVAL = {
    "image_text_hidden_size": 20, "projection_dim": 512,
    "vision_config": dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2, image_size=24, patch_size=8, layer_norm_eps=4e-3),
    "text_config": dict(hidden_size=30, intermediate_size=44, num_hidden_layers=2, num_attention_heads=3, max_position_embeddings=24, layer_norm_eps=1e-2),
}

CASES = {
    # Epsilons so large that a wrong one shows; widths of heads that are not multiples of 8.
    "tied": dict(seed=5, images=4, untied=False, half=False, torch=False, has_json=True, says_padding=False, end_bias=3.0, config={
        "vision_config": dict(hidden_size=36, intermediate_size=56, num_hidden_layers=2, num_attention_heads=3, image_size=24, patch_size=8, layer_norm_eps=3e-3),
        "text_config": dict(hidden_size=40, intermediate_size=72, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=24, layer_norm_eps=2e-2),
    }),
    # Half precision on disk, output embeddings of their own, a configuration that leaves heads and epsilons to defaults and has a
    # wrong encoder_hidden_size, and a vocabulary without tokenizer.json.
    "untied": dict(seed=287, images=4, untied=True, half=True, torch=False, has_json=False, says_padding=True, end_bias=2.0, config={
        "vision_config": dict(hidden_size=24, intermediate_size=40, num_hidden_layers=1, num_attention_heads=2, image_size=20, patch_size=10),
        "text_config": dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, max_position_embeddings=20, encoder_hidden_size=768),
    }),
    # More image tokens (290) than ONNX's own attention is used for.
    "many-tokens": dict(seed=9, images=2, untied=False, half=False, torch=False, has_json=False, says_padding=False, end_bias=3.0, config={
        "vision_config": dict(hidden_size=20, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=68, patch_size=4),
        "text_config": dict(hidden_size=24, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=16),
    }),
    # The weights as torch.save wrote them.
    "torch": dict(seed=4, images=2, untied=False, half=False, torch=True, has_json=False, says_padding=False, end_bias=3.0, config={
        "vision_config": dict(hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8),
        "text_config": dict(hidden_size=24, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=16),
    }),
}

if __name__ == "__main__":
    wanted = sys.argv[2:] or [*CASES, "retrieval"]
    for case_name, case in CASES.items():
        if case_name in wanted:
            write_case(pathlib.Path(sys.argv[1]), case_name, case)
    if "retrieval" in wanted:
        write_retrieval(pathlib.Path(sys.argv[1]), "retrieval", RETRIEVAL)
