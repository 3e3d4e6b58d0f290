"""Makes reference cases for training CoCa from the reference implementation, open_clip.

    pip install open_clip_torch==3.3.0 transformers==4.48.3 torch safetensors
    python3 scripts/make_training_goldens.py               # writes tests/data/training/CASE
    python3 scripts/make_training_goldens.py --check       # computes again and compares with what is there
    python3 scripts/make_training_goldens.py --float64     # also in float64: how far off is float32 itself?

Trains the checkpoints of tests/data/coca, which stay where they are, in float32 on one thread. For each case:

  training.safetensors
    images, text            u8 [6,S,S,3], i64 [6,T]   a batch; ids: sot, words, eos, then pad (0)
    contrastive_loss, caption_loss    f32 [1]         as open_clip's CoCaLoss returns them: times their weights, 1 and 2
    grad.NAME               f32                       gradient of their sum by the parameter that open_clip calls NAME
    images_k, text_k                                  batches 0 to 3; batch 0 is `images`, `text`
    losses                  f32 [20,2]                (contrastive, caption) before each of 20 steps over batches 0, 1, 2, 3, 0, ...
    gradient_norms          f32 [20]                  of all parameters together, before clipping
  training.json             settings, versions, the checkpoint and the SHA-256 of its weights

To save space, gradients of more than `grad_row_step_above` elements hold only rows 0, s, 2s, ... where s = `grad_row_step`.

In every batch the first text fills the context and the last has no words. In `odd` the id 0, a real word in CLIP's vocabulary, also
occurs between words: open_clip then treats it as padding, in the mask and in the loss.
"""
import argparse, hashlib, json, math, pathlib
import numpy as np, open_clip, torch, transformers
from open_clip.coca_model import CoCa
from open_clip.loss import CoCaLoss
from safetensors.torch import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parent.parent
# odd: pooler whose keys are wider than its queries, quick_gelu, LayerScale in the text tower, no ln_pre, weights stored in fp16;
# layerscale: pooler with packed projections, LayerScale everywhere; nopool: no attentional pooler.
CASES = {
    "odd": dict(seed=11, grad_row_step=1, pad_between_words=True),
    "layerscale": dict(seed=12, grad_row_step=3, pad_between_words=False),
    "nopool": dict(seed=13, grad_row_step=3, pad_between_words=False),
}
BATCH, BATCHES, STEPS, ROW_STEP_ABOVE = 6, 4, 20, 4096
SETTINGS = dict(contrastive_weight=1.0, caption_weight=2.0, learning_rate=1e-3, beta1=0.9, beta2=0.98, epsilon=1e-6, weight_decay=0.2,
                clip_norm=1.0, logit_scale_min=0.0, logit_scale_max=math.log(100))
# Allowed by --check, as shares of the stored value or norm: other processors and versions of torch round differently.
LOSS_TOLERANCE, GRADIENT_TOLERANCE, LATER_TOLERANCE = 2e-6, 2e-5, 5e-5


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


def texts(n, context, sot, eos, pad_between_words, rng):
    """Words of unlike number: all that fit, none, and any in between."""
    words = [context - 2, *rng.choice(np.arange(4, context - 2), n - 2, replace=False), 0]
    text = np.zeros((n, context), np.int64)
    for row, count in zip(text, words):
        row[: count + 2] = [sot, *rng.integers(1, sot, count), eos]
    if pad_between_words:
        text[1, 3] = 0
        text[2, 2:4] = 0
    return torch.from_numpy(text)


def make_inputs(config, ids, case):
    """The batches, as tensors to be stored."""
    size = config["model_cfg"]["vision_cfg"]["image_size"]
    size = size[0] if isinstance(size, list) else size
    context = config["model_cfg"]["text_cfg"]["context_length"]
    rng = np.random.default_rng(case["seed"])
    tensors = {}
    for k in range(BATCHES):
        tensors[f"images_{k}"] = draw(BATCH, size, rng)
        tensors[f"text_{k}"] = texts(BATCH, context, ids["sot"], ids["eos"], case["pad_between_words"], rng)
    return tensors | {"images": tensors["images_0"].clone(), "text": tensors["text_0"].clone()}


