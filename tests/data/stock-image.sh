#!/bin/sh
# stock-image.sh ROOT: run by mmdebstrap when the packages are in, in its mount namespace. Makes ROOT a stock image.
# $OUT gets bios.raw, uefi.raw and repository/. By environment: SUITE, OUT, EXTRA, IMAGE_BYTES, ROOT_START, FS_UUID,
# ROOT_UUID and ESP_UUID (of the root file system, of its partition, and of the other partition).
set -eu
root=$1
root_start=$ROOT_START esp_start=8192 esp_sectors=253952 # as in Debian's cloud images
root_sectors=$((IMAGE_BYTES / 512 - root_start - 2048))
in_root() { chroot "$root" "$@"; }
say() { printf 'stock: %s %s\n' "$(date +%T)" "$*"; }

say "the repository"
# apt from outside, with the lists and the dpkg status of ROOT: what is in the image is not in the repository.
# shellcheck disable=SC2086 # EXTRA is a list of words
APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get install --yes --download-only --no-install-recommends \
  -o Dir::Cache::Archives="$OUT/repository" $EXTRA
rm -rf "$OUT/repository/lock" "$OUT/repository/partial"
mount --bind "$OUT/repository" "$root/mnt"
in_root sh -c 'cd /mnt && apt-ftparchive packages . > Packages && gzip -k1 Packages && apt-ftparchive release . > /tmp/Release'
mv "$root/tmp/Release" "$OUT/repository/Release"
umount "$root/mnt"

