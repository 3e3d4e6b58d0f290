"""torch's side of gpu.py, run inside its virtual environment on a machine with a GPU. Prints one line of JSON.

    python -P gpu_peer.py rates    MODEL WORK DEVICE
    python -P gpu_peer.py generate MODEL WORK DEVICE BATCH TOKENS

Never run on a GPU so far. `rates`: operations per second of an fp16 GEMM of 8192^3, bytes per second of a copy on the card.
`generate`: captions per second of open_clip's own greedy `generate` in bf16.
"""
import json, pathlib, sys, time

import numpy as np, torch

ROUNDS = 10


def seconds(work) -> float:
    """Median of several runs, after two that do not count."""
    times = []
    for _ in range(ROUNDS + 2):
        torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return sorted(times[2:])[ROUNDS // 2]


def rates() -> dict:
    n = 8192
    a, b = (torch.randn(n, n, dtype=torch.float16, device="cuda") for _ in range(2))
    x = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    y = torch.empty_like(x)
    return {"flops": 2 * n**3 / seconds(lambda: a @ b), "bytes_per_second": 2 * x.numel() / seconds(lambda: y.copy_(x))}


def generate(name: str, work: pathlib.Path, batch: int, tokens: int) -> dict:
    import open_clip
    from open_clip.coca_model import CoCa
    from safetensors.torch import load_file

    config = open_clip.get_model_config(name)
    config.pop("custom_text", None)
    model = CoCa(**config).eval()
    model.load_state_dict(load_file(work / "checkpoint" / "open_clip_model.safetensors"))
    model = model.to("cuda", torch.bfloat16)
    size = config["vision_cfg"]["image_size"]
    pixels = np.fromfile(work / "images.u8", dtype=np.uint8).reshape(-1, size, size, 3)[:batch]
    x = torch.from_numpy(pixels).to("cuda").float().div(255).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(v, device="cuda").view(1, 3, 1, 1) for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    x = ((x - mean) / std).to(torch.bfloat16)
    how = dict(generation_type="top_k", top_k=1, seq_len=tokens + 1, min_seq_len=tokens, fixed_output_length=True)
    times = []
    with torch.no_grad():
        for _ in range(3):
            torch.cuda.synchronize()
            began = time.perf_counter()
            model.generate(x, **how)
            torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
    return {"captions_per_second": batch / min(times[1:])}


def main() -> None:
    task, name, work, device = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3]), int(sys.argv[4])
    torch.cuda.set_device(device)
    print(json.dumps(rates() if task == "rates" else generate(name, work, int(sys.argv[5]), int(sys.argv[6]))))


main()
