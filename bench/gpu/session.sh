#!/usr/bin/env bash
# Everything that needs a real GPU, in at most 10 minutes, on a bare machine with torch and without a network:
#   bench/gpu/session.sh WHEEL OUT [WHEELS]
# WHEEL is a wheel of svgdx with the CUDA library (make wheel); the results go to the folder OUT. WHEELS is a folder of
# further wheels, such as those of svgdx[test] and pytest-benchmark; what a stage needs and is not there is reported.
# OUT/session.md has the tables, rendered from the JSON files beside it.
# Every stage has a time limit and a log, OUT/STAGE.log; a stage that fails does not stop the others. The variable
# STAGES names the stages to run after the doctor, all by default.
set -uo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)

if [ $# -lt 2 ]; then
  sed -n '2,8s/^# \{0,1\}//p' "$root/bench/gpu/session.sh" >&2
  exit 2
fi
mkdir -p "$2"
wheel=$(realpath "$1") out=$(realpath "$2") wheels=${3:+$(realpath "$3")}
python=$(command -v python3)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Not in the repository, whose svgdx has no libraries.
cd "$work"
failed=0
echo '{}' >"$out/stages.json"

# stage NAME SECONDS COMMAND...: runs the command, writes its log, and notes exit code and seconds in stages.json.
stage() {
  local name=$1 limit=$2 began=$SECONDS code=0
  [[ -z ${STAGES:-} || " install doctor $STAGES " == *" $name "* ]] || return 0
  shift 2
  timeout --kill-after 5 "$limit" bash -c '"$@"' bash "$@" >"$out/$name.log" 2>&1 || code=$?
  [ "$code" = 0 ] || failed=1
  printf '%-12s exit code %3d, %3d s\n' "$name" "$code" $((SECONDS - began))
  python3 - "$out/stages.json" "$name" "$code" $((SECONDS - began)) <<'PY'
import json, pathlib, sys
path, name, code, seconds = sys.argv[1:]
stages = json.loads(pathlib.Path(path).read_text()) | {name: {"code": int(code), "seconds": int(seconds)}}
pathlib.Path(path).write_text(json.dumps(stages, indent=1) + "\n")
PY
}

# run_pytest ARGUMENT...: with the settings of the repository.
run_pytest() {
  "$python" -m pytest -q -c "$root/pyproject.toml" -p no:cacheprovider "$@"
}

# The package beside the torch that python3 has, without a network.
install_wheels() {
  "$python" -m pip install --quiet --no-index --no-deps --target "$work/site" "$wheel" ${wheels:+"$wheels"/*.whl}
}

# The cases of the ops once under the memory checker; it is slow, and so a few of them have to do.
sanitize() {
  command -v compute-sanitizer || return
  compute-sanitizer --error-exitcode 9 "$python" -m pytest -q -c "$root/pyproject.toml" -m gpu -k float32 \
    "$root/python_tests/ops/test_forward.py"
}

export root wheel wheels work python OMP_NUM_THREADS=4 PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$work/site
export -f run_pytest install_wheels sanitize
stage install 40 install_wheels
stage doctor 20 "$python" -m svgdx.doctor --json
if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
  echo "torch sees no GPU: the stages after the doctor need one, see $out/doctor.log" >&2
  exit 1
fi
# Several processes, if pytest-xdist is there.
"$python" -c 'import xdist' 2>/dev/null && parallel=(-n 8) || parallel=()
benchmarks=("$root/bench/bench_field.py" "$root/bench/bench_trajectory.py")
stage tests 70 run_pytest -m gpu "${parallel[@]}" "$root/python_tests"
stage trainers 120 "$python" "$root/bench/gpu/trainers.py" "$out/trainers.json" --limit 100
stage sanitizer 50 sanitize
stage ops 80 "$python" "$root/bench/gpu/op_calls.py" "$out/ops.json" --limit 60
# Fills the cache of torch.compile, so that the next stages have time to measure.
stage compile 70 run_pytest -m gpu "${parallel[@]}" --benchmark-disable -k "not keops" "${benchmarks[@]}"
stage field 45 run_pytest -m gpu -k "not keops" "${benchmarks[0]}" --benchmark-json "$out/field.json"
stage trajectory 60 run_pytest -m gpu "${benchmarks[1]}" --benchmark-json "$out/trajectory.json"
# On its own, because it may crash.
stage keops 15 run_pytest -m gpu -k keops "${benchmarks[0]}" --benchmark-json "$out/keops.json"
for name in field trajectory; do
  [ ! -s "$out/$name.json" ] || stage "render-$name" 10 "$python" "$root/bench/report/render.py" "$out/$name.json" "$out/$name"
done
stage tables 10 "$python" "$root/bench/gpu/tables.py" "$out"
exit "$failed"
