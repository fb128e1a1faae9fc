#!/bin/sh
# derive.sh: makes an image from the tree of another one, as root of a namespace in which it is PID 1.
# Below $OUT it finds job/: packages, documented (if the documentation is kept), upgrade (if packages of the base shall be
# the newest), sources.list (if another is used), certificates (that are trusted while it runs), files/ (NUMBER, and
# NUMBER.target), run/ (NUMBER, and NUMBER.script).
# BASE is the packed tree, PACK pack.sh, IMAGE_BYTES the least size of the disk, CHECK_EXPIRY false if the lists of packages
# may be old, else true.
set -eu
[ $$ = 1 ] || exit 70 # all other processes are killed below
root=$OUT/root
job=$OUT/job
# shellcheck source=src/ai_how/images/pack.sh
. "$PACK"

# The line that ai-how follows.
say() { printf 'ai-how: %s\n' "$*"; }

numbers() { find "$1" -mindepth 1 -maxdepth 1 ! -name '*.*' -printf '%f\n' | sort -n; }

in_root() { chroot "$root" "$@"; }

get() { in_root apt-get --quiet --yes --no-install-recommends -o DPkg::Use-Pty=0 -o Dpkg::Options::=--force-unsafe-io \
    -o Acquire::Retries=2 "$@"; }

# What starts a unit at boot, or is a generator of units.
boot_links() {
  find "$root"/etc/systemd/system/*.wants "$root"/etc/systemd/system/*.requires "$root"/usr/lib/systemd/system/*.wants \
    "$root"/usr/lib/systemd/system-generators "$root"/etc/rc?.d -mindepth 1 2> /dev/null | sort
}

mount_system() {
  mount -t proc proc "$root/proc"
  mount --rbind /sys "$root/sys"
  mount -t tmpfs -o mode=0755 tmpfs "$root/dev"
  for device in null zero full random urandom tty; do
    : > "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
  done
  mkdir "$root/dev/pts" "$root/dev/shm"
  mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts "$root/dev/pts"
  mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
  ln -s pts/ptmx "$root/dev/ptmx"
  ln -s /proc/self/fd "$root/dev/fd"
  for number in 0:stdin 1:stdout 2:stderr; do
    ln -s "/proc/self/fd/${number%:*}" "$root/dev/${number#*:}"
  done
  mount -t tmpfs -o mode=0755 tmpfs "$root/run"
}

# The certificates of the host are the nodes' own, when they are told: an image may go to another host.
distrust_host() { [ ! -e "$bundle" ] || sed -i '/^# ai-how: begin$/,/^# ai-how: end$/d' "$bundle"; }

trust_host() {
  distrust_host
  [ ! -e "$job/certificates" ] || [ ! -e "$bundle" ] ||
    { echo '# ai-how: begin'; cat "$job/certificates"; echo '# ai-how: end'; } >> "$bundle"
}

install_packages() {
  [ -s "$job/packages" ] || [ -e "$job/upgrade" ] || return 0
  if [ -e "$job/sources.list" ]; then
    mv "$root/etc/apt/sources.list" "$OUT/sources.list.kept"
    cp "$job/sources.list" "$root/etc/apt/sources.list"
  fi
  boot_links > "$OUT/links.before"
  say phase update
  get -o APT::Update::Error-Mode=any -o "Acquire::Check-Valid-Until=$CHECK_EXPIRY" update
  in_root apt-cache pkgnames > "$OUT/known" # for what to say of a package that is none of them
  # Of a base with documentation that is there already.
  settings=$root/etc/dpkg/dpkg.cfg.d/99mmdebstrap
  wants_documentation=
  if [ -e "$job/documented" ] && grep -q '^path-exclude=' "$settings"; then
    wants_documentation=yes
    sed -i '/^path-exclude=/d' "$settings"
  fi
  # The kernel is that of the base, whose modules are made for it.
  kernels=$(in_root dpkg-query --show --showformat '${Package}\n' 'linux-image-*')
  # shellcheck disable=SC2086
  in_root apt-mark --quiet hold $kernels > /dev/null
  if [ -e "$job/upgrade" ]; then
    say phase upgrade
    get upgrade --with-new-pkgs
  fi
  say phase install
  again=
  if [ -n "$wants_documentation" ]; then
    # shellcheck disable=SC2046
    again=$(in_root dpkg-query --show --showformat '${Package}\n' $(cat "$job/documented") 2> /dev/null | sort -u)
  fi
  # shellcheck disable=SC2046
  get install $(cat "$job/packages")
  if [ -n "$again" ]; then
    say phase documentation
    # shellcheck disable=SC2086
    get install --reinstall $again
  fi
  # shellcheck disable=SC2086
  in_root apt-mark --quiet unhold $kernels > /dev/null
  get clean
  # What packages want at boot is left out, as in the base: `run` can enable it.
  boot_links | comm -13 "$OUT/links.before" - | while read -r link; do
    case $link in
      */system-generators/*) ln -sf /dev/null "$root/etc/systemd/system-generators/${link##*/}" ;;
      *) rm -f "$link" ;;
    esac
  done
  rm "$OUT/links.before" "$OUT/known"
  [ ! -e "$OUT/sources.list.kept" ] || mv "$OUT/sources.list.kept" "$root/etc/apt/sources.list"
}

