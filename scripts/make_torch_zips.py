"""Makes the torch files of tests/data/torch with torch itself, and what they hold as safetensors.

    pip install torch safetensors numpy
    python scripts/make_torch_zips.py tests/data/torch

Files of tests/data/torch/README.md. The same torch writes the same bytes, but for `.data/serialization_id`.
"""
import collections, io, pathlib, sys, zipfile

import torch
from safetensors.torch import save_file


def values(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tricky():
    """Views of one storage, every type, empty and scalar tensors, a parameter."""
    base = values(1, 6, 8)
    cube = values(2, 2, 3, 4)
    return collections.OrderedDict(
        whole=base,
        row=base[2],
        block=base[1:3, 2:7],
        transposed=base.t(),
        every_other=base[::2, 1::3],
        permuted=cube.permute(2, 0, 1),
        expanded=values(3, 3, 1).expand(3, 4),
        scalar=torch.tensor(3.5),
        empty=torch.zeros(0, 4),
        side_of_one=base[:, 3:4],
        half=values(4, 5).half(),
        bf16=values(5, 5).bfloat16(),
        double=values(6, 2, 3).double(),
        parameter=torch.nn.Parameter(values(7, 2, 2)),
    )


def buffers():
    return {
        "position_ids": torch.arange(7).unsqueeze(0),
        "num_batches_tracked": torch.tensor(3),
        "int32": torch.arange(4, dtype=torch.int32),
        "int16": torch.arange(4, dtype=torch.int16),
        "int8": torch.arange(4, dtype=torch.int8),
        "uint8": torch.arange(4, dtype=torch.uint8),
        "flags": torch.tensor([True, False, True]),
    }


class Hostile:
    """Runs a program where a file is unpickled: it would leave the file RECAPTION_HOSTILE_WAS_RUN."""

    def __reduce__(self):
        import os
        return os.system, ("touch RECAPTION_HOSTILE_WAS_RUN",)


def rewritten(data, change=lambda name, content: content, compression=zipfile.ZIP_STORED):
    """The zip with other entries."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", compression) as new:
        for info in old.infolist():
            new.writestr(zipfile.ZipInfo(info.filename), change(info.filename, old.read(info)), compression)
    return out.getvalue()


def main():
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    floats, whole = tricky(), buffers()
    expected = {name: tensor.detach().contiguous().clone() for name, tensor in {**floats, **whole}.items()}
    save_file(expected, out / "tricky.safetensors")
    state = collections.OrderedDict({**floats, **whole})
    state._metadata = {"": {"version": 1}}
    linear = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(linear.parameters())
    linear(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    training = {"epoch": 3, "name": "run", "lr": 1e-5, "state_dict": state, "optimizer": optimizer.state_dict(), "pair": (1, None), "big": 1 << 80}
    torch.save(training, out / "tricky.pt")
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, out / "parallel.pt")
    torch.save(state, out / "protocol4.pt", pickle_protocol=4)
    torch.save(state, out / "old.bin", _use_new_zipfile_serialization=False)
    torch.save({"good": floats["row"], "bad": Hostile()}, out / "hostile.bin")
    torch.save({"good": floats["row"], "bad": Hostile()}, out / "hostile4.bin", pickle_protocol=4)
    torch.save({"good": floats["row"].clone(), "text": "no tensor"}, out / "text.bin")
    torch.save(torch.nn.Linear(2, 2), out / "module.bin")
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), out / "script.pt")
    small = io.BytesIO()
    torch.save({"weight": floats["row"].clone()}, small)
    big = rewritten(small.getvalue(), lambda name, content: b"big" if name.endswith("byteorder") else content)
    (out / "big_endian.bin").write_bytes(big)
    (out / "compressed.bin").write_bytes(rewritten(small.getvalue(), compression=zipfile.ZIP_DEFLATED))
    (out / "small.bin").write_bytes(small.getvalue())
    for file in sorted(out.glob("*")):
        print(f"{file.stat().st_size:>7,} {file.name}")


main()
