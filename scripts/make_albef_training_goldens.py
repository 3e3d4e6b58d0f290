"""Makes the reference case for training ALBEF from the authors' code.

    git clone https://github.com/salesforce/ALBEF
    pip install transformers==4.48.3 timm torch safetensors
    python3 scripts/make_albef_training_goldens.py ALBEF     # writes tests/data/albef-train

Tiny sizes, random weights, no dropout, float32 on one thread. Masks and negatives are drawn here and passed in, where the
authors' `forward` draws its own.

  config.json, albef.safetensors     the model; the momentum copy differs from it, the queue's pointer is not at the beginning
  golden.safetensors
    images u8 [4,16,16,3], ids, attention_mask, masked_ids, mlm_labels i64 [4,10], negative_image, negative_text i64 [4]
    image_features, text_features, itm_logits, mlm_logits   on the weights as stored
    loss_ita, loss_itm, loss_mlm, grad.NAME                 of a step with the configuration's alpha and momentum
    masked_ids_k, mlm_labels_k, negative_image_k, negative_text_k    for steps k = 0 to 4 on the same batch; 0 is the above
    losses f32 [5,3]            (ita, itm, mlm) of steps of AdamW; in step k alpha is 0.1 * k
    image_queue_after, text_queue_after, queue_ptr_after, vision_proj_m_after     after the five steps
"""
import argparse, json, pathlib, sys
import numpy as np, torch, transformers.file_utils
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONFIG = {
    "image_res": 16, "patch_size": 4, "vision_width": 24, "vision_depth": 2, "vision_heads": 3, "vision_norm_eps": 1e-6,
    "embed_dim": 8, "queue_size": 12, "momentum": 0.9, "alpha": 0.4, "temp": 0.07, "mlm_probability": 0.15,
    "bert": {"hidden_size": 16, "intermediate_size": 40, "num_attention_heads": 2, "num_hidden_layers": 4, "fusion_layer": 2,
             "encoder_width": 24, "vocab_size": 50, "max_position_embeddings": 12, "layer_norm_eps": 1e-12, "hidden_act": "gelu",
             "pad_token_id": 0, "type_vocab_size": 2, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "special_ids": {"pad": 0, "cls": 2, "sep": 3, "mask": 4},
    "mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711],
}
BATCH, LENGTH, STEPS = 4, 10, 5
OPTIMIZER = dict(lr=1e-3, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.02)


def build(code):
    """The authors' modules with our sizes; their constructor asks for downloads."""
    sys.path.insert(0, str(code))
    # Decorators that only make documentation, whose arguments changed since.
    transformers.file_utils.add_code_sample_docstrings = lambda *_, **__: lambda function: function
    from functools import partial
    from models.model_pretrain import ALBEF
    from models.vit import VisionTransformer
    from models.xbert import BertConfig, BertForMaskedLM

    c = CONFIG
    model = ALBEF.__new__(ALBEF)
    nn.Module.__init__(model)
    vit = lambda: VisionTransformer(img_size=c["image_res"], patch_size=c["patch_size"], embed_dim=c["vision_width"], depth=c["vision_depth"],
                                    num_heads=c["vision_heads"], mlp_ratio=4, qkv_bias=True, norm_layer=partial(nn.LayerNorm, eps=c["vision_norm_eps"]))
    bert = lambda: BertForMaskedLM(BertConfig(**c["bert"]))
    model.visual_encoder, model.text_encoder = vit(), bert()
    model.vision_proj = nn.Linear(c["vision_width"], c["embed_dim"])
    model.text_proj = nn.Linear(c["bert"]["hidden_size"], c["embed_dim"])
    model.temp = nn.Parameter(torch.ones([]) * c["temp"])
    model.queue_size, model.momentum = c["queue_size"], c["momentum"]
    model.itm_head = nn.Linear(c["bert"]["hidden_size"], 2)
    model.visual_encoder_m, model.text_encoder_m = vit(), bert()
    model.vision_proj_m = nn.Linear(c["vision_width"], c["embed_dim"])
    model.text_proj_m = nn.Linear(c["bert"]["hidden_size"], c["embed_dim"])
    model.model_pairs = [[model.visual_encoder, model.visual_encoder_m], [model.vision_proj, model.vision_proj_m],
                         [model.text_encoder, model.text_encoder_m], [model.text_proj, model.text_proj_m]]
    for name in ["image_queue", "text_queue"]:
        model.register_buffer(name, F.normalize(torch.randn(c["embed_dim"], c["queue_size"]), dim=0))
    model.register_buffer("queue_ptr", torch.full((1,), 4, dtype=torch.long))
    with torch.no_grad():
        for p in model.parameters():
            # Larger than usual, so that differences show; biases and gains are not their neutral values.
            p.add_(torch.randn_like(p) * 0.15)
        model.temp.fill_(c["temp"])
        model.copy_params()
        for pair in model.model_pairs:
            for p in pair[1].parameters():
                p.add_(torch.randn_like(p) * 0.02)
    return model


def enqueue(model, images, texts):
    """`_dequeue_and_enqueue` without a process group."""
    at, n = int(model.queue_ptr), images.shape[0]
    model.image_queue[:, at:at + n], model.text_queue[:, at:at + n] = images.T, texts.T
    model.queue_ptr[0] = (at + n) % model.queue_size


def inference(model, b, masked):
    bert = model.text_encoder.bert
    image = model.visual_encoder(b["image"])
    atts = torch.ones(image.shape[:-1], dtype=torch.long)
    text = bert(b["ids"], attention_mask=b["mask"], return_dict=True, mode="text").last_hidden_state
    fused = bert(encoder_embeds=text, attention_mask=b["mask"], encoder_hidden_states=image, encoder_attention_mask=atts, return_dict=True, mode="fusion")
    words = model.text_encoder(masked, attention_mask=b["mask"], encoder_hidden_states=image, encoder_attention_mask=atts, return_dict=True, return_logits=True)
    return {
        "image_features": F.normalize(model.vision_proj(image[:, 0]), dim=-1), "text_features": F.normalize(model.text_proj(text[:, 0]), dim=-1),
        "itm_logits": model.itm_head(fused.last_hidden_state[:, 0]), "mlm_logits": words,
    }


def losses(model, b, masked, labels, negative_image, negative_text, alpha):
    """The authors' `forward`, line by line, with given masks and negatives."""
    with torch.no_grad():
        model.temp.clamp_(0.001, 0.5)
    bert = model.text_encoder.bert
    image = model.visual_encoder(b["image"])
    atts = torch.ones(image.shape[:-1], dtype=torch.long)
    image_feat = F.normalize(model.vision_proj(image[:, 0]), dim=-1)
    text = bert(b["ids"], attention_mask=b["mask"], return_dict=True, mode="text").last_hidden_state
    text_feat = F.normalize(model.text_proj(text[:, 0]), dim=-1)
    with torch.no_grad():
        model._momentum_update()
        image_m = model.visual_encoder_m(b["image"])
        image_feat_m = F.normalize(model.vision_proj_m(image_m[:, 0]), dim=-1)
        image_all = torch.cat([image_feat_m.t(), model.image_queue.clone()], dim=1)
        text_m = model.text_encoder_m.bert(b["ids"], attention_mask=b["mask"], return_dict=True, mode="text")
        text_feat_m = F.normalize(model.text_proj_m(text_m.last_hidden_state[:, 0]), dim=-1)
        text_all = torch.cat([text_feat_m.t(), model.text_queue.clone()], dim=1)
        i2t_m, t2i_m = image_feat_m @ text_all / model.temp, text_feat_m @ image_all / model.temp
        targets = torch.zeros(i2t_m.size())
        targets.fill_diagonal_(1)
        i2t_targets = alpha * F.softmax(i2t_m, dim=1) + (1 - alpha) * targets
        t2i_targets = alpha * F.softmax(t2i_m, dim=1) + (1 - alpha) * targets
    i2t, t2i = image_feat @ text_all / model.temp, text_feat @ image_all / model.temp
    loss_i2t = -torch.sum(F.log_softmax(i2t, dim=1) * i2t_targets, dim=1).mean()
    loss_t2i = -torch.sum(F.log_softmax(t2i, dim=1) * t2i_targets, dim=1).mean()
    ita = (loss_i2t + loss_t2i) / 2
    enqueue(model, image_feat_m, text_feat_m)

    fusion = lambda text, mask, image: bert(encoder_embeds=text, attention_mask=mask, encoder_hidden_states=image, return_dict=True, mode="fusion",
                                            encoder_attention_mask=torch.ones(image.shape[:-1], dtype=torch.long)).last_hidden_state[:, 0]
    positive = fusion(text, b["mask"], image)
    negative = fusion(torch.cat([text, text[negative_text]]), torch.cat([b["mask"], b["mask"][negative_text]]), torch.cat([image[negative_image], image]))
    n = image.shape[0]
    itm_labels = torch.cat([torch.ones(n, dtype=torch.long), torch.zeros(2 * n, dtype=torch.long)])
    itm = F.cross_entropy(model.itm_head(torch.cat([positive, negative])), itm_labels)
    with torch.no_grad():
        logits_m = model.text_encoder_m(masked, attention_mask=b["mask"], encoder_hidden_states=image_m, encoder_attention_mask=atts, return_dict=True, return_logits=True)
    mlm = model.text_encoder(masked, attention_mask=b["mask"], encoder_hidden_states=image, encoder_attention_mask=atts, return_dict=True,
                             labels=labels, soft_labels=F.softmax(logits_m, dim=-1), alpha=alpha).loss
    return ita, itm, mlm


def draw(rng):
    """A batch of unlike lengths: one text fills the length, one has a single word."""
    c = CONFIG
    pixels = rng.integers(0, 256, (BATCH, c["image_res"], c["image_res"], 3), dtype=np.uint8)
    ids, mask = np.zeros((BATCH, LENGTH), dtype=np.int64), np.zeros((BATCH, LENGTH), dtype=np.int64)
    for i, words in enumerate([LENGTH - 2, 5, 1, 6]):
        row = [c["special_ids"]["cls"], *rng.integers(5, c["bert"]["vocab_size"], words), c["special_ids"]["sep"]]
        ids[i, :len(row)], mask[i, :len(row)] = row, 1
    image = (torch.from_numpy(pixels).float() / 255 - torch.tensor(c["mean"])) / torch.tensor(c["std"])
    return pixels, {"image": image.permute(0, 3, 1, 2).contiguous(), "ids": torch.from_numpy(ids), "mask": torch.from_numpy(mask)}


def mask(b, rng):
    """Masked ids and labels: about a third of the tokens, `[SEP]` too."""
    ids, labels = b["ids"].numpy().copy(), np.full((BATCH, LENGTH), -100, dtype=np.int64)
    chosen = (rng.random(ids.shape) < 0.35) & (b["mask"].numpy() == 1) & (ids != CONFIG["special_ids"]["cls"])
    chosen[0, 1] = True
    labels[chosen] = ids[chosen]
    kind = rng.random(ids.shape)
    ids[chosen & (kind < 0.8)] = CONFIG["special_ids"]["mask"]
    random = chosen & (kind >= 0.8) & (kind < 0.9)
    ids[random] = rng.integers(5, CONFIG["bert"]["vocab_size"], random.sum())
    return torch.from_numpy(ids), torch.from_numpy(labels)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("code", type=pathlib.Path, help="a clone of salesforce/ALBEF")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "tests/data/albef-train")
    args = parser.parse_args()
    torch.manual_seed(5)
    torch.set_num_threads(1)
    rng = np.random.default_rng(5)
    model = build(args.code).train()
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "config.json").write_text(json.dumps(CONFIG, indent=1) + "\n")
    save_file({k: v.clone().contiguous() for k, v in model.state_dict().items()}, args.out / "albef.safetensors")
    pixels, b = draw(rng)
    out = {"images": torch.from_numpy(pixels), "ids": b["ids"], "attention_mask": b["mask"]}
    steps = []
    for k in range(STEPS):
        masked, labels = mask(b, rng)
        other = lambda: torch.from_numpy((np.arange(BATCH) + rng.integers(1, BATCH, BATCH)) % BATCH)
        steps.append((masked, labels, other(), other()))
        for name, value in zip(["masked_ids", "mlm_labels", "negative_image", "negative_text"], steps[k]):
            out[f"{name}_{k}"] = value.clone()
            if k == 0:
                out[name] = value
    with torch.no_grad():
        out |= inference(model, b, steps[0][0])
    start = {k: v.clone() for k, v in model.state_dict().items()}
    found = losses(model, b, *steps[0], CONFIG["alpha"])
    sum(found).backward()
    out |= {name: loss.detach().reshape(1) for name, loss in zip(["loss_ita", "loss_itm", "loss_mlm"], found)}
    out |= {f"grad.{name}": p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.load_state_dict(start)
    trained = [p for p in model.parameters() if p.requires_grad]
    decayed, rest = [p for p in trained if p.dim() >= 2], [p for p in trained if p.dim() < 2]
    optimizer = torch.optim.AdamW([{"params": decayed}, {"params": rest, "weight_decay": 0.0}], **OPTIMIZER)
    history = []
    for k in range(STEPS):
        optimizer.zero_grad()
        found = losses(model, b, *steps[k], 0.1 * k)
        sum(found).backward()
        optimizer.step()
        history.append([loss.item() for loss in found])
    out |= {"losses": torch.tensor(history), "image_queue_after": model.image_queue, "text_queue_after": model.text_queue,
            "queue_ptr_after": model.queue_ptr, "vision_proj_m_after": model.vision_proj_m.weight.data}
    save_file({k: v.detach().clone().contiguous() for k, v in out.items()}, args.out / "golden.safetensors")
    print(history)


if __name__ == "__main__":
    main()
