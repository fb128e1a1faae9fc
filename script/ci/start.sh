#!/usr/bin/env bash
# script/ci/start.sh DIR: starts the cluster, and writes srun, sbatch and so on into a directory that later steps have on
# their PATH.
set -euo pipefail
directory="$1"

ai-how hpc start
ai-how hpc wrappers "$directory"
[ -z "${GITHUB_PATH-}" ] || realpath "$directory" >>"$GITHUB_PATH"
