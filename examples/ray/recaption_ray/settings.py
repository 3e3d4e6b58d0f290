"""The settings of `recaption run` that follow `--`: which of them choose shards, and how other commands take them."""

from __future__ import annotations

import json
from collections.abc import Iterator

# Flags of `recaption run` that choose shards: `plan` takes them, `worker` does not, and after them "everything is done" is
# not the question.
SELECTION = ("--since", "--sample")
# Keys of the flags that set one, as in pipeline/cli/run_args.rs; a flag wins over `--set`.
TEXTS = {"--model": "model.captioner", "--scorer": "model.scorer", "--provider": "model.provider", "--device": "model.device",
         "--metrics-addr": "run.metrics_addr", "--metrics-file": "run.metrics_file"}
NUMBERS = {"--threads": "run.threads", "--batch-size": "run.batch_size", "--min-similarity": "filter.min_similarity"}
WITH_VALUE = {"--input", "--output", "--set", *SELECTION, *TEXTS, *NUMBERS}


def pairs(settings: list[str]) -> Iterator[tuple[str, str | None, list[str]]]:
    """Yields each setting as flag, value and the arguments that it was; the value is `None` where the flag is not known."""
    rest = iter(settings)
    for argument in rest:
        flag, has_value, value = argument.partition("=")
        if flag not in WITH_VALUE:
            yield argument, None, [argument]
        elif has_value:
            yield flag, value, [argument]
        else:
            value = next(rest, None)
            yield flag, value or "", [argument] if value is None else [argument, value]


def split_selection(settings: list[str]) -> tuple[list[str], list[str]]:
    """Separates the flags that choose shards, with their values, from the settings."""
    selection, others = [], []
    for flag, _, arguments in pairs(settings):
        (selection if flag in SELECTION else others).extend(arguments)
    return selection, others


def sets_threads(settings: list[str]) -> bool:
    """Whether the number of threads is among the settings."""
    return any(flag == "--threads" or (flag == "--set" and value.partition("=")[0].strip() == "run.threads")
               for flag, value, _ in pairs(settings))


def for_finalize(settings: list[str]) -> list[str]:
    """The settings as arguments of `recaption finalize`, which has `--input` and `--set`, and takes the output by its place."""
    output, inputs, assignments, flags, unknown = [], [], [], [], []
    for flag, value, arguments in pairs(settings):
        if flag == "--output":
            output = [value]
        elif flag == "--input":
            inputs += ["--input", value]
        elif flag == "--set":
            assignments += ["--set", value]
        elif flag in TEXTS:
            # Quoted: a value of digits stays a text. JSON's strings are TOML's, too.
            flags += ["--set", f"{TEXTS[flag]}={json.dumps(value, ensure_ascii=False)}"]
        elif flag in NUMBERS:
            flags += ["--set", f"{NUMBERS[flag]}={value}"]
        else:
            unknown += arguments
    # After --set, so that a flag wins.
    return [*output, *inputs, *assignments, *flags, *unknown]