def decays(name, parameter):
    """open_clip_train's rule for what weight decay applies to."""
    return not (parameter.ndim < 2 or "bn" in name or "ln" in name or "bias" in name or "logit_scale" in name)


def train(folder, config, inputs, dtype):
    """Losses and gradients of the first batch, losses and norms of all steps, and the names of what weight decay applies to."""
    model = CoCa(**{k: v for k, v in config["model_cfg"].items() if k != "custom_text"}).to(dtype)
    model.load_state_dict({k: v.to(dtype) for k, v in load_file(folder / "open_clip_model.safetensors").items()})
    model.train()
    objective = CoCaLoss(caption_loss_weight=SETTINGS["caption_weight"], clip_loss_weight=SETTINGS["contrastive_weight"])
    mean, std = (torch.tensor(config["preprocess_cfg"][k], dtype=dtype).view(1, 3, 1, 1) for k in ("mean", "std"))
    batches = [((inputs[f"images_{k}"].to(dtype).div(255).permute(0, 3, 1, 2) - mean) / std, inputs[f"text_{k}"]) for k in range(BATCHES)]

    named = dict(model.named_parameters())
    decayed = [n for n, p in named.items() if decays(n, p)]
    groups = [{"params": [p for n, p in named.items() if not decays(n, p)], "weight_decay": 0.0},
              {"params": [named[n] for n in decayed], "weight_decay": SETTINGS["weight_decay"]}]
    optimizer = torch.optim.AdamW(groups, lr=SETTINGS["learning_rate"], betas=(SETTINGS["beta1"], SETTINGS["beta2"]),
                                  eps=SETTINGS["epsilon"])

    losses, norms, gradients = [], [], None
    for step in range(STEPS):
        optimizer.zero_grad(set_to_none=True)
        pair = objective(**model(*batches[step % BATCHES]))
        sum(pair).backward()
        if gradients is None:
            gradients = {n: p.grad.clone() for n, p in named.items()}
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), SETTINGS["clip_norm"]))
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(SETTINGS["logit_scale_min"], SETTINGS["logit_scale_max"])
        losses.append(torch.stack(pair).detach())
    return torch.stack(losses), torch.stack(norms), gradients, decayed


def make(name):
    """One case: its tensors, its description, and the whole gradients."""
    case, folder = CASES[name], ROOT / "tests/data/coca" / name
    config, ids = (json.loads((folder / f).read_text()) for f in ("open_clip_config.json", "golden.json"))
    tensors = make_inputs(config, ids, case)
    losses, norms, gradients, decayed = train(folder, config, tensors, torch.float32)
    tensors |= {"contrastive_loss": losses[0, :1].clone(), "caption_loss": losses[0, 1:].clone(), "losses": losses, "gradient_norms": norms}
    for key, gradient in gradients.items():
        rows = case["grad_row_step"] if gradient.numel() > ROW_STEP_ABOVE else 1
        tensors["grad." + key] = gradient[::rows].contiguous() if gradient.ndim else gradient
    weights = (folder / "open_clip_model.safetensors").read_bytes()
    meta = dict(checkpoint=f"tests/data/coca/{name}", sha256=hashlib.sha256(weights).hexdigest(),
                sot=ids["sot"], eos=ids["eos"], pad=ids["pad"], batch=BATCH, batches=BATCHES, steps=STEPS, **SETTINGS, **case,
                grad_row_step_above=ROW_STEP_ABOVE, decayed=decayed,
                open_clip=open_clip.__version__, torch=torch.__version__, transformers=transformers.__version__)
    return tensors, meta, (folder, config, losses, gradients)


def off(a, b):
    """Relative difference of two tensors, in float64."""
    a, b = a.double(), b.double()
    return float((a - b).norm() / b.norm()) if b.norm() else float(a.norm())


def later(losses, others):
    """Largest relative difference of a loss over all steps."""
    return float(((losses.double() - others.double()) / others.double()).abs().max())


