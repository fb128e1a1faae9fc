#!/usr/bin/env bash
# script/ci/import.sh FILE: takes in the file that the CI service has restored, if it has one. A file that is damaged or
# of another version is removed: the job goes on without it.
set -euo pipefail
file="$1"

[ -e "$file" ] || { echo "no cache was restored" >&2; exit 0; }
ai-how cache import "$file" || { echo "the cache is not used" >&2; rm -f "$file"; }
