"""All images of webdataset shards as the pixels that a model reads, for programs without an image decoder. Needs Pillow.

    python benchmarks/scene_pixels.py SHARDS SIZE OUT

OUT becomes u8 RGB [N, SIZE, SIZE, 3] without a header, in the order of shards and members. Images are square, as scenes are.
"""
import io, pathlib, sys, tarfile

from PIL import Image


def unpack(shards: pathlib.Path, size: int, out: pathlib.Path) -> None:
    """All images of the shards as u8 pixels [N, S, S, 3]."""
    with out.open("wb") as file:
        for shard in sorted(shards.glob("*.tar")):
            with tarfile.open(shard) as archive:
                for member in archive:
                    if pathlib.Path(member.name).suffix in (".png", ".jpg"):
                        data = archive.extractfile(member).read()
                        file.write(Image.open(io.BytesIO(data)).convert("RGB").resize((size, size), Image.BICUBIC).tobytes())


if __name__ == "__main__":
    unpack(pathlib.Path(sys.argv[1]), int(sys.argv[2]), pathlib.Path(sys.argv[3]))
