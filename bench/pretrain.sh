#!/usr/bin/env bash
# Make the testbed checkpoint on one GPU, in parts of under ten minutes:
#   bench/pretrain.sh WORK RESULTS [options of `python -m modgap.testbed`]
# A first call tries everything in miniature, makes the data and trains; the same call again resumes where it stopped.
# RESULTS gets tiny.tar (the checkpoint, 13 MB), step_N.tar (the last and the best two), eval.jsonl, head.pt and log.txt.
set -euo pipefail
work=${1:?usage: bench/pretrain.sh WORK RESULTS [options]} results=${2:?where the results go}
shift 2
export PYTHONUNBUFFERED=1 PYTHONPATH="$(cd "$(dirname "$0")/.." && pwd)/src" HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
mkdir -p "$work" "$results"
run() { "${PYTHON:-python3}" -m modgap.testbed "$@" 2>&1 | tee -a "$work/log.txt"; }

if [ ! -e "$work/tried" ]; then
    run --out "$work/try" --problems 2000 --glyph-steps 20 --mixture-steps 30 --warmup 10 --eval-every 30 \
        --eval-problems 30 --final-problems 10
    rm -rf "$work/try"
    # Where torchvision is installed, whether the folder loads as others load it.
    (cd "$(dirname "$0")/.." && "${PYTHON:-python3}" -m pytest -q -rs tests/models/test_models.py -k "auto_processor or plain_model or greedy" 2>&1 |
        tail -15 | tee -a "$work/log.txt") || true
    touch "$work/tried"
fi
run --out "$work/run" --phase data,glyphs,mixture "$@"

# The last checkpoint, to train on from (--init), and the best two, before anything else can go wrong.
keep=$("${PYTHON:-python3}" - "$work/run/eval.jsonl" <<'PY'
import json, sys
rows = list(map(json.loads, open(sys.argv[1])))
best = sorted(rows, key=lambda row: row["fitness"])[:2]
print(*sorted({f"step_{row['step']}" for row in [*best, rows[-1]]}))
PY
)
for step in $keep; do tar cf "$results/$step.tar" -C "$work/run/steps" "$step"; done
cp "$work/run/eval.jsonl" "$work/run/head.pt" "$work/log.txt" "$results"

run --out "$work/run" --phase final "$@"
tar cf "$results/tiny.tar" -C "$work/run" tiny
cp "$work/log.txt" "$results"
