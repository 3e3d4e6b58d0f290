"""Makes the fixtures of the scenes module from the Python reference generator.

    pip install numpy pillow
    python make_scenes_fixture.py PATH/TO/scenes.py

Writes beside itself: scenes.json (scenes, captions, alt texts of every kind) and sheet-SIZE.png (their pixels).
"""
import importlib.util, json, pathlib, random, sys
import numpy as np
from PIL import Image

HERE = pathlib.Path(__file__).parent
spec = importlib.util.spec_from_file_location("reference", sys.argv[1])
ref = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ref)

DESIGNED, SAMPLED, COLUMNS = 40, 24, 8
IMAGE_SIZES = [96, 100, 192]  # 100: the scale is no whole number
COLOURS, SIZES, BACKGROUNDS = list(ref.COLOURS), list(ref.SIZES), list(ref.BACKGROUNDS)
OFFSETS = [(dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1)]


def designed():
    """Scenes of three objects that between them have all that a scene can have."""
    for i in range(DESIGNED):
        objects = []
        for k in range(3):
            j = 3 * i + k  # each j is a shape in a colour, at both sizes in turn
            cell, (dx, dy) = (i + 3 * k + i // 9) % 9, OFFSETS[(j + j // 16) % 9]
            objects.append({"shape": ref.SHAPES[j % 8], "colour": COLOURS[(j // 8) % 8], "size": SIZES[(j + j // 64) % 2],
                            "row": cell // 3, "col": cell % 3, "dx": dx, "dy": dy})
        yield {"background": BACKGROUNDS[i % 4], "objects": objects}


class Scripted:
    """Stands in for random.Random: one number for random(), then places in the lists that choice() is given."""

    def __init__(self, u, places, number=0):
        self.u, self.places, self.number = u, list(places), number

    def random(self):
        return self.u

    def choice(self, items):
        return items[self.places.pop(0)]

    def randint(self, low, high):
        assert low <= self.number <= high
        return self.number


def alt_texts(scene):
    """Every alt text that the reference can give to a scene; of the 99 numbers only 1, 42 and 99."""
    for t in range(len(ref.JUNK)):
        for number in (1, 42, 99):
            yield dict(kind="junk", template=t, number=number, text=ref.alt_text(scene, Scripted(0.1, [t], number)))
    for o in range(len(scene["objects"])):
        for t in range(5):
            yield dict(kind="one object", object=o, template=t, text=ref.alt_text(scene, Scripted(0.4, [o, t])))
    yield dict(kind="names", text=ref.alt_text(scene, Scripted(0.6, [0])))
    yield dict(kind="descriptive", text=ref.alt_text(scene, Scripted(0.8, [0])))


rng = random.Random(0)
scenes = [*designed(), *(ref.sample_scene(rng) for _ in range(SAMPLED))]

every = [o for s in scenes for o in s["objects"]]
have = lambda *names: {tuple(o[n] for n in names) for o in every}
assert len(have("shape", "size")) == 16 and len(have("shape", "colour")) == 64 and len(have("dx", "dy")) == 9
assert len(have("row", "col", "size")) == 18 and {s["background"] for s in scenes} == set(BACKGROUNDS)
assert len(have("shape", "dx")) == len(have("shape", "dy")) == 24 and {len(s["objects"]) for s in scenes} == {1, 2, 3}

for size in IMAGE_SIZES:
    drawn = [ref.draw(s, size) for s in scenes]
    rows = [np.concatenate(drawn[i: i + COLUMNS], 1) for i in range(0, len(drawn), COLUMNS)]
    Image.fromarray(np.concatenate(rows, 0)).save(HERE / f"sheet-{size}.png", optimize=True)

# Alt texts for a few scenes only: one with each count of objects, and enough designed ones for each place.
alts = [*range(6), *(next(i for i, s in enumerate(scenes) if len(s["objects"]) == n) for n in (1, 2))]
rows = [dict(scene=json.dumps(s), short=ref.short(s), descriptive=ref.descriptive(s),
             **({"alt_texts": list(alt_texts(s))} if i in alts else {})) for i, s in enumerate(scenes)]
(HERE / "scenes.json").write_text("[\n" + ",\n".join(json.dumps(r) for r in rows) + "\n]\n")
print(len(scenes), "scenes,", sum(len(r.get("alt_texts", [])) for r in rows), "alt texts")
