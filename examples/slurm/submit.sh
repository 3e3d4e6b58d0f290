#!/bin/bash
# Submits the array, and what checks the output when every task has ended, whatever its end was.
#
#   ./submit.sh [CONFIG.toml]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
config=${1:-recaption.toml}
array=$(sbatch --parsable "$here/recaption.sbatch" "$config")
array=${array%%;*}
# afterany waits for requeued tasks too.
finalize=$(sbatch --parsable --dependency="afterany:$array" "$here/finalize.sbatch" "$config")
echo "array $array, then finalize ${finalize%%;*}; squeue --jobs=$array shows the tasks"