def compare(name, tensors, meta):
    """What --check finds for one case: a line for the table, and whether it is within the tolerances."""
    folder = ROOT / "tests/data/training" / name
    stored, told = load_file(folder / "training.safetensors"), json.loads((folder / "training.json").read_text())
    versions = ("open_clip", "torch", "transformers")
    same = stored.keys() == tensors.keys() and {k: v for k, v in told.items() if k not in versions} == {
        k: v for k, v in json.loads(json.dumps(meta)).items() if k not in versions}
    if not same or any(stored[k].shape != v.shape or stored[k].dtype != v.dtype for k, v in tensors.items()):
        return f"{name:12} other tensors or settings than stored", False
    inputs = all(torch.equal(stored[k], v) for k, v in tensors.items() if k.startswith(("images", "text")))
    first = max(off(tensors[k], stored[k]) for k in ("contrastive_loss", "caption_loss"))
    worst = max(off(v, stored[k]) for k, v in tensors.items() if k.startswith("grad."))
    drift = max(later(tensors["losses"], stored["losses"]), later(tensors["gradient_norms"], stored["gradient_norms"]))
    good = inputs and first <= LOSS_TOLERANCE and worst <= GRADIENT_TOLERANCE and drift <= LATER_TOLERANCE
    equal = "equal" if all(torch.equal(stored[k], v) for k, v in tensors.items()) else "close" if good else "DIFFERENT"
    inputs = "equal" if inputs else "DIFFERENT"
    return f"{name:12} {equal:10} inputs {inputs}, losses {first:.1e}, gradients {worst:.1e}, all steps {drift:.1e}", good


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--check", action="store_true", help="write nothing; compare with the stored files")
    a.add_argument("--float64", action="store_true", help="also compute in float64 and print how far off float32 is")
    a = a.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    table, precision, checks, ok = [], [], [], True
    for name in CASES:
        tensors, meta, (folder, config, losses, gradients) = make(name)
        out = ROOT / "tests/data/training" / name
        if a.check:
            line, good = compare(name, tensors, meta)
            checks.append(line)
            ok &= good
        else:
            out.mkdir(parents=True, exist_ok=True)
            save_file(tensors, out / "training.safetensors")
            (out / "training.json").write_text(json.dumps(meta, indent=1) + "\n")
        norms, parameters = tensors["gradient_norms"], sum(g.numel() for g in gradients.values())
        table.append(f"{name:12} {parameters:10,}" + "".join(f" {x:9.4f}" for x in (*losses[0], *losses[-1], norms.min(), norms.max()))
                     + f" {sum(v.nbytes for v in tensors.values()) / 1e6:6.2f}")
        if a.float64:
            exact, _, exactly, _ = train(folder, config, tensors, torch.float64)
            whole = off(*(torch.cat([g[k].flatten().double() for k in gradients]) for g in (gradients, exactly)))
            each = {k: off(gradients[k], exactly[k]) for k in gradients}
            worst = max(each, key=each.get)
            first = off(losses[0, 0], exact[0, 0]), off(losses[0, 1], exact[0, 1])
            precision.append(f"{name:12} {first[0]:11.1e} {first[1]:9.1e} {whole:9.1e} {each[worst]:12.1e} "
                             f"{later(losses[:5], exact[:5]):10.1e} {later(losses, exact):10.1e}  {worst}")
    heads = "contrast.", "caption", "the last", "the last", "norm from", "norm to"
    print(f"{'case':12} {'parameters':>10}" + "".join(f" {x:>9}" for x in heads) + f" {'MB':>6}", *table, sep="\n")
    if a.float64:
        print(f"\nfloat32 against float64, relative\n{'case':12} {'contrastive':>11} {'caption':>9} {'gradients':>9} {'worst tensor':>12} "
              f"{'5 steps':>10} {'20 steps':>10}  which tensor", *precision, sep="\n")
    if a.check:
        print("\ncompared with what is stored", *checks, sep="\n")
    raise SystemExit(0 if ok else 1)


main()
