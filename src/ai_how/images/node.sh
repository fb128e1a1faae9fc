#!/bin/sh
# node.sh: sourced by what makes nodes' software: what our own image and a prepared one of others have in common. $root is
# the tree of files, empty for that of the running system.

: "${root?}"

# Our programs and units, over what the packages brought.
lay_over() {
  cp -R --no-preserve=ownership "$1/." "$root/"
  find "$root/usr/lib/ai-how" -type f -exec chmod 0755 {} +
  find "$root/etc/systemd/system" "$root/etc/systemd/journald.conf.d" "$root/etc/ssh/sshd_config.d" \
    "$root/etc/ssh/ssh_config.d" -type f -exec chmod 0644 {} +
}

fit_software() {
  # SLURM of bookworm runs in the foreground instead.
  grep -q -e --systemd "$root/usr/lib/systemd/system/slurmd.service" ||
    sed -i 's/--systemd/-D -s/' "$root/etc/systemd/system/slurmd.service.d/ai-how.conf"
  # There munge waits for time-sync.target, and that for chronyd, which then cannot wait for SLURM.
  ! grep -q time-sync.target "$root/usr/lib/systemd/system/munge.service" ||
    sed -i '/^After=/d' "$root/etc/systemd/system/chrony.service.d/ai-how.conf"
  # There it also asks for PMIx by a name that only the package for developers has.
  for library in "$root"/usr/lib/*/pmix2/lib/libpmix.so.2; do
    [ ! -e "$library" ] || [ -e "${library%.2}" ] || ln -s libpmix.so.2 "${library%.2}"
  done
  mkdir -p "$root/etc/slurm" "$root/etc/ssh/authorized_keys.d" "$root/var/spool/slurmctld" "$root/var/spool/slurmd"
  rm -f "$root/etc/slurm/plugstack.conf"
  # NFS version 4 alone, which needs no rpcbind and no statd.
  mkdir -p "$root/etc/nfs.conf.d"
  printf '[nfsd]\nvers2=n\nvers3=n\nthreads=4\ngrace-time=10\nlease-time=10\n' > "$root/etc/nfs.conf.d/ai-how.conf"
  # With forky's settings, programs would reach only those on their own node.
  [ ! -e "$root/etc/openmpi/openmpi-mca-params.conf" ] ||
    sed -i 's/^btl_tcp_if_include=lo$/# &/' "$root/etc/openmpi/openmpi-mca-params.conf"
  # A login has the locale that is there, whatever that of the user's own machine is called.
  sed -i 's/^AcceptEnv .*/AcceptEnv COLORTERM NO_COLOR/' "$root/etc/ssh/sshd_config"
}
