"""open_clip's side of against_open_clip.py, run inside its virtual environment. Prints one line of JSON.

    python open_clip_peer.py make|greedy|beam|gemm MODEL WORK IMAGES TOKENS BEAMS
"""
import json, pathlib, sys, time

import numpy as np, open_clip, torch
from open_clip.coca_model import CoCa
from safetensors.torch import load_file, save_file

MEAN, STD = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD


def configuration(name: str) -> dict:
    config = open_clip.get_model_config(name)
    config.pop("custom_text", None)
    return config


def make(name: str, work: pathlib.Path, images: int) -> None:
    """Random weights large enough that captions differ from image to image, and images unlike one another."""
    checkpoint, config = work / "checkpoint", configuration(name)
    size = config["vision_cfg"]["image_size"]
    rng = np.random.default_rng(1)
    yy, xx = np.mgrid[0:size, 0:size] / size
    pictures = []
    for _ in range(images):
        picture = np.stack([rng.uniform(0, 255) + rng.uniform(-160, 160) * xx + rng.uniform(-160, 160) * yy for _ in range(3)], -1)
        for _ in range(2):
            cx, cy, r = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.1, 0.35)
            picture[(xx - cx) ** 2 + (yy - cy) ** 2 < r * r] = rng.uniform(0, 255, 3)
        pictures.append(np.clip(picture + rng.normal(0, 12, picture.shape), 0, 255).astype(np.uint8))
    work.mkdir(parents=True, exist_ok=True)
    np.stack(pictures).tofile(work / "images.u8")
    if (checkpoint / "open_clip_model.safetensors").exists():
        return
    generator = torch.Generator().manual_seed(1)
    model = CoCa(**config)
    with torch.no_grad():
        for key, p in model.named_parameters():
            draw = torch.randn(p.shape, generator=generator)
            if p.dim() >= 2 and "positional" not in key:
                p.copy_(draw * 1.6 / p.shape[-1] ** 0.5)
            elif key.endswith("bias"):
                p.copy_(draw * 0.1)
            elif key.endswith("weight"):
                p.copy_(1 + draw * 0.1)
            elif "logit_scale" not in key:
                p.copy_(draw * 0.5)
    checkpoint.mkdir(exist_ok=True)
    preprocess = {"mean": list(MEAN), "std": list(STD), "interpolation": "bicubic", "resize_mode": "shortest"}
    described = {"model_cfg": config | {"custom_text": True}, "preprocess_cfg": preprocess}
    (checkpoint / "open_clip_config.json").write_text(json.dumps(described))
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, checkpoint / "open_clip_model.safetensors")


def generate(task: str, name: str, work: pathlib.Path, images: int, tokens: int, beams: int) -> dict:
    config = configuration(name)
    model = CoCa(**config).eval()
    model.load_state_dict(load_file(work / "checkpoint" / "open_clip_model.safetensors"))
    size = config["vision_cfg"]["image_size"]
    pixels = np.fromfile(work / "images.u8", dtype=np.uint8).reshape(-1, size, size, 3)[:images]
    x = torch.from_numpy(pixels).float().div(255).permute(0, 3, 1, 2)
    x = (x - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    how = dict(generation_type="top_k", top_k=1) if task == "greedy" else dict(num_beams=beams, num_beam_groups=1)
    with torch.no_grad():
        model._encode_image(x[:1])
        began = time.perf_counter()
        ids = model.generate(x, seq_len=tokens + 1, min_seq_len=5, fixed_output_length=True, **how)
        seconds = time.perf_counter() - began
    return {"captions_per_second": images / seconds, "ids": ids.tolist(), "end": config["text_cfg"]["vocab_size"] - 1}


def gemm() -> dict:
    a, b, times = torch.randn(2048, 2048), torch.randn(2048, 2048), []
    for _ in range(10):
        began = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - began)
    return {"gflops": 2 * 2048**3 / sorted(times)[5] / 1e9}


def main() -> None:
    task, name, work = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
    images, tokens, beams = map(int, sys.argv[4:7])
    if task == "make":
        make(name, work, images)
    elif task == "gemm":
        print(json.dumps(gemm()))
    else:
        print(json.dumps(generate(task, name, work, images, tokens, beams)))


main()
