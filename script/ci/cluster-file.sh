#!/usr/bin/env bash
# script/ci/cluster-file.sh TARGET NODES MEMORY_GB [FILE]: prints the cluster file to use, which later steps find by
# AI_HOW_CONFIG: FILE, or without it TARGET, which is written with so many compute nodes of so much memory each.
set -euo pipefail
target="$1" nodes="$2" memory="$3" file="${4-}"

if [ -z "$file" ]; then
    file="$target"
    mkdir -p "$(dirname "$file")"
    cat >"$file" <<END
version: "1.0"
clusters:
  hpc:
    name: hpc
    controller: {cpu_cores: 1, memory_gb: $memory, disk_gb: 10}
    compute_nodes: {count: $nodes, cpu_cores: 1, memory_gb: $memory, disk_gb: 10}
END
fi
file="$(realpath "$file")"
if [ -n "${GITHUB_ENV-}" ]; then
    # The system's libvirt, which the packages have started, is not for clusters of this job.
    printf 'AI_HOW_CONFIG=%s\nAI_HOW_CONNECT=embedded\n' "$file" >>"$GITHUB_ENV"
    printf 'file=%s\n' "$file" >>"$GITHUB_OUTPUT"
fi
printf '%s\n' "$file"
