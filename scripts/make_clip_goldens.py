"""Makes reference cases for CLIP from the reference implementation, open_clip.

    pip install open_clip_torch==3.3.0 torch safetensors
    python scripts/make_clip_goldens.py --config CONFIG.json --seed 1 --out DIR
    python scripts/make_clip_goldens.py --model ViT-B-32 --n 2 --out DIR      # one of open_clip's own configurations

Writes into DIR, for a randomly initialised CLIP of that configuration:

  open_clip_config.json         {"model_cfg": ..., "preprocess_cfg": ...} as on the Hugging Face hub
  open_clip_model.safetensors   weights under open_clip's own names: `text.*` with "custom_text": true, else at the top
  golden.safetensors            the inputs and what open_clip computed from them:
    images          u8  [N,S,S,3]   RGB, already at the model's size
    text            i64 [N,T]       ids: sot, words, eos, then 0; the first fills the context, the last has no words
    image_features  f32 [N,E]       L2-normalised image embedding
    text_features   f32 [N,E]       L2-normalised text embedding
    edge_text       i64 [N,T]       id 0 among the words, as CLIP's "!" is, and an end token before the end
    edge_text_features  f32 [N,E]   their features
  golden.json                   ids and versions

`recaption export` and `recaption verify DIR/golden.safetensors` compare an exported model with it.
"""
import argparse, json, pathlib
import numpy as np, torch, open_clip
from open_clip.model import CLIP, CustomTextCLIP
from safetensors.torch import save_file


def shake(model, gen):
    """Random weights large enough that embeddings differ from image to image and from text to text."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() >= 2 and "positional" not in name:
                p.copy_(torch.randn(p.shape, generator=gen) * 1.6 / p.shape[-1] ** 0.5)
            elif name.endswith("bias"):
                p.copy_(torch.randn(p.shape, generator=gen) * 0.1)
            elif name.endswith("weight"):
                p.copy_(1 + torch.randn(p.shape, generator=gen) * 0.1)
            elif "logit_scale" not in name:
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
    return np.stack(images)


def texts(n, context, sot, eos, rng):
    text, edge = np.zeros((2, n, context), np.int64)
    for i in range(n):
        words = context - 2 if i == 0 else 0 if i == n - 1 else int(rng.integers(1, context - 2))
        text[i, : words + 2] = [sot, *rng.integers(1, sot, words), eos]
        edge[i] = text[i]
        edge[i, 2:-1:3][edge[i, 2:-1:3] != eos] = 0
        edge[i, context // 2] = eos
    return torch.from_numpy(text), torch.from_numpy(edge)


def main():
    a = argparse.ArgumentParser()
    source = a.add_mutually_exclusive_group(required=True)
    source.add_argument("--config", type=pathlib.Path, help="a `model_cfg` as JSON")
    source.add_argument("--model", help="a name in open_clip's model_configs")
    a.add_argument("--seed", type=int, default=1)
    a.add_argument("--n", type=int, default=6)
    a.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float32",
                   help="what the weights file holds; open_clip computes with the same rounded values, in float32")
    a.add_argument("--out", type=pathlib.Path, required=True)
    a = a.parse_args()
    cfg = json.loads(a.config.read_text()) if a.config else open_clip.get_model_config(a.model)
    kind = CustomTextCLIP if cfg.get("custom_text") else CLIP
    torch.manual_seed(a.seed)
    model = kind(**{k: v for k, v in cfg.items() if k != "custom_text"}).eval()
    shake(model, torch.Generator().manual_seed(a.seed))
    dtype = getattr(torch, a.dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.to(dtype))

    size = cfg["vision_cfg"].get("image_size", 224)
    size = size[0] if isinstance(size, list) else size
    vocab, context = cfg["text_cfg"].get("vocab_size", 49408), cfg["text_cfg"].get("context_length", 77)
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    rng = np.random.default_rng(a.seed)
    images = torch.from_numpy(draw(a.n, size, rng))
    text, edge = texts(a.n, context, vocab - 2, vocab - 1, rng)
    x = images.float().div(255).permute(0, 3, 1, 2)
    x = (x - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    with torch.no_grad():
        tensors = dict(images=images, text=text, image_features=model.encode_image(x, normalize=True),
                       text_features=model.encode_text(text, normalize=True), edge_text=edge,
                       edge_text_features=model.encode_text(edge, normalize=True))

    a.out.mkdir(parents=True, exist_ok=True)
    pre = {"mean": list(mean), "std": list(std), "interpolation": "bicubic", "resize_mode": "shortest"}
    (a.out / "open_clip_config.json").write_text(json.dumps({"model_cfg": cfg, "preprocess_cfg": pre}, indent=1) + "\n")
    weights = {k: v.to(dtype).contiguous() for k, v in model.state_dict().items()}
    save_file(weights, a.out / "open_clip_model.safetensors")
    save_file({k: v.contiguous() for k, v in tensors.items()}, a.out / "golden.safetensors")
    meta = dict(sot=vocab - 2, eos=vocab - 1, pad=0, seed=a.seed, open_clip=open_clip.__version__, torch=torch.__version__)
    (a.out / "golden.json").write_text(json.dumps(meta, indent=1) + "\n")
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, "
          f"smallest cosine between images {float((tensors['image_features'] @ tensors['image_features'].T).min()):.3f}, "
          f"between texts {float((tensors['text_features'] @ tensors['text_features'].T).min()):.3f}")


main()
