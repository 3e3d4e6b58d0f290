"""torch's and open_clip's side of gpu.py. Every task prints one line of JSON at its end.

    python -P gpu_peer.py make MODEL OUT IMAGES            random weights, pixels and JPEG shards: OUT/checkpoint, images.u8, shards
    python -P gpu_peer.py rates DEVICE                     what the card does: operations and bytes per second
    python -P gpu_peer.py generate MODEL OUT DEVICE TOKENS BATCH,BATCH,...

`rates`: an fp16 GEMM of 8192^3 and a copy of 1 GiB. `generate`: captions per second of open_clip's own greedy `generate` in bf16 on
the weights and images that `make` made, and images per second of its image encoder.
"""
import concurrent.futures, io, json, pathlib, sys, tarfile, time

import numpy as np, torch

ROUNDS, SHARDS, JPEG_SIZE = 10, 8, 512


def open_clip():
    """open_clip 3.3.0, which newer transformers would not let in."""
    import transformers

    if not hasattr(transformers, "BeamSearchScorer"):
        transformers.BeamSearchScorer = type("BeamSearchScorer", (), {})
    import open_clip

    return open_clip


def configuration(name: str) -> dict:
    config = open_clip().get_model_config(name)
    config.pop("custom_text", None)
    return config


def picture(seed: int, size: int) -> np.ndarray:
    """Two discs on a gradient, with noise, u8 [S, S, 3]."""
    rng = np.random.default_rng(seed)
    yy, xx = np.mgrid[0:size, 0:size] / size
    made = np.stack([rng.uniform(0, 255) + rng.uniform(-160, 160) * xx + rng.uniform(-160, 160) * yy for _ in range(3)], -1)
    for _ in range(2):
        cx, cy, r = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.1, 0.35)
        made[(xx - cx) ** 2 + (yy - cy) ** 2 < r * r] = rng.uniform(0, 255, 3)
    return np.clip(made + rng.normal(0, 12, made.shape), 0, 255).astype(np.uint8)


def jpeg(seed: int) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(picture(seed, JPEG_SIZE)).save(out, "JPEG", quality=90)
    return out.getvalue()


def make_checkpoint(config: dict, out: pathlib.Path) -> None:
    """Random weights large enough that captions differ from image to image."""
    from open_clip.coca_model import CoCa
    from safetensors.torch import save_file

    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(device):
        model = CoCa(**config)
    generator = torch.Generator(device=device).manual_seed(1)
    with torch.no_grad():
        for key, p in model.named_parameters():
            draw = torch.randn(p.shape, generator=generator, device=device)
            if p.dim() >= 2 and "positional" not in key:
                p.copy_(draw * 1.6 / p.shape[-1] ** 0.5)
            elif key.endswith("bias"):
                p.copy_(draw * 0.1)
            elif key.endswith("weight"):
                p.copy_(1 + draw * 0.1)
            elif "logit_scale" not in key:
                p.copy_(draw * 0.5)
    out.mkdir(parents=True, exist_ok=True)
    clip = open_clip()
    preprocess = {"mean": list(clip.OPENAI_DATASET_MEAN), "std": list(clip.OPENAI_DATASET_STD), "interpolation": "bicubic", "resize_mode": "shortest"}
    described = {"model_cfg": config | {"custom_text": True}, "preprocess_cfg": preprocess}
    weights = {k: v.contiguous().cpu() for k, v in model.state_dict().items() if "attn_mask" not in k}
    save_file(weights, out / "open_clip_model.safetensors")
    (out / "open_clip_config.json").write_text(json.dumps(described))


def make_tokenizer(out: pathlib.Path) -> None:
    """CLIP's, without which `recaption run` has no words."""
    here = pathlib.Path(__file__).resolve().parent
    sys.path += [str(here), str(here.parent / "scripts")]
    import build_tokenizer

    out.write_text(json.dumps(build_tokenizer.build(), ensure_ascii=False), encoding="utf-8")


