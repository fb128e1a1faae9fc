#!/bin/bash
# build-kubernetes.sh [DIRECTORY]: real Kubernetes from Debian's source package, laid out as the official server archive.
# Debian ships only kubectl of it, but its source has all of Kubernetes with the vendor tree, so that nothing else is
# downloaded. The result is kept as DIRECTORY/DIGEST/kubernetes, by the SHA-256 of the .dsc, and DIRECTORY/current names
# it. If there is one, this is done at once. Takes about 11 CPU minutes, 1.5 GB of memory and 4 GB of disk.
set -euo pipefail
directory=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/ai-how-tests/kubernetes}
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
version=v1.20.2
programs=(kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl)
say() { printf 'kubernetes: %s %s\n' "$(date +%T)" "$*"; }

mkdir -p "$directory"
exec 9> "$directory/lock"
flock 9
if [ "$(cat "$directory/current/kubernetes/version" 2> /dev/null)" = "$version" ]; then
  say "is in $directory/current/kubernetes"
  exit
fi

draft=$(mktemp -d "$directory/draft.XXXXXX")
trap 'chmod -R u+w "$draft" && rm -rf "$draft"' EXIT

say "the source"
# With lists of its own: the host's sources stay as they are.
mkdir -p "$draft/lists/partial" "$draft/source"
echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror bookworm main" > "$draft/sources.list"
apt=(apt-get -q -o "Dir::Etc::sourcelist=$draft/sources.list" -o Dir::Etc::sourceparts=/dev/null
  -o "Dir::State::lists=$draft/lists" -o APT::Sandbox::User=root)
"${apt[@]}" update
digest=$("${apt[@]}" source --print-uris kubernetes | sed -n 's/.*\.dsc [0-9]* SHA256:\([0-9a-f]\{64\}\)$/\1/p')
[ -n "$digest" ] || { say "apt knows no source package kubernetes" >&2; exit 1; }
if [ ! -e "$directory/$digest" ]; then
  (cd "$draft/source" && "${apt[@]}" source kubernetes)
  tree=$(echo "$draft"/source/kubernetes-*/)
  tree=${tree%/}

  say "the tools"
  missing=()
  for tool in go:golang-go rsync:rsync jq:jq make:make gcc:gcc strip:binutils; do
    command -v "${tool%%:*}" > /dev/null || missing+=("${tool#*:}")
  done
  if [ ${#missing[@]} != 0 ]; then
    apt-get -q -o DPkg::Lock::Timeout=300 update
    apt-get -q -o DPkg::Lock::Timeout=300 install --yes --no-install-recommends "${missing[@]}"
  fi

  say "the build"
  cat > "$draft/version" <<VERSION
KUBE_GIT_COMMIT='faecb196815e248d3ecfb03c680a4507229c2a56'
KUBE_GIT_TREE_STATE='clean'
KUBE_GIT_VERSION='$version'
KUBE_GIT_MAJOR='1'
KUBE_GIT_MINOR='20'
VERSION
  mkdir -p "$tree/.go/src/k8s.io"
  ln -s ../../.. "$tree/.go/src/k8s.io/kubernetes"
  export GOPATH=$tree/.go GOCACHE=$draft/go-cache GOFLAGS='' GO111MODULE=off CGO_ENABLED=0 SOURCE_DATE_EPOCH=1610500000
  export KUBE_GIT_VERSION_FILE=$draft/version
  # Its programs would be linked with the C library, which is another one in the guests.
  export KUBE_STATIC_OVERRIDES="kubelet kube-proxy kube-apiserver kube-controller-manager kube-scheduler kubectl"
  make -C "$tree" generated_files
  # One run for all: what they have in common is compiled once.
  make -C "$tree" WHAT="${programs[*]/#/cmd/}"

  say "the layout"
  mkdir -p "$draft/whole/kubernetes/server/bin"
  for program in "${programs[@]}"; do
    strip -o "$draft/whole/kubernetes/server/bin/$program" "$tree/_output/bin/$program"
    chmod 755 "$draft/whole/kubernetes/server/bin/$program"
  done
  built=$("$draft/whole/kubernetes/server/bin/kubelet" --version)
  [ "$built" = "Kubernetes $version" ] || { say "it says that it is '$built'" >&2; exit 1; }
  echo "$version" > "$draft/whole/kubernetes/version"
  sync -f "$draft/whole"
  mv -T "$draft/whole" "$directory/$digest"
fi
ln -sfn "$digest" "$directory/current"
say "is in $directory/$digest/kubernetes"
