#!/bin/sh
# pack.sh: sourced by what makes an image. From the tree of files $root it makes those of an image in $OUT, and
# nothing there keeps an identity: every node gets its own. IMAGE_BYTES is the least size of the disk, $PLACE a tmpfs.

: "${root:?}" "${OUT:?}" "${PLACE:?}" "${IMAGE_BYTES:?}"

forget_identity() {
  rm -f "$root"/etc/ssh/ssh_host_* "$root/etc/munge/munge.key" "$root/etc/hostname" "$root/var/lib/dbus/machine-id"
  : > "$root/etc/machine-id"
  rm -f "$root/etc/resolv.conf"
  rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin "$root"/var/cache/apt/archives/*.deb \
    "$root"/var/cache/debconf/*-old "$root"/var/log/*.log "$root"/var/log/apt "$root"/root/.ssh
}

# unpack_modules: those whose files are on stdin, a line each, are kept unpacked and without their signature: unpacking, and
# looking at that, is what loading costs under emulation (80 ms a module and 60 ns a byte). The kernel then calls itself
# tainted (E), and works as before. depmod is for the caller.
unpack_modules() {
  while read -r file; do
    case $file in *.xz) xz -d "$file" ;; esac
    drop_signature "${file%.xz}"
  done
}

drop_signature() {
  [ "$(tail -c 28 "$1" | tr -d '\0')" = '~Module signature appended~' ] || return 0
  # Its end is the kernel's struct module_signature: 12 bytes, the last four of them its length, big endian; and that mark.
  # shellcheck disable=SC2046
  set -- "$1" $(tail -c 32 "$1" | head -c 4 | od -An -v -t u1)
  truncate -s "-$((40 + (($2 * 256 + $3) * 256 + $4) * 256 + $5))" "$1"
}

list_packages() {
  # shellcheck disable=SC2016
  chroot "$root" dpkg-query --show --showformat \
    '${Package}\t${Version}\t${Architecture}\t${source:Package}\t${source:Version}\n' > "$OUT/packages.tsv"
}

# The disk, and the compressed tree that other images are made from.
pack() {
  # What is mounted in the tree is not in here.
  mkdir "$PLACE/tree"
  mount --bind "$root" "$PLACE/tree"
  used_kib=$(du -skx "$PLACE/tree" | cut -f 1)
  files=$(find "$PLACE/tree" -xdev | wc -l)
  bytes=$(((used_kib * 5 / 4 + 524288) * 1024))
  gib=$((1 << 30))
  if [ "$bytes" -gt "$IMAGE_BYTES" ]; then bytes=$(((bytes + gib - 1) / gib * gib)); else bytes=$IMAGE_BYTES; fi
  inodes=$((files * 5 / 4))
  [ "$inodes" -gt $((bytes / 16384)) ] || inodes=$((bytes / 16384))
  truncate -s "$bytes" "$OUT/disk.raw"
  # What a device is was decided by the kernel that ran here; that of a node decides for itself.
  (tar -c -C "$PLACE/tree" --one-file-system --numeric-owner --xattrs --xattrs-include='*' --exclude='./dev/*' -f - . ||
    : > "$OUT/tar-failed") | zstd -q -1 -T0 -o "$OUT/tree.tar.zst" &
  mke2fs -q -t ext4 -L root -m 1 -N "$inodes" -O ^metadata_csum_seed,^orphan_file \
    -E lazy_itable_init=1,lazy_journal_init=1,discard -d "$PLACE/tree" "$OUT/disk.raw"
  wait $!
  [ ! -e "$OUT/tar-failed" ] || exit 1
  umount "$PLACE/tree"
}
