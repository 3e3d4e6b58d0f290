#!/usr/bin/env bash
# Captioning and filtering (CapFilt, Li et al. 2022, section 3.3), round by round. Call it again to resume.
#
#     capfilt.sh OUT SHARDS [HELD_OUT]
#
# OUT/round-N/web        what the captioner of round N - 1 wrote about SHARDS, with the matching probability of both texts
# OUT/round-N/captioner  the captioner trained on the texts that match
# OUT/scores.jsonl       `recaption eval` of every round's captioner on HELD_OUT, if it is given
set -euo pipefail
here=$(dirname "$0")
out=$1 shards=$2 held_out=${3:-}
: "${RECAPTION_BIN:=recaption}"                   # the program
: "${ROUNDS:=2}"
: "${CAPTIONER:=onnx/models/coca-scenes-base}"    # open_clip directory of the first captioner: every round's training begins with it
: "${FILTER:=models/filter}"                      # model folder with a matching head: an ALBEF or a BLIP that scores
: "${ITM:=0.5}"                                   # smallest probability of a text that is kept
: "${STEPS:=2000}"                                # of each round's training
: "${RULE:=capfilt}"                              # or dalle3: 95 % of what was written and 5 % of the original captions, unfiltered

# Measures the captioner of a round, once.
eval_captioner() {
    if [ -z "$held_out" ] || grep -qs "\"round\":$2," "$out/scores.jsonl"; then return; fi
    "$RECAPTION_BIN" --log-format json eval "$1" "$held_out" --scorer "$FILTER" |
        tail -n 1 | sed "s/^{/{\"round\":$2,/" >> "$out/scores.jsonl"
}

mkdir -p "$out"
captioner=$out/round-0/onnx
if [ ! -e "$captioner/model.json" ]; then
    "$RECAPTION_BIN" export --checkpoint "$CAPTIONER" --out "$captioner"
fi
eval_captioner "$captioner" 0
for round in $(seq "$ROUNDS"); do
    folder=$out/round-$round
    # 1. Write and judge. A run continues where it stopped, and does nothing where it is done.
    "$RECAPTION_BIN" run "$here/write.toml" --model "$captioner" --scorer "$FILTER" --input "$shards" --output "$folder/web" \
        --set "run.seed=$round"
    # 2. Train the next captioner on what is kept, from the weights of the first: what one round believes, the next can drop.
    case $RULE in
    capfilt) data=(--set "data.train=[\"$folder/web\"]" --set "data.caption=itm>=$ITM") ;;
    dalle3)
        "$RECAPTION_BIN" convert "$folder/web" --to webdataset --out "$folder/blend" --blend-synthetic 0.95
        data=(--set "data.train=[\"$folder/blend/*.tar\"]" --set data.format=shards --set data.caption=text)
        ;;
    *) echo "RULE is $RULE, expected capfilt or dalle3" >&2 && exit 2 ;;
    esac
    if [ ! -e "$folder/captioner/model/README.md" ]; then
        "$RECAPTION_BIN" finetune "$here/captioner.toml" --set "model.checkpoint=$CAPTIONER" "${data[@]}" \
            --set "optimizer.steps=$STEPS" --out "$folder/captioner"
    fi
    captioner=$folder/captioner/onnx
    eval_captioner "$captioner" "$round"
done
