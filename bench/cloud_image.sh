#!/bin/sh
# cloud_image.sh IMAGE.qcow2: makes a cloud image as a distribution ships them, for the tools that we are measured with.
# Debian trixie: GRUB, the generic kernel with its own initramfs, cloud-init, netplan and networkd, OpenSSH. Needs root.
# What Debian's own image has beside that (AppArmor, apt's timers, man pages) is left out: it would only slow them down.
set -eu
self=$(readlink -f "$0")

packages=linux-image-amd64,initramfs-tools,grub-pc-bin,grub-common,systemd-sysv,systemd-resolved,udev,dbus,libpam-systemd
packages=$packages,cloud-init,cloud-guest-utils,netplan.io,openssh-server,sudo,python3,iproute2,iputils-ping,ca-certificates
packages=$packages,e2fsprogs,fdisk,procps,less,nano,rsync

build() {
  image=$(realpath -m "$1")
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  OUT=$work mmdebstrap --mode=root --variant=minbase --format=null --quiet \
    --aptopt='Apt::Install-Recommends "false"' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
    --customize-hook="sh '$self' --customize \"\$1\"" \
    --include="$packages" trixie /dev/null
  qemu-img convert -f raw -O qcow2 "$work/disk.raw" "$image.draft"
  mv "$image.draft" "$image"
}

# Run by mmdebstrap when the packages are in.
customize() {
  root=$1
  printf 'LABEL=root / ext4 rw,discard,errors=remount-ro,x-systemd.growfs 0 1\n' > "$root/etc/fstab"
  : > "$root/etc/machine-id"
  rm -f "$root"/etc/ssh/ssh_host_* "$root/etc/hostname" "$root/var/lib/dbus/machine-id"
  ln -sf ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
  chroot "$root" systemctl --quiet enable systemd-networkd.service systemd-resolved.service ssh.service
  # As in Debian's images: nothing waits for a datasource that is not a disk.
  printf 'datasource_list: [ NoCloud, ConfigDrive, None ]\n' > "$root/etc/cloud/cloud.cfg.d/90_dpkg.cfg"
  # Else the first boot makes the linker's cache and the journal's catalogue again.
  touch "$root/etc/.updated" "$root/var/.updated"
  rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin "$root"/var/log/*.log
  install_grub
  make_disk
}

install_grub() {
  mkdir -p "$root/boot/grub/i386-pc"
  cp "$root"/usr/lib/grub/i386-pc/*.mod "$root"/usr/lib/grub/i386-pc/*.lst "$root/boot/grub/i386-pc/"
  cat > "$root/boot/grub/grub.cfg" <<'GRUB'
serial --unit=0 --speed=115200
terminal_input console serial
terminal_output console serial
set timeout=0
menuentry Debian {
  search --no-floppy --label root --set=root
  linux /vmlinuz root=LABEL=root ro quiet console=tty0 console=ttyS0,115200
  initrd /initrd.img
}
GRUB
  chroot "$root" grub-mkimage -O i386-pc -p '(hd0,msdos1)/boot/grub' -o /boot/grub/i386-pc/core.img \
    biosdisk part_msdos ext2 normal linux search search_label configfile serial terminal echo minicmd
}

# A disk with one partition, and GRUB before it, without a loop device: boot.img and core.img know by
# default that the latter begins at the second sector.
make_disk() {
  disk=$OUT/disk.raw
  grub=$OUT/grub
  mkdir "$grub"
  cp "$root/usr/lib/grub/i386-pc/boot.img" "$root/boot/grub/i386-pc/core.img" "$grub/"
  truncate -s 3071M "$OUT/root.raw"
  mount --bind "$root" /mnt 2> /dev/null && tree=/mnt || tree=$root
  mke2fs -q -t ext4 -L root -m 1 -O ^metadata_csum_seed,^orphan_file -E lazy_itable_init=1,lazy_journal_init=1,discard \
    -d "$tree" "$OUT/root.raw"
  [ "$tree" = "$root" ] || umount /mnt
  truncate -s 3072M "$disk"
  dd if="$grub/boot.img" of="$disk" conv=notrunc bs=440 count=1 status=none
  dd if="$grub/core.img" of="$disk" conv=notrunc bs=512 seek=1 status=none
  dd if="$OUT/root.raw" of="$disk" conv=notrunc,sparse bs=1M seek=1 status=none
  # The one partition, active, of type 83: from sector 2048, 3071 MiB long. Then the signature.
  printf '\200\376\377\377\203\376\377\377\000\010\000\000\000\370\137\000' |
    dd of="$disk" conv=notrunc bs=1 seek=446 status=none
  printf '\125\252' | dd of="$disk" conv=notrunc bs=1 seek=510 status=none
  rm "$OUT/root.raw"
}

case $1 in
  --customize) customize "$2" ;;
  *) build "$1" ;;
esac
