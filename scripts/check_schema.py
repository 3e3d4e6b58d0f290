"""Holds the JSON schemas of both programs against a real validator: each is a valid schema, accepts the example files and
recipes of the repository, and rejects wrong ones. Exit 1 with the first disagreement.

    pip install jsonschema
    python3 scripts/check_schema.py target/release/recaption target/release/recaption-finetune
"""
import json, pathlib, subprocess, sys, tomllib

from jsonschema import Draft202012Validator

ROOT = pathlib.Path(__file__).resolve().parent.parent
RUN = "[model]\ncaptioner = 'm'\n[input]\nshards = 'a.tar'\n[output]\nurl = 'o'\n"
WRONG_RUNS = ["[model]\ncaptoiner = 'm'", "[ouput]\nurl = 'o'", "[run]\nthreads = 0", "[run]\nthreads = 'many'", "[caption]\nstrategy = 'greedi'",
              "[caption]\ntop_p = 1.5", "[input]\nshards = [1]", "[model]\ndevice = [0, 0]", "[model]\ndevice = 'gpu'", "[model]\ndevice = -1"]
RIGHT_RUNS = [RUN, "[model]\ndevice = 'all'", "[model]\ndevice = [0, 1]", "[model]\ndevice = '0,1'", "[input]\nshards = ['a.tar', 'b.tar']", "[caption]\nearly_stopping = true"]
WRONG_RECIPES = ["[optimizer]\nlr = 0", "[optimizer]\nsteps = 2.5", "[run]\nprecision = 'fp8'", "[data]\ntrain = 3", "[optimizer]\nlayer_decay = 1.5"]
RIGHT_RECIPES = ["[data]\ntrain = 'photos'", "[data]\ncrop = { scale = [0.9, 1.0] }", "[run]\nmicro_batch = 8"]


def check(schema: dict, right: list[str], wrong: list[str]) -> None:
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    for text in right:
        errors = [error.message for error in validator.iter_errors(tomllib.loads(text))]
        if errors:
            sys.exit(f"the schema rejects {text!r}: {errors}")
    for text in wrong:
        if validator.is_valid(tomllib.loads(text)):
            sys.exit(f"the schema accepts {text!r}")
    print(f"{schema.get('title')}: {len(right)} accepted, {len(wrong)} rejected")


def main() -> None:
    recaption, finetune = sys.argv[1:] if len(sys.argv) == 3 else sys.exit(__doc__)
    files = [path.read_text() for path in sorted((ROOT / "examples").rglob("*.toml"))]
    check(json.loads(subprocess.check_output([recaption, "config", "schema"])), RIGHT_RUNS + files, WRONG_RUNS)
    recipes = [path.read_text() for path in sorted((ROOT / "stages/finetune/recipes").glob("*.toml"))]
    check(json.loads(subprocess.check_output([finetune, "--schema"])), RIGHT_RECIPES + recipes, WRONG_RECIPES)


if __name__ == "__main__":
    main()
