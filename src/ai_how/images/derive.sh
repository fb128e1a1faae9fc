#!/bin/sh
# derive.sh PHASE: makes an image from the tree of another one, as root of a namespace in which it is PID 1. `make` unpacks
# the packed tree BASE to $OUT/root, and becomes INSIDE (derive-inside.sh) there, by PYTHON and pivot.py: no program of the
# image ever sees the host. `pack` is for a namespace of its own, after the end of the first.
# What INSIDE reads is in $OUT/job. PACK is pack.sh, IMAGE_BYTES the least size of the disk.
set -eu
[ $$ = 1 ] || exit 70
root=$OUT/root
job=$OUT/job

# The line that ai-how follows.
say() { printf 'ai-how: %s\n' "$*"; }

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


make() {
  say phase unpack
  mkdir "$root"
  zstd -q -d -c "$BASE" | tar -x -p -C "$root" --numeric-owner --xattrs --xattrs-include='*' -f -
  mkdir "$root/ai-how-job"
  # A link there would lead to a place of the host.
  for place in proc sys dev run; do
    if [ ! -d "$root/$place" ] || [ -L "$root/$place" ]; then
      echo "/$place of the base is no directory"
      exit 1
    fi
  done
  cat /etc/resolv.conf > "$job/resolv.conf"
  cat "$PACK" > "$job/pack.sh"
  cat "$INSIDE" > "$job/inside.sh"
  mount --bind "$root" "$root"
  mount_system
  mount --bind "$job" "$root/ai-how-job"
  exec "$PYTHON" -I -m ai_how.images.pivot "$root" /bin/sh /ai-how-job/inside.sh
}

# With the tools of the host, of which none follows a link of the tree.
pack_tree() {
  # shellcheck source=src/ai_how/images/pack.sh
  . "$PACK"
  if [ ! -f "$job/packages.tsv" ] || [ -L "$job/packages.tsv" ]; then
    echo "the list of packages is no file"
    exit 1
  fi
  cat "$job/packages.tsv" > "$OUT/packages.tsv"
  rm -rf "$root/ai-how-job"
  mount -t tmpfs tmpfs "$PLACE"
  pack
  say phase clean
  rm -rf "$root" "$job"
}

case $1 in
  make) make ;;
  pack) pack_tree ;;
esac
