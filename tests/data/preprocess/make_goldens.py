"""Makes reference cases for image decoding and resizing from open_clip's own evaluation transform (Pillow).

    pip install open_clip_torch==3.3.0 torchvision scikit-image pillow safetensors
    python make_goldens.py OUT_DIR

For every file written to OUT_DIR, preprocess.safetensors holds `<file>` = u8 [224,224,3] RGB: what open_clip's
image_transform_v2 (shortest side to 224, bicubic with antialiasing, centre crop) hands to the model before scaling
and normalising, given the image already converted by Pillow's convert("RGB"), as open_clip's training loader does:
alpha dropped, palette and CMYK converted, grey replicated, then resized as RGB.
"""
import io, pathlib, sys
import numpy as np, torch
from PIL import Image
from open_clip.transform import PreprocessCfg, image_transform_v2
from safetensors.torch import save_file
from skimage import data

out = pathlib.Path(sys.argv[1]); out.mkdir(parents=True, exist_ok=True)
astro, coffee, cat, camera = (Image.fromarray(x()) for x in (data.astronaut, data.coffee, data.chelsea, data.camera))
files = {}


def put(name, img, **kw):
    b = io.BytesIO(); img.save(b, **kw); files[name] = b.getvalue()


put("astronaut_420.jpg", astro, format="JPEG", quality=90)
put("coffee_progressive.jpg", coffee, format="JPEG", quality=85, progressive=True)
put("cat_444.jpg", cat, format="JPEG", quality=95, subsampling=0)
put("camera_grey.jpg", camera, format="JPEG", quality=90)
put("astronaut_cmyk.jpg", astro.convert("CMYK"), format="JPEG", quality=90)
put("coffee_tall.jpg", coffee.resize((180, 900), Image.BICUBIC), format="JPEG", quality=90)
put("cat_small.png", cat.resize((97, 61), Image.BICUBIC), format="PNG")
put("coffee_palette.png", coffee.convert("P", palette=Image.ADAPTIVE), format="PNG")
rgba = cat.convert("RGBA"); rgba.putalpha(Image.fromarray((np.arange(cat.width) * 255 // cat.width).astype(np.uint8)[None].repeat(cat.height, 0)))
put("cat_alpha.png", rgba, format="PNG")
put("coffee_lossy.webp", coffee, format="WEBP", quality=80)
put("cat_lossless.webp", cat, format="WEBP", lossless=True)
put("camera_grey.tiff", camera, format="TIFF")
put("cat.bmp", cat, format="BMP")
put("cat.gif", cat.convert("P", palette=Image.ADAPTIVE), format="GIF")

pre = image_transform_v2(PreprocessCfg(size=224, mean=(0, 0, 0), std=(1, 1, 1)), is_train=False)
gold = {}
for name, raw in files.items():
    (out / name).write_bytes(raw)
    t = pre(Image.open(io.BytesIO(raw)).convert("RGB"))
    gold[name] = (t * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()
    assert gold[name].shape == (224, 224, 3)
save_file(gold, out / "preprocess.safetensors")
print({k: float(v.float().mean()) for k, v in gold.items()})