say "settings"
mkdir -p "$root/etc/netplan"
{
  printf 'network:\n    version: 2\n    ethernets:\n'
  for kind in en eth; do
    printf '        all-%s:\n            match:\n                name: %s*\n' "$kind" "$kind"
    for family in 4 6; do
      printf '            dhcp%s: true\n            dhcp%s-overrides:\n                use-domains: true\n' "$family" "$family"
    done
  done
} > "$root/etc/netplan/90-default.yaml"
chmod 600 "$root/etc/netplan/90-default.yaml"
# Debian's images name Debian's own mirror: these name the one that a test serves.
rm -rf "$root/etc/apt/sources.list" "$root"/etc/apt/sources.list.d/* "$root/etc/apt/mirrors"
echo "deb [trusted=yes] http://$REPOSITORY_HOST/ ./" > "$root/etc/apt/sources.list.d/packages.list"
cat > "$root/etc/cloud/cloud.cfg.d/01_debian_cloud.cfg" <<'END'
apt:
  generate_mirrorlists: true

system_info:
  default_user:
    name: debian
    gecos: Debian
    groups: [adm, audio, cdrom, dialout, dip, floppy, plugdev, sudo, video]
    lock_passwd: true
    shell: /bin/bash
    sudo: ["ALL=(ALL) NOPASSWD:ALL"]
  package_mirrors:
  - arches: [default]
    failsafe:
      primary: https://deb.debian.org/debian
      security: https://deb.debian.org/debian-security
END
echo LANG=C.UTF-8 > "$root/etc/default/locale" # otherwise cloud-init asks for one that is not generated
in_root systemctl --quiet enable systemd-networkd.service systemd-resolved.service

say "GRUB"
for target in i386-pc x86_64-efi; do
  mkdir -p "$root/boot/grub/$target"
  cp "$root/usr/lib/grub/$target"/*.mod "$root/usr/lib/grub/$target"/*.lst "$root/boot/grub/$target/"
done
mkdir -p "$root/boot/grub/fonts" "$root/boot/efi"
cp "$root/usr/share/grub/unicode.pf2" "$root/boot/grub/fonts/"
in_root grub-editenv /boot/grub/grubenv create
# What grub-probe would say in the finished image: here, / is a directory of the host.
cat > "$root/tmp/grub-probe" <<END
#!/bin/sh
case "\$*" in
  *fs_uuid*) echo $FS_UUID ;;
  *partuuid*) echo $ROOT_UUID ;;
  *partmap*) echo gpt ;;
  *compatibility_hint*) echo hd0,gpt1 ;;
  *hints_string*) echo '--hint-bios=hd0,gpt1 --hint-efi=hd0,gpt1 --hint-baremetal=ahci0,gpt1 ' ;;
  *=device*) echo PARTUUID=$ROOT_UUID ;;
  *=fs* | *"-t fs"*) echo ext2 ;;
esac
END
chmod 755 "$root/tmp/grub-probe"
mount --bind "$root/tmp/grub-probe" "$root/usr/sbin/grub-probe"
in_root update-grub
umount "$root/usr/sbin/grub-probe"
# shellcheck disable=SC2016 # these are variables of GRUB
printf 'search.fs_uuid %s root\nset prefix=($root)/boot/grub\n' "$FS_UUID" > "$root/boot/grub/load.cfg"
in_root grub-mkimage --directory=/usr/lib/grub/i386-pc --format=i386-pc --prefix=/boot/grub \
  --config=/boot/grub/load.cfg --output=/boot/grub/i386-pc/core.img biosdisk part_gpt ext2 search_fs_uuid
cp "$root/usr/lib/grub/i386-pc/boot.img" "$root/boot/grub/i386-pc/"
cp "$root/boot/grub/i386-pc/boot.img" "$root/boot/grub/i386-pc/core.img" "$OUT/"
echo "configfile \$prefix/grub.cfg" >> "$root/boot/grub/load.cfg"
# Where there is no Secure Boot, the signed GRUB starts without shim; its own configuration is in EFI/debian.
esp="$OUT/efi"
mkdir -p "$esp/EFI/BOOT" "$esp/EFI/debian"
cp "$root/usr/lib/shim/shimx64.efi.signed" "$esp/EFI/debian/shimx64.efi"
cp "$root/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed" "$esp/EFI/debian/grubx64.efi"
cp "$root/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed" "$esp/EFI/BOOT/BOOTX64.EFI"
mv "$root/boot/grub/load.cfg" "$esp/EFI/debian/grub.cfg"

say "clean-up"
rm -f "$root"/etc/ssh/ssh_host_* "$root/etc/mailname" "$root/var/lib/dbus/machine-id" "$root/tmp/grub-probe" \
  "$root"/etc/apt/apt.conf.d/*mmdebstrap "$root"/etc/dpkg/dpkg.cfg.d/*mmdebstrap "$root"/var/cache/apt/*.bin \
  "$root/var/log/alternatives.log" "$root/var/log/bootstrap.log" "$root/var/log/dpkg.log"
# What kept services from being started while packages were installed.
rm -f "$root/usr/sbin/policy-rc.d"
[ ! -e "$root/sbin/start-stop-daemon.REAL" ] || mv "$root/sbin/start-stop-daemon.REAL" "$root/sbin/start-stop-daemon"
find "$root/var/lib/apt/lists" "$root/var/cache/apt/archives" -type f -delete
rm -rf "$root/var/log/apt" "$root/var/lib/cloud" "$root/etc/resolv.conf"
ln -s ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
: > "$root/etc/hostname"
: > "$root/etc/machine-id"

say "the disk"
truncate -s "$IMAGE_BYTES" "$OUT/bios.raw"
sfdisk --quiet "$OUT/bios.raw" <<END
label: gpt
14 : start=2048, size=6144, type=21686148-6449-6E6F-744E-656564454649
15 : start=$esp_start, size=$esp_sectors, type=uefi, uuid=$ESP_UUID
1 : start=$root_start, size=$root_sectors, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, uuid=$ROOT_UUID
END
truncate -s $((esp_sectors * 512)) "$OUT/esp.raw"
mkfs.vfat "$OUT/esp.raw" > "$OUT/mkfs.log"
mcopy -i "$OUT/esp.raw" -s "$esp/EFI" ::
dd if="$OUT/esp.raw" of="$OUT/bios.raw" bs=512 seek=$esp_start conv=notrunc,sparse status=none
# Bound elsewhere, ROOT is without the mounts in it.
mkdir "$OUT/tree"
mount --bind "$root" "$OUT/tree"
mke2fs -q -F -t ext4 -b 4096 -O ^orphan_file,^metadata_csum_seed -U "$FS_UUID" -d "$OUT/tree" \
  -E offset=$((root_start * 512)),root_owner=0:0 "$OUT/bios.raw" $((root_sectors / 8))
umount "$OUT/tree"
say "done"
