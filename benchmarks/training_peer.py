"""open_clip's side of a comparison of training steps, run inside its virtual environment. Prints one line of JSON.

    python training_peer.py CHECKPOINT DATA --batch 8 --steps 10 --threads 2 --warmup 2
    python training_peer.py CHECKPOINT DATA --batch 64 --device cuda --precision bf16

CHECKPOINT: a folder with open_clip_config.json and open_clip_model.safetensors. DATA: .npz or .safetensors with `images` u8 [N,S,S,3]
and `text` i64 [N,T], read in order and from the start again when they run out. A step is what open_clip_train does: forward, CoCaLoss
(1 and 2), backward, clipping at 1, AdamW, clamp of the scale. Pixels are made ready before the clock starts, as a loader's workers do;
a step on a GPU includes the copy to it. `bf16` is autocast, open_clip's amp_bf16; `fp32` on a GPU lets matrices use TF32, as there.

The losses are those before each step, warm-up included; the times leave it out. Never run on a GPU so far.
"""
import argparse, contextlib, json, math, pathlib, statistics, time

import numpy as np, open_clip, torch
from open_clip.coca_model import CoCa
from open_clip.loss import CoCaLoss
from safetensors.torch import load_file


def arguments() -> argparse.Namespace:
    a = argparse.ArgumentParser()
    a.add_argument("checkpoint", type=pathlib.Path)
    a.add_argument("data", type=pathlib.Path)
    a.add_argument("--batch", type=int, default=8)
    a.add_argument("--steps", type=int, default=10, help="timed steps, after the warm-up")
    a.add_argument("--warmup", type=int, default=2)
    a.add_argument("--threads", type=int, help="of the CPU (default: torch's)")
    a.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    a.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    a.add_argument("--lr", type=float, default=1e-3)
    a.add_argument("--fused", action="store_true", help="torch's fused AdamW, which open_clip_train does not use")
    return a.parse_args()


def prepare(data: pathlib.Path, preprocess: dict, batch: int, steps: int, device: str) -> list:
    """The batches of one cycle, normalised, in page-locked memory for a GPU. As many as there are steps at most."""
    tensors = load_file(data) if data.suffix == ".safetensors" else {k: torch.from_numpy(v) for k, v in np.load(data).items()}
    images, text = tensors["images"], tensors["text"].long()
    mean, std = (torch.tensor(preprocess[k]).view(1, 3, 1, 1) for k in ("mean", "std"))
    batches = []
    for k in range(min(steps, len(text) // math.gcd(len(text), batch))):
        rows = torch.arange(k * batch, (k + 1) * batch) % len(text)
        pixels = (images[rows].permute(0, 3, 1, 2).contiguous().float().div_(255) - mean) / std
        pair = pixels, text[rows]
        batches.append(tuple(t.pin_memory() for t in pair) if device == "cuda" else pair)
    return batches


def build(checkpoint: pathlib.Path, config: dict, device: str) -> CoCa:
    model = CoCa(**{k: v for k, v in config["model_cfg"].items() if k != "custom_text"})
    model.load_state_dict({k: v.float() for k, v in load_file(checkpoint / "open_clip_model.safetensors").items()})
    return model.to(device).train()


def optimizer_of(model: CoCa, lr: float, fused: bool) -> torch.optim.Optimizer:
    """open_clip_train's groups and defaults; beta2 and epsilon as its recipes for ViT set them."""
    def exclude(n, p):
        return p.ndim < 2 or "bn" in n or "ln" in n or "bias" in n or "logit_scale" in n
    named = list(model.named_parameters())
    groups = [{"params": [p for n, p in named if exclude(n, p)], "weight_decay": 0.0},
              {"params": [p for n, p in named if not exclude(n, p)], "weight_decay": 0.2}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), eps=1e-6, fused=fused or None)


def main() -> None:
    a = arguments()
    if a.threads:
        torch.set_num_threads(a.threads)
    if a.device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    config = json.loads((a.checkpoint / "open_clip_config.json").read_text())
    model = build(a.checkpoint, config, a.device)
    optimizer = optimizer_of(model, a.lr, a.fused)
    objective = CoCaLoss(caption_loss_weight=2.0, clip_loss_weight=1.0, cache_labels=True)
    batches = prepare(a.data, config["preprocess_cfg"], a.batch, a.warmup + a.steps, a.device)
    autocast = contextlib.nullcontext if a.precision == "fp32" else lambda: torch.autocast(a.device, dtype=torch.bfloat16)

    def mark():
        """A moment on the device's own clock: on a GPU, an event, which waits for nothing."""
        if a.device == "cpu":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    losses, marks = [], []
    for step in range(a.warmup + a.steps):
        marks.append(mark())
        images, text = (t.to(a.device, non_blocking=True) for t in batches[step % len(batches)])
        optimizer.zero_grad(set_to_none=True)
        with autocast():
            pair = objective(**model(images, text))
        sum(pair).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        losses.append([loss.detach() for loss in pair])
    marks.append(mark())
    if a.device == "cuda":
        torch.cuda.synchronize()
        seconds = [x.elapsed_time(y) / 1e3 for x, y in zip(marks, marks[1:])][a.warmup:]
    else:
        seconds = [y - x for x, y in zip(marks, marks[1:])][a.warmup:]
    print(json.dumps({
        "seconds_per_step_median": statistics.median(seconds), "seconds_per_step": seconds,
        "losses": [[float(x) for x in pair] for pair in losses],
        "batch": a.batch, "threads": torch.get_num_threads(), "device": a.device, "precision": a.precision, "fused": a.fused,
        "open_clip": open_clip.__version__, "torch": torch.__version__,
    }))


main()
