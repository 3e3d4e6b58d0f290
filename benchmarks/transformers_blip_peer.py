"""transformers' side of against_transformers_blip.py, run by its Python. Prints one line of JSON.

    python transformers_blip_peer.py make|greedy|beam|gemm WORK IMAGES MAX_LENGTH BEAMS
"""
import json, math, os, pathlib, sys, time

os.environ["HF_HUB_OFFLINE"] = "1"
import numpy as np, torch, transformers
from transformers import BlipConfig, BlipForConditionalGeneration, BlipForImageTextRetrieval

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
torch.set_num_threads(len(os.sched_getaffinity(0)))

MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
SIZE, WORDS = 384, 30522
# BERT's ids; [DEC] and [ENC] follow the vocabulary.
SPECIAL = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}
SEP, DEC = 102, WORDS


def configuration() -> BlipConfig:
    """BLIP base, as Salesforce/blip-image-captioning-base has it."""
    vision = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, image_size=SIZE, patch_size=16)
    text = dict(vocab_size=WORDS + 2, hidden_size=768, encoder_hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
                num_attention_heads=12, max_position_embeddings=512, bos_token_id=DEC, eos_token_id=2, sep_token_id=SEP, pad_token_id=0,
                projection_dim=768)
    return BlipConfig(text_config=text, vision_config=vision, image_text_hidden_size=256, projection_dim=512)


def draw_images(count: int) -> np.ndarray:
    """Gradients with two discs and noise, u8 [count, SIZE, SIZE, 3]."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    images = []
    for _ in range(count):
        image = np.stack([rng.uniform(0, 255) + rng.uniform(-160, 160) * x + rng.uniform(-160, 160) * y for _ in range(3)], -1)
        for _ in range(2):
            cx, cy, r = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.1, 0.35)
            image[(x - cx) ** 2 + (y - cy) ** 2 < r * r] = rng.uniform(0, 255, 3)
        images.append(np.clip(image + rng.normal(0, 12, image.shape), 0, 255).astype(np.uint8))
    return np.stack(images)


def draw_weights(model: torch.nn.Module) -> None:
    """Weights large enough that captions depend on the image, and end now and then before the maximal length."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if "word_embeddings" in name:
                p.copy_(noise * 1.4 / p.shape[1] ** 0.5)
            elif "position_embedding" in name or "class_embedding" in name:
                p.copy_(noise * 0.4)
            elif p.dim() >= 2:
                gain = 2.0 if "patch" in name or ".query" in name or ".key" in name else 1.4
                p.copy_(noise * gain / math.prod(p.shape[1:]) ** 0.5)
            elif p.dim() == 1:
                p.copy_((0 if name.endswith("bias") else 1) + noise * 0.15)
        if hasattr(model, "text_decoder"):
            bias = model.text_decoder.cls.predictions.bias
            bias[[0, 100, 101, 103, DEC, DEC + 1]] = -25.0
            bias[SEP] += 2.3


def save(model: torch.nn.Module, folder: pathlib.Path) -> None:
    model.save_pretrained(folder)
    processor = dict(do_normalize=True, do_resize=True, image_mean=MEAN, image_std=STD, resample=3, size=dict(height=SIZE, width=SIZE))
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    (folder / "vocab.txt").write_text("\n".join(SPECIAL.get(i, f"word{i}") for i in range(WORDS)) + "\n")
    settings = dict(do_lower_case=True, bos_token="[DEC]", additional_special_tokens=["[ENC]"], tokenizer_class="BertTokenizer")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def make(work: pathlib.Path, images: int) -> dict:
    work.mkdir(parents=True, exist_ok=True)
    draw_images(images).tofile(work / "images.u8")
    for name, kind in (("captioner", BlipForConditionalGeneration), ("scorer", BlipForImageTextRetrieval)):
        if not (work / name / "model.safetensors").exists():
            model = kind(configuration())
            draw_weights(model)
            save(model, work / name)
    return {}


def generate(task: str, work: pathlib.Path, images: int, length: int, beams: int) -> dict:
    model = BlipForConditionalGeneration.from_pretrained(work / "captioner", dtype=torch.float32).eval()
    pixels = np.fromfile(work / "images.u8", dtype=np.uint8).reshape(-1, SIZE, SIZE, 3)[:images]
    x = torch.from_numpy(pixels.copy()).float().div(255).permute(0, 3, 1, 2)
    x = ((x - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)).contiguous()
    settings = dict(max_length=length, do_sample=False, num_beams=beams if task == "beam" else 1)
    with torch.no_grad():
        model.vision_model(x[:1])
        began = time.perf_counter()
        model.vision_model(x)
        vision = time.perf_counter() - began
        began = time.perf_counter()
        ids = model.generate(pixel_values=x, **settings)
        seconds = time.perf_counter() - began
    return {"captions_per_second": images / seconds, "vision_share": vision / seconds, "vision_images_per_second": images / vision,
            "ids": ids.tolist(), "torch": torch.__version__, "transformers": transformers.__version__}


def gemm() -> dict:
    a, b, times = torch.randn(2048, 2048), torch.randn(2048, 2048), []
    for _ in range(10):
        began = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - began)
    return {"gflops": 2 * 2048**3 / sorted(times)[5] / 1e9}


def main() -> None:
    task, work = sys.argv[1], pathlib.Path(sys.argv[2])
    images, length, beams = map(int, sys.argv[3:6])
    result = make(work, images) if task == "make" else gemm() if task == "gemm" else generate(task, work, images, length, beams)
    print(json.dumps(result))


main()
