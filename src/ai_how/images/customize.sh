#!/bin/sh
# customize.sh ROOT: run by mmdebstrap when the packages are in, in its namespace. Makes ROOT an image in $OUT.
# IMAGE_BYTES, TREE (the file tree to lay over), INIT (the initrd's /init), NODE (node.sh), PACK (pack.sh) and OUT come by
# environment.
set -eu
root=$1
# shellcheck source=src/ai_how/images/pack.sh
. "$PACK"
# shellcheck source=src/ai_how/images/node.sh
. "$NODE"
lay_over "$TREE"
fit_software

in_root() { chroot "$root" "$@"; }
in_root systemctl --quiet set-default multi-user.target
for unit in munge.service slurmctld.service slurmd.service nfs-server.service ssh.service chrony.service \
  rpcbind.service rpcbind.socket nfs-blkmap.service nfs-client.target remote-fs.target; do
  [ ! -e "$root/usr/lib/systemd/system/$unit" ] || in_root systemctl --quiet disable "$unit"
done
# Whatever else a package wants at boot is left out: a node's first boot leads to the guest agent and no further.
# Identity starts the services of the role, and ai-how-after.service the rest when the node has joined.
for wants in "$root"/etc/systemd/system/*.wants "$root"/etc/systemd/system/*.requires; do
  rm -rf "$wants"
done
for unit in "$root"/usr/lib/systemd/system/sysinit.target.wants/* "$root"/usr/lib/systemd/system/sockets.target.wants/* \
  "$root"/usr/lib/systemd/system/multi-user.target.wants/* "$root"/usr/lib/systemd/system/timers.target.wants/* \
  "$root"/usr/lib/systemd/system/local-fs.target.wants/* "$root"/usr/lib/systemd/system/basic.target.wants/* \
  "$root"/usr/lib/systemd/system/getty.target.wants/* "$root"/usr/lib/systemd/system/rescue.target.wants/*; do
  case ${unit##*/} in
    systemd-journald.service | systemd-journald.socket | systemd-journald-dev-log.socket | dbus.socket) ;;
    *) rm -f "$unit" ;;
  esac
done
mkdir -p "$root/etc/systemd/system-generators"
for generator in "$root"/usr/lib/systemd/system-generators/*; do
  case ${generator##*/} in
    systemd-fstab-generator) ;; # what users write into /etc/fstab works
    *) ln -sf /dev/null "$root/etc/systemd/system-generators/${generator##*/}" ;;
  esac
done
for unit in systemd-remount-fs.service tmp.mount run-lock.mount apt-daily.timer apt-daily-upgrade.timer \
  systemd-update-utmp.service systemd-journal-flush.service \
  rpcbind.service rpcbind.socket rpc-statd.service rpc-statd-notify.service nfs-blkmap.service nfs-idmapd.service \
  auth-rpcgss-module.service rpc-gssd.service rpc-svcgssd.service fsidd.service; do
  ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
in_root systemctl --quiet enable ai-how-network.service ai-how-role.service qemu-guest-agent.service ai-how-journal.service

forget_identity
printf '127.0.0.1 localhost\n' > "$root/etc/hosts"
chroot "$root" chown slurm:slurm /var/spool/slurmctld
# A locale that is there, whatever that of the user who logs in is called.
printf 'LANG=C.UTF-8\n' > "$root/etc/locale.conf"
ln -sf ../locale.conf "$root/etc/default/locale"
# bookworm empties /tmp when it boots, which here is minutes after that: jobs would lose their files.
sed 's/^D /q /' "$root/usr/lib/tmpfiles.d/tmp.conf" > "$root/etc/tmpfiles.d/tmp.conf"
# Logins are let in by systemd-user-sessions, which is not started: nothing may shut them out, then.
ln -sf /dev/null "$root/etc/tmpfiles.d/systemd-nologin.conf"

version=$(ls "$root/usr/lib/modules" | sort -V | tail -n 1)
modules=$root/usr/lib/modules/$version/kernel
# What a node loads on its way. Some of these are part of the kernel itself, others are in other suites.
initrd_modules='drivers/virtio/virtio_ring drivers/virtio/virtio drivers/virtio/virtio_pci_legacy_dev
  drivers/virtio/virtio_pci_modern_dev drivers/virtio/virtio_pci drivers/char/virtio_console drivers/block/virtio_blk
  net/core/failover drivers/net/net_failover drivers/net/virtio_net
  drivers/misc/pvpanic/pvpanic drivers/misc/pvpanic/pvpanic-mmio'
for module in $initrd_modules fs/nfs fs/nfsd fs/nfs_common fs/lockd fs/netfs net/sunrpc net/dns_resolver fs/autofs \
  net/netfilter/nfnetlink net/netfilter/x_tables net/ipv4/netfilter/ip_tables \
  drivers/virtio drivers/firmware/qemu_fw_cfg drivers/char/hw_random/virtio-rng; do
  find "$modules/$module" "$modules/$module.ko" "$modules/$module.ko.xz" -name '*.ko' -o -name '*.ko.xz' 2> /dev/null |
    unpack_modules
done
in_root depmod "$version"
work=$OUT/initrd.d
mkdir -p "$work/modules" "$work/bin" "$work/dev" "$work/root"
cp "$INIT" "$work/init"
chmod 0755 "$work/init"
cp "$root/usr/bin/busybox" "$work/bin/busybox"
number=10
for module in $initrd_modules; do
  [ -e "$modules/$module.ko" ] || continue
  cp "$modules/$module.ko" "$work/modules/$number-${module##*/}.ko"
  number=$((number + 1))
done
(cd "$work" && find . -print0 | sort -z | cpio --quiet --null -o -H newc --owner 0:0 > "$OUT/initrd")
rm -rf "$work"

cp "$root/boot/vmlinuz-$version" "$OUT/bzImage"
rm -rf "${root:?}"/boot/* "$root"/initrd.img* "$root"/vmlinuz*
# It was for this build alone.
sed -i '/Check-Valid-Until/d' "$root/etc/apt/apt.conf.d/99mmdebstrap"
list_packages
# mmdebstrap takes what it keeps there away when this is over.
mkdir "$OUT/tmp.d"
find "$root/tmp" -mindepth 1 -maxdepth 1 -exec mv -t "$OUT/tmp.d" {} +
pack
find "$OUT/tmp.d" -mindepth 1 -maxdepth 1 -exec mv -t "$root/tmp" {} +
rmdir "$OUT/tmp.d"
