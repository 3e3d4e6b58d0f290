#!/usr/bin/env python3
"""Small JPEGs of one picture, each with other sampling factors, and the pixels that Pillow decodes of them.

    python3 make_fixtures.py        (needs pillow, and cjpeg of libjpeg-turbo)

Pillow 13.0, libjpeg-turbo 2.1.5. NAME.jpg is decoded as NAME.png; those without a .png are to be refused.
"""
import io, subprocess
from PIL import Image, ImageDraw

DECODED = {"420": "2x2,1x1,1x1", "422": "2x1,1x1,1x1", "440": "1x2,1x1,1x1", "411": "4x1,1x1,1x1", "444_as_2x1": "2x1,2x1,2x1"}
REFUSED = {"chroma_finer": "1x1,2x2,2x2", "chroma_wider": "2x1,4x1,4x1", "thirds": "3x1,1x1,1x1", "uneven": "2x1,1x2,1x2"}

picture = Image.new("RGB", (93, 61))
for x in range(93):
    for y in range(61):
        picture.putpixel((x, y), (x * 255 // 93, y * 255 // 61, (x + y) * 255 // 154))
draw = ImageDraw.Draw(picture)
draw.ellipse([8, 8, 40, 40], fill=(220, 30, 30))
draw.rectangle([50, 20, 86, 50], fill=(30, 60, 210))
ppm = io.BytesIO()
picture.save(ppm, "PPM")
for name, factors in (DECODED | REFUSED).items():
    jpeg = subprocess.run(["cjpeg", "-quality", "90", "-sample", factors], input=ppm.getvalue(), capture_output=True, check=True)
    with open(f"{name}.jpg", "wb") as file:
        file.write(jpeg.stdout)
    if name in DECODED:
        Image.open(io.BytesIO(jpeg.stdout)).convert("RGB").save(f"{name}.png", optimize=True)
