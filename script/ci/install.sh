#!/usr/bin/env bash
# script/ci/install.sh [VERSION]: on a CI machine, installs ai-how and lets this user run VMs. Repeatable.
# Without VERSION it is this checkout, else that version from PyPI. It changes settings of the machine, for all its
# users (/dev/kvm, user namespaces): it is for machines that one job has for itself.
set -euo pipefail
root="$(cd -P "$(dirname "$0")/../.." && pwd)"
version="${1-}"

say() { printf '==> %s\n' "$*" >&2; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

# After the packages: what they install sets the permissions of /dev/kvm again.
open_kvm() {
    [ -e /dev/kvm ] || { say "no /dev/kvm: the nodes will be emulated"; return; }
    [ ! -w /dev/kvm ] || return 0
    say "Letting everybody use /dev/kvm"
    if command -v udevadm >/dev/null && [ -d /etc/udev/rules.d ]; then
        echo 'KERNEL=="kvm", GROUP="kvm", MODE="0666", OPTIONS+="static_node=kvm"' |
            as_root tee /etc/udev/rules.d/99-kvm4all.rules >/dev/null
        as_root udevadm control --reload-rules || true
        as_root udevadm trigger --name-match=kvm || true
        as_root udevadm settle || true
    fi
    [ -w /dev/kvm ] || as_root chmod 0666 /dev/kvm
}

# The embedded host and the build of images need namespaces; Ubuntu 24.04 refuses them to ordinary users.
allow_namespaces() {
    local user restricted=/proc/sys/kernel/apparmor_restrict_unprivileged_userns
    [ "$(id -u)" -ne 0 ] || return 0
    user="$(id -un)"
    if [ -e $restricted ] && [ "$(cat $restricted)" != 0 ]; then
        say "Allowing user namespaces"
        as_root sysctl --quiet --write kernel.apparmor_restrict_unprivileged_userns=0
    fi
    for kind in u g; do
        grep -qs "^$user:" "/etc/sub${kind}id" ||
            as_root usermod "--add-sub${kind}ids" 200000-265535 "$user"
    done
}

# For the way out of the nodes, and their networks.
open_tun() {
    [ -e /dev/net/tun ] || as_root modprobe tun 2>/dev/null || say "no /dev/net/tun: nodes will not reach the outside"
}

"$root/script/setup"
if [ -n "$version" ]; then
    say "Installing ai-how $version"
    "$root/.venv/bin/python" -m pip install --quiet --disable-pip-version-check "ai-how==$version"
fi
open_kvm
allow_namespaces
open_tun
[ -z "${GITHUB_PATH-}" ] || printf '%s\n' "$root/.venv/bin" >>"$GITHUB_PATH"
"$root/.venv/bin/ai-how" --version
