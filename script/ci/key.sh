#!/usr/bin/env bash
# script/ci/key.sh: prints the key of the cache. On GitHub its two parts are outputs as well: a cache of the same images
# for another CPU has the same first part.
set -euo pipefail
key="$(ai-how cache key)"
[ -z "${GITHUB_OUTPUT-}" ] || printf 'key=%s\nimages=%s\n' "$key" "${key%%-*}" >>"$GITHUB_OUTPUT"
printf '%s\n' "$key"
