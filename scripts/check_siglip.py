"""Compares SigLIPs, EVAs and Perception Encoders with random weights, exported by `recaption`, with open_clip and transformers. Exit 1 on a difference above 1e-5.

    pip install open_clip_torch==3.3.0 timm==1.0.31 transformers==5.24.0 torch safetensors sentencepiece protobuf tokenizers
    cargo build --release
    python scripts/check_siglip.py                        # small towers of both layouts, T5's rule of normalisation in the tokenizers
    python scripts/check_siglip.py --model ViT-B-16-SigLIP --model google/siglip-base-patch16-224

--model: one in open_clip's model_configs, or `google/siglip-base-patch16-224`: transformers' default configuration, at its real size.
Each checkpoint is written by scripts/make_siglip_goldens.py's functions, exported and verified in a temporary folder.
"""
import argparse, pathlib, re, subprocess, sys, tempfile

import make_siglip_goldens as goldens
import open_clip, torch, transformers

BOUND = 1e-5
SIZES = [(24, 2, 2, 26, 8), (96, 4, 3, 48, 16), (192, 3, 6, 64, 16)]


def check(program, folder, name):
    """Exports and verifies a checkpoint; returns whether every tensor passed with features within the bound."""
    model = folder.with_name(folder.name + "-model")
    subprocess.run([program, "export", "--checkpoint", folder, "--out", model], check=True, capture_output=True)
    out = subprocess.run([program, "verify", model, folder / "golden.safetensors"], capture_output=True, text=True)
    print(f"{name}\n{out.stdout}", end="")
    differences = {}
    for line in out.stdout.splitlines():
        for tensor in ("image_features", "text_features"):
            found = re.search(r"max abs difference ([\d.e+-]+)", line)
            if tensor in line and found:
                differences[tensor] = float(found.group(1))
    return out.returncode == 0 and len(differences) == 2 and max(differences.values()) <= BOUND


def small(place, size, seed):
    """A SigLIP of each layout and tokenizer, of one size."""
    width, layers, heads, image, patch = size
    vision = {"img_size": image, "patch_size": patch, "embed_dim": width, "depth": layers, "num_heads": heads}
    text = {"context_length": 64, "width": width, "heads": heads, "layers": layers}
    for layout in ("open_clip", "transformers"):
        for tokenizer in ("siglip", "siglip2"):
            folder = place / f"{layout}-{tokenizer}-{width}"
            folder.mkdir()
            is_new = tokenizer == "siglip2"
            vocabulary = goldens.write_gemma(folder) if is_new else goldens.write_sentence_piece(folder, rule="nmt_nfkc")
            special = goldens.GEMMA if is_new else goldens.SIGLIP
            if layout == "open_clip":
                more = {"hf_tokenizer_name": "timm/ViT-B-16-SigLIP2", "act_kwargs": {"approximate": "tanh"}} if is_new else {}
                cfg = goldens.siglip_cfg(vocabulary, **text, **more)
                cfg["embed_dim"] = width
                cfg["vision_cfg"] |= {"image_size": image, "timm_model_kwargs": vision}
                goldens.open_clip_case(folder, cfg, special, seed, dtype=torch.float32, kwargs={"clean": "canonicalize"})
            else:
                tower = {"hidden_size": width, "intermediate_size": 4 * width - 5, "num_hidden_layers": layers, "num_attention_heads": heads}
                config = {"text_config": tower | {"vocab_size": vocabulary}, "vision_config": tower | {"image_size": image, "patch_size": patch}}
                kind = transformers.Siglip2Tokenizer if is_new else transformers.SiglipTokenizer
                goldens.transformers_case(folder, config, special, seed, kind, dtype=torch.float32)
            yield folder, f"{layout}, {tokenizer}, width {width}, {layers} layers, image {image}"


def eva(place, seed):
    """EVA's towers and Perception Encoders, of other sizes than the reference cases."""
    for name, (tower, pool, options) in goldens.EVA.items():
        folder = place / name
        folder.mkdir()
        larger = {"img_size": 96, "patch_size": 14, "embed_dim": 192, "depth": 3, "num_heads": 3} | ({"mlp_ratio": 2.7} if "mlp_ratio" in options else {})
        goldens.open_clip_case(folder, goldens.eva_cfg(tower, pool, larger), {"sot": 118, "eos": 119, "pad": 0}, seed, dtype=torch.float32)
        yield folder, f"{tower}, width 192, 3 layers, image 96"


def real(place, name):
    """A model of a published size, without a tokenizer."""
    folder = place / name.replace("/", "-")
    folder.mkdir()
    if name.startswith("google/"):
        goldens.transformers_case(folder, {"text_config": {"vocab_size": 32000}, "vision_config": {}}, goldens.SIGLIP, 1, dtype=torch.float32, n=2)
    else:
        cfg = open_clip.get_model_config(name)
        clip = {"sot": 49406, "eos": 49407, "pad": 0}
        special = clip if "SigLIP" not in name else goldens.GEMMA if "SigLIP2" in name else goldens.SIGLIP
        goldens.open_clip_case(folder, cfg, special, 1, dtype=torch.float32, n=2)
    return folder, f"{name}, its own size"


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--recaption", default=str(pathlib.Path(__file__).resolve().parent.parent / "target/release/recaption"))
    a.add_argument("--model", action="append", default=[])
    a = a.parse_args()
    failed = []
    with tempfile.TemporaryDirectory() as place:
        place = pathlib.Path(place)
        if a.model:
            cases = [real(place, name) for name in a.model]
        else:
            cases = [c for seed, size in enumerate(SIZES) for c in small(place, size, seed + 1)] + list(eva(place, 9))
        for folder, name in cases:
            if not check(a.recaption, folder, name):
                failed.append(name)
    print(f"{len(cases) - len(failed)} passed, {len(failed)} failed")
    sys.exit(f"failed: {failed}" if failed else 0)


main()