def make(name: str, out: pathlib.Path, images: int) -> dict:
    config = configuration(name)
    size = config["vision_cfg"]["image_size"]
    out.mkdir(parents=True, exist_ok=True)
    with concurrent.futures.ProcessPoolExecutor() as pool:
        pixels = pool.map(picture, range(images), [size] * images, chunksize=16)
        jpegs = pool.map(jpeg, range(10**6, 10**6 + images), chunksize=16)
        if not (out / "checkpoint" / "open_clip_config.json").exists():
            make_checkpoint(config, out / "checkpoint")
            make_tokenizer(out / "checkpoint" / "tokenizer.json")
        np.stack(list(pixels)).tofile(out / "images.u8")
        files = list(jpegs)
    (out / "shards").mkdir(exist_ok=True)
    for shard in range(SHARDS):
        with tarfile.open(out / "shards" / f"{shard:05d}.tar", "w") as archive:
            for i in range(images):
                text = f"a picture, number {i} of shard {shard}, with circles".encode()
                for suffix, data in (("jpg", files[(i * 7 + shard) % images]), ("txt", text)):
                    info = tarfile.TarInfo(f"{shard:03d}{i:06d}.{suffix}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
    return {"images": images, "shards": SHARDS}


def seconds(work, rounds: int = ROUNDS) -> float:
    """Median of several runs, after two that do not count."""
    times = []
    for _ in range(rounds + 2):
        torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return sorted(times[2:])[rounds // 2]


def rates() -> dict:
    n = 8192
    a, b = (torch.randn(n, n, dtype=torch.float16, device="cuda") for _ in range(2))
    x = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    y = torch.empty_like(x)
    return {"flops": 2 * n**3 / seconds(lambda: a @ b), "bytes_per_second": 2 * x.numel() / seconds(lambda: y.copy_(x))}


def generate(name: str, folder: pathlib.Path, tokens: int, batches: list[int]) -> dict:
    clip, config = open_clip(), configuration(name)
    from open_clip.coca_model import CoCa
    from safetensors.torch import load_file

    model = CoCa(**config).eval()
    # The mask is no weight and not in the file.
    missing, unknown = model.load_state_dict(load_file(folder / "checkpoint" / "open_clip_model.safetensors"), strict=False)
    assert not unknown and all("attn_mask" in key for key in missing), (missing, unknown)
    model = model.to("cuda", torch.bfloat16)
    size = config["vision_cfg"]["image_size"]
    pixels = np.fromfile(folder / "images.u8", dtype=np.uint8).reshape(-1, size, size, 3)
    mean, std = (torch.tensor(v, device="cuda").view(1, 3, 1, 1) for v in (clip.OPENAI_DATASET_MEAN, clip.OPENAI_DATASET_STD))
    how = dict(generation_type="top_k", top_k=1, seq_len=tokens + 1, min_seq_len=tokens, fixed_output_length=True)
    rows = {}
    for batch in batches:
        x = torch.from_numpy(pixels[:batch]).to("cuda").float().div(255).permute(0, 3, 1, 2)
        x = ((x - mean) / std).to(torch.bfloat16)
        with torch.no_grad():
            encode = seconds(lambda: model._encode_image(x), 3)
            times = []
            for _ in range(3):
                torch.cuda.synchronize()
                began = time.perf_counter()
                model.generate(x, **how)
                torch.cuda.synchronize()
                times.append(time.perf_counter() - began)
        rows[batch] = {"captions_per_second": len(x) / min(times[1:]), "encode_images_per_second": len(x) / encode}
    return rows


def main() -> None:
    task, arguments = sys.argv[1], sys.argv[2:]
    if task == "make":
        print(json.dumps(make(arguments[0], pathlib.Path(arguments[1]), int(arguments[2]))))
        return
    torch.cuda.set_device(int(arguments[0 if task == "rates" else 2]))
    if task == "rates":
        print(json.dumps(rates()))
    else:
        batches = [int(batch) for batch in arguments[4].split(",")]
        print(json.dumps(generate(arguments[0], pathlib.Path(arguments[1]), int(arguments[3]), batches)))


if __name__ == "__main__":
    main()
