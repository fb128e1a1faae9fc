#!/usr/bin/env bash
# script/ci/export.sh FILE: writes the file for the CI service to keep: the images, and a saved VM of each type of node.
# An earlier one is replaced.
set -euo pipefail
file="$1"

mkdir -p "$(dirname "$file")"
rm -f "$file"
ai-how image warm
ai-how cache export "$file"
