"""Makes small images of unusual kinds, and what Pillow and open_clip's evaluation transform make of them.

    pip install open_clip_torch==3.3.0 torchvision scikit-image pillow safetensors opencv-python-headless
    python make_extra.py OUT_DIR

extra.safetensors holds `<file>/<resize_mode>/<interpolation>` = u8 [48,48,3] RGB; `longest` is filled with grey 77.
EXIF orientation is applied first, by Pillow's ImageOps.exif_transpose. grey16.png alone is not Pillow's own conversion
(which clips 16-bit grey to 255): its high bytes were taken. OpenCV writes the sampling factors that Pillow does not.
"""
import io, pathlib, struct, sys, zlib
import cv2, numpy as np, torch
from PIL import Image, ImageOps
from open_clip.transform import PreprocessCfg, image_transform_v2
from safetensors.torch import save_file
from skimage import data

SIZE = 48
out = pathlib.Path(sys.argv[1]); out.mkdir(parents=True, exist_ok=True)
cat = Image.fromarray(data.chelsea()).resize((75, 50), Image.BICUBIC)
coffee = Image.fromarray(data.coffee()).resize((97, 65), Image.BICUBIC)
grey = Image.fromarray(data.camera()).resize((60, 60), Image.BICUBIC)
files = {}


def put(name, img, **kw):
    b = io.BytesIO(); img.save(b, **kw); files[name] = b.getvalue()


def png(name, pixels, depth, colour, interlaced=False):
    """A PNG that Pillow cannot write. pixels: [H,W,C]."""
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    adam7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    raw = b""
    for x, y, dx, dy in adam7 if interlaced else [(0, 0, 1, 1)]:
        for row in pixels[y::dy, x::dx]:
            raw += b"\0" + np.ascontiguousarray(row).astype(">u2" if depth == 16 else "u1").tobytes()
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], depth, colour, 0, 0, int(interlaced))
    files[name] = (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw, 9)) + chunk(b"IEND", b""))


def opencv(name, sampling, progressive):
    flags = [cv2.IMWRITE_JPEG_QUALITY, 92, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling, cv2.IMWRITE_JPEG_PROGRESSIVE, progressive]
    files[name] = cv2.imencode(".jpg", np.array(coffee)[..., ::-1].copy(), flags)[1].tobytes()


def separate(name, factor):
    """A sequential JPEG with one scan per component, put together from three grey ones."""
    def grey_jpeg(plane):
        b = io.BytesIO(); plane.save(b, format="JPEG", quality=90); raw = b.getvalue()
        segments, at = {}, 2
        while True:
            length = struct.unpack(">H", raw[at + 2:at + 4])[0]
            segments.setdefault(raw[at + 1], []).append(raw[at:at + 2 + length])
            at += 2 + length
            if 0xDA in segments:
                return segments, raw[at:-2]
    w, h = coffee.size
    luma, *chroma = coffee.convert("YCbCr").split()
    planes = [luma] + [c.resize((-(-w // factor), -(-h // factor)), Image.BOX) for c in chroma]
    scans = [grey_jpeg(plane) for plane in planes]
    tables = scans[0][0]
    frame = struct.pack(">HBHHB", 17, 8, h, w, 3) + bytes([1, 0x11 * factor, 0, 2, 0x11, 0, 3, 0x11, 0])
    raw = b"\xff\xd8" + b"".join(tables[0xDB]) + b"\xff\xc0" + frame + b"".join(tables[0xC4])
    for i, (_, body) in enumerate(scans):
        raw += b"\xff\xda" + struct.pack(">HBBBBBB", 8, 1, i + 1, 0, 0, 63, 0) + body
    files[name] = raw + b"\xff\xd9"


rng = np.random.default_rng(0)
rgb16 = np.array(cat).astype(np.uint16) * 256 + rng.integers(0, 256, (50, 75, 3)).astype(np.uint16)
put("restarts.jpg", coffee, format="JPEG", restart_marker_blocks=3)
put("restarts_progressive.jpg", coffee, format="JPEG", restart_marker_blocks=3, progressive=True)
put("rgb.jpg", coffee, format="JPEG", keep_rgb=True, quality=92)
put("flat.jpg", Image.new("RGB", (333, 77), (40, 90, 120)), format="JPEG")
separate("separate_444.jpg", 1); separate("separate_420.jpg", 2)
put("one.jpg", cat.resize((1, 1)), format="JPEG")
put("cmyk_progressive.jpg", coffee.convert("CMYK"), format="JPEG", progressive=True)
opencv("411.jpg", 0x411111, 0); opencv("422.jpg", 0x211111, 0); opencv("440_progressive.jpg", 0x121111, 1)
png("interlaced.png", np.array(cat), 8, 2, interlaced=True)
png("rgba16.png", np.dstack([rgb16, rgb16[..., :1]]), 16, 6)
png("grey16.png", rgb16[..., :1], 16, 0)
put("bit1.png", grey.convert("1"), format="PNG")
put("grey_alpha.png", Image.merge("LA", (grey, grey.rotate(90))), format="PNG")
put("palette_transparent.png", cat.convert("P", palette=Image.ADAPTIVE, colors=13), format="PNG", bits=4, transparency=3)
put("one.png", cat.resize((1, 1)), format="PNG")
put("wide.png", cat.resize((4000, 3)), format="PNG")
for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
    put(f"{compression}.tiff", cat, format="TIFF", compression=compression)
put("cmyk.tiff", cat.convert("CMYK"), format="TIFF")
put("bit1.tiff", grey.convert("1"), format="TIFF")
put("palette.bmp", cat.convert("P", palette=Image.ADAPTIVE), format="BMP")
frames = [cat.convert("P", palette=Image.ADAPTIVE, colors=32), cat.rotate(180).convert("P", palette=Image.ADAPTIVE)]
put("animated.gif", frames[0], format="GIF", save_all=True, append_images=frames[1:], duration=100)
put("animated.webp", cat, format="WEBP", save_all=True, append_images=[cat.rotate(180)], duration=100, lossless=True)
put("alpha.webp", Image.merge("RGBA", (*cat.split(), cat.split()[0])), format="WEBP", quality=85)
exif = cat.getexif(); exif[0x112] = 6
for suffix, kw in dict(jpg=dict(quality=92), png={}, webp=dict(lossless=True), tiff={}).items():
    format = dict(jpg="JPEG", tiff="TIFF").get(suffix, suffix.upper())
    put(f"exif6.{suffix}", cat, format=format, exif=exif, **kw)


def upright(name, raw):
    if name == "grey16.png":
        return Image.fromarray((rgb16[..., 0] >> 8).astype(np.uint8)).convert("RGB")
    return ImageOps.exif_transpose(Image.open(io.BytesIO(raw))).convert("RGB")


gold = {}
for name, raw in files.items():
    (out / name).write_bytes(raw)
    if name == "separate_420.jpg":
        continue  # refused: its decoder gets the colours wrong
    cases = [("shortest", "bicubic")]
    if name in ("interlaced.png", "bit1.png", "alpha.webp", "exif6.png"):
        cases += [("shortest", "bilinear"), ("longest", "bicubic"), ("longest", "bilinear"), ("squash", "bilinear")]
    for mode, interpolation in cases:
        cfg = PreprocessCfg(size=SIZE, mean=(0, 0, 0), std=(1, 1, 1), resize_mode=mode, interpolation=interpolation, fill_color=77)
        t = image_transform_v2(cfg, is_train=False)(upright(name, raw))
        gold[f"{name}/{mode}/{interpolation}"] = (t * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()
save_file(gold, out / "extra.safetensors")