# By the cp of the image: a link in its tree must not lead to a place of the host.
copy_files() {
  for number in $(numbers "$job/files"); do
    mkdir "$root/ai-how-job"
    mv "$job/files/$number" "$root/ai-how-job/data"
    target=$(cat "$job/files/$number.target")
    in_root mkdir -p -- "${target%/*}/"
    in_root cp -R --no-target-directory --preserve=mode,timestamps --remove-destination -- /ai-how-job/data "$target"
    rm -rf "$root/ai-how-job"
  done
}

run_commands() {
  mkdir "$root/ai-how-job"
  for number in $(numbers "$job/run"); do
    say phase run "$number"
    if [ -e "$job/run/$number.script" ]; then
      cp "$job/run/$number.script" "$root/ai-how-job/script"
      chmod 0755 "$root/ai-how-job/script"
    fi
    cp "$job/run/$number" "$root/ai-how-job/command"
    # Of a script for bash, the line that failed is said.
    printf 'unset BASH_ENV; set -E; trap '\''echo "ai-how: line $LINENO: $BASH_COMMAND" >&2'\'' ERR\n' > "$root/ai-how-job/trap"
    in_root env BASH_ENV=/ai-how-job/trap sh -e /ai-how-job/command || {
      code=$?
      say failed "$code"
      exit "$code"
    }
  done
  rm -rf "$root/ai-how-job"
}

say phase unpack
mkdir "$root"
zstd -q -d -c "$BASE" | tar -x -p -C "$root" --numeric-owner --xattrs --xattrs-include='*' -f -
mount -t tmpfs tmpfs "$PLACE"
mount_system
printf '#!/bin/sh\nexit 101\n' > "$root/usr/sbin/policy-rc.d"
chmod 0755 "$root/usr/sbin/policy-rc.d"
cat /etc/resolv.conf > "$root/etc/resolv.conf"
bundle=$root/etc/ssl/certs/ca-certificates.crt
trust_host
install_packages
trust_host
if [ -d "$job/files" ]; then
  say phase files
  copy_files
fi
if [ -d "$job/run" ]; then
  run_commands
fi
# Nothing that a script has left running writes any more.
kill -KILL -1 2> /dev/null || :
say phase pack
distrust_host
rm -f "$root/usr/sbin/policy-rc.d"
for mounted in run dev/shm dev/pts dev sys proc; do
  umount -l "$root/$mounted"
done
find "$root/tmp" -mindepth 1 -delete
forget_identity
list_packages
pack
say phase clean
rm -rf "$root" "$job"
