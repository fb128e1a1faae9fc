#!/bin/sh
# prepare.sh: run as root in a VM of an imported image, once. It adds what nodes need and the image lacks, from the packages
# of its own distribution, and takes away what would be the same in all nodes. Beside it are node.sh, rootfs/ and
# of_imported/ (trees to lay over), identity and outside.d/ (how this host reaches the outside), sources.list (if packages
# shall come from there). What it prints is read by images/preparing.py. It ends with the end of the VM.
set -eu
here=${0%/*}
user=$1
# shellcheck disable=SC2034
root= # for node.sh
export LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
# shellcheck source=src/ai_how/images/node.sh
. "$here/node.sh"

# The lines that ai-how follows.
say() { printf 'ai-how: %s\n' "$*"; }
fail() {
  say failed "$*"
  exit 1
}

has() { command -v "$1" > /dev/null 2>&1; }

# What is not there yet: a command or file by which it is known, and its packages of Debian and of Enterprise Linux.
missing_packages() {
  while read -r known debian enterprise; do
    case $known in
      /*) [ ! -e "$known" ] || continue ;;
      *) ! has "$known" || continue ;;
    esac
    if [ "$manager" = apt ]; then echo "$debian"; else echo "$enterprise"; fi
  done << EOF
slurmctld slurmctld slurm-slurmctld
slurmd slurmd slurm-slurmd
srun slurm-client slurm
munged munge munge
mpirun openmpi-bin openmpi
/usr/lib/python3/dist-packages/mpi4py python3-mpi4py python3-mpi4py-openmpi
exportfs nfs-kernel-server nfs-utils
mount.nfs4 nfs-common nfs-utils
chronyd chrony chrony
qemu-ga qemu-guest-agent qemu-guest-agent
growpart cloud-guest-utils cloud-utils-growpart
sshd openssh-server openssh-server
sudo sudo sudo
modprobe kmod kmod
/etc/ssl/certs ca-certificates ca-certificates
$busybox
EOF
}

# Under emulation each program costs a third of a second: only the one with all its tools in its shell serves.
busybox_line() {
  if [ "$manager" = apt ]; then
    if dpkg-query --show --showformat '${db:Status-Status}' busybox-static 2> /dev/null | grep -q '^installed$'; then
      echo 'sh - -'
    else
      echo '/ai-how/none busybox-static -'
    fi
  else
    echo '/usr/bin/busybox - busybox'
  fi
}

install_apt() {
  if [ -e "$here/sources.list" ]; then
    mkdir -p "$here/empty"
    set -- -o "Dir::Etc::SourceList=$here/sources.list" -o "Dir::Etc::SourceParts=$here/empty"
  else
    set --
  fi
  say phase update
  apt-get "$@" --quiet -o DPkg::Lock::Timeout=300 -o APT::Update::Error-Mode=any -o Acquire::Retries=2 update || return 1
  say phase install
  # Nothing is started here, so no package needs to have systemd read all units again: that takes it seconds each time.
  # shellcheck disable=SC2086
  SYSTEMD_OFFLINE=1 apt-get "$@" --quiet --yes --no-install-recommends -o DPkg::Lock::Timeout=300 -o DPkg::Use-Pty=0 \
    -o Dpkg::Options::=--force-confold -o Dpkg::Options::=--force-unsafe-io -o Acquire::Retries=2 \
    install $packages || return 1
  apt-get clean
}

# SLURM is in EPEL, and what that needs in a repository that is off at first.
install_dnf() {
  say phase update
  dnf --quiet --assumeyes install epel-release || return 1
  dnf --quiet --assumeyes install dnf-plugins-core || :
  dnf config-manager --set-enabled crb > /dev/null 2>&1 || dnf config-manager --set-enabled powertools > /dev/null 2>&1 || :
  say phase install
  # shellcheck disable=SC2086
  dnf --quiet --assumeyes --setopt=install_weak_deps=False install $packages || return 1
  dnf --quiet clean all || :
}

install_missing() {
  busybox=$(busybox_line)
  packages=$(missing_packages | sort -u | tr '\n' ' ')
  [ -n "${packages% }" ] || return 0
  say missing "$packages"
  # A package that starts its services would have them run without an identity.
  printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
  chmod 0755 /usr/sbin/policy-rc.d
  # The kernel stays, and so does its initrd; the index of manuals is made by its timer.
  put_aside /etc/initramfs-tools/update-initramfs.conf
  put_aside /var/lib/man-db/auto-update
  [ ! -d /etc/initramfs-tools ] || echo update_initramfs=no > /etc/initramfs-tools/update-initramfs.conf
  "install_$manager" || fail packages
  put_back /etc/initramfs-tools/update-initramfs.conf
  put_back /var/lib/man-db/auto-update
  rm -f /usr/sbin/policy-rc.d
}

put_aside() { [ ! -e "$1" ] || mv "$1" "$1.ai-how"; }

put_back() { [ ! -e "$1.ai-how" ] || mv "$1.ai-how" "$1"; }

# Certificates of the host are no secret. Its proxies may have a password: they stay in the memory of this VM.
set_outside() {
  mkdir -p /etc/ai-how/outside.d
  cp "$here/identity" /etc/ai-how/identity
  [ ! -e "$here/outside.d/certificates" ] || cp "$here/outside.d/certificates" /etc/ai-how/outside.d/
  sh "$here/rootfs/usr/lib/ai-how/outside"
  if [ -e "$here/outside.d/environment" ]; then
    while read -r setting; do
      export "${setting?}"
    done < "$here/outside.d/environment"
  fi
  [ ! -e "$here/outside.d/apt.conf" ] || export APT_CONFIG="$here/outside.d/apt.conf"
}

forget_outside() {
  printf 'OUTSIDE=""\n' > /etc/ai-how/identity
  sh /usr/lib/ai-how/outside
  rm -rf /etc/ai-how /var/lib/ai-how-outside
}

# Of these units, those that there are. Under emulation each question to systemd takes a second, so it is asked once.
present() {
  for one; do
    ! printf '%s\n' "$units" | grep -qx "$one" || echo "$one"
  done
}

# Another name of a unit, where the distribution has another one than Debian.
alias_unit() {
  if [ -n "$(present "$1")" ] && [ -z "$(present "$2")" ]; then
    for directory in /lib/systemd/system /usr/lib/systemd/system /etc/systemd/system; do
      [ ! -e "$directory/$1" ] || ln -sf "$directory/$1" "/etc/systemd/system/$2"
    done
  fi
}

set_units() {
  # From the disk: systemd has not read the units that the packages brought.
  units=$(SYSTEMD_OFFLINE=1 systemctl list-unit-files --no-legend --plain --no-pager | cut -d ' ' -f 1)
  # The identity says which of these a node runs.
  ours=$(present munge.service slurmctld.service slurmd.service slurmdbd.service nfs-server.service \
    nfs-kernel-server.service chrony.service chronyd.service ssh.service ssh.socket sshd.service sshd.socket \
    nfs-client.target)
  # Addresses, names and time come with the identity, and NFS is version 4 alone. Nothing updates or locks by itself.
  masked=$(present systemd-networkd.service systemd-networkd.socket systemd-networkd-wait-online.service \
    NetworkManager.service NetworkManager-wait-online.service networking.service systemd-resolved.service \
    systemd-timesyncd.service cloud-init.service cloud-init-local.service cloud-init-main.service \
    cloud-init-network.service cloud-config.service cloud-final.service apt-daily.timer apt-daily-upgrade.timer \
    unattended-upgrades.service dnf-makecache.timer dnf-automatic.timer firewalld.service ufw.service snapd.service \
    snapd.socket snapd.seeded.service rpcbind.service rpcbind.socket rpc-statd.service rpc-statd-notify.service \
    nfs-blkmap.service nfs-idmapd.service auth-rpcgss-module.service rpc-gssd.service rpc-svcgssd.service fsidd.service)
  # shellcheck disable=SC2086
  SYSTEMD_OFFLINE=1 systemctl --quiet disable $ours $masked 2> /dev/null || :
  for one in $masked; do
    ln -sf /dev/null "/etc/systemd/system/$one"
  done
  # By this, a controller would mount what it serves before it serves it: each node has a home.mount.
  mkdir -p /etc/systemd/system-generators
  ln -sf /dev/null /etc/systemd/system-generators/nfs-server-generator
  alias_unit sshd.service ssh.service
  alias_unit sshd.socket ssh.socket
  alias_unit chronyd.service chrony.service
  if [ ! -d /etc/chrony ]; then
    mkdir /etc/chrony
    ln -sf chrony/chrony.conf /etc/chrony.conf
  fi
  SYSTEMD_OFFLINE=1 systemctl --quiet enable ai-how-network.service ai-how-role.service ai-how-journal.service \
    ai-how-clocksource.service qemu-guest-agent.service
  SYSTEMD_OFFLINE=1 systemctl --quiet set-default multi-user.target
}

# No wait for a menu, and a network card that is called eth0.
set_boot_loader() {
  if has update-grub; then
    mkdir -p /etc/default/grub.d
    cat > /etc/default/grub.d/zz-ai-how.cfg << 'EOF'
GRUB_TIMEOUT=0
GRUB_RECORDFAIL_TIMEOUT=0
GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX net.ifnames=0"
case " $GRUB_CMDLINE_LINUX $GRUB_CMDLINE_LINUX_DEFAULT " in
  *" console=ttyS0"*) ;;
  *) GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX console=ttyS0" ;;
esac
EOF
    update-grub > /dev/null 2>&1 || fail "update-grub"
  elif has grubby; then
    grubby --update-kernel=ALL --args='net.ifnames=0 console=ttyS0' > /dev/null || fail grubby
    [ ! -e /etc/default/grub ] || sed -i 's/^GRUB_TIMEOUT=.*/GRUB_TIMEOUT=0/' /etc/default/grub
    ! has grub2-mkconfig || grub2-mkconfig -o /boot/grub2/grub.cfg > /dev/null 2>&1 || :
  fi
  # Where that has no effect, this has.
  mkdir -p /etc/systemd/network
  ln -sf /dev/null /etc/systemd/network/99-default.link
  [ ! -e /etc/selinux/config ] || sed -i 's/^SELINUX=enforcing/SELINUX=permissive/' /etc/selinux/config
}

# A node needs its boot partitions no more once it runs: where they come late, it must not end in emergency mode.
set_mounts() {
  [ -e /etc/fstab ] || return 0
  awk '$2 ~ "^/(boot|boot/efi|efi)$" && $4 !~ /(^|,)nofail(,|$)/ { $4 = $4 ",nofail" } 1' /etc/fstab > /etc/fstab.ai-how
  cat /etc/fstab.ai-how > /etc/fstab
  rm /etc/fstab.ai-how
}

# What cloud-init set for this VM, and whatever would be the same in all nodes.
forget() {
  # These write at their end, or all the time.
  systemctl stop systemd-random-seed.service rsyslog.service syslog.socket 2> /dev/null || :
  : > /etc/cloud/cloud-init.disabled 2> /dev/null || :
  rm -rf /var/lib/cloud /var/log/cloud-init*.log /etc/netplan/*.yaml /etc/network/interfaces.d/* \
    /etc/NetworkManager/system-connections/* /etc/sysconfig/network-scripts/ifcfg-e* /etc/sudoers.d/90-cloud-init-users \
    /run/systemd/network/* /etc/systemd/network/10-cloud-init-*
  [ ! -e /etc/network/interfaces ] || printf 'auto lo\niface lo inet loopback\n' > /etc/network/interfaces
  rm -f /etc/ssh/ssh_host_* /etc/munge/munge.key /etc/hostname /etc/resolv.conf /var/lib/dbus/machine-id \
    /var/lib/systemd/random-seed /var/lib/systemd/credential.secret
  rm -rf /root/.ssh /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/apt/archives/*.deb /var/log/journal/* \
    /var/lib/dhcp/* /var/lib/NetworkManager/* /etc/ssh/sshd_config.d/50-cloud-init.conf \
    /etc/NetworkManager/conf.d/*cloud-init* /etc/iscsi/initiatorname.iscsi /etc/nvme/hostid /etc/nvme/hostnqn
  printf '127.0.0.1 localhost\n' > /etc/hosts
  : > /etc/machine-id
  # Its owner is logged in just now.
  userdel -f "$user" 2> /dev/null || :
  groupdel "$user" 2> /dev/null || :
  rm -rf "/home/${user:?}" "/var/mail/${user:?}" /etc/passwd- /etc/shadow- /etc/group- /etc/gshadow- \
    /etc/subuid- /etc/subgid-
  find /var/log -type f -exec truncate -s 0 {} +
  # What is not written yet is not given back to the host.
  sync
  fstrim / 2> /dev/null || :
}

list_packages() {
  if [ "$manager" = apt ]; then
    # shellcheck disable=SC2016
    dpkg-query --show --showformat \
      'ai-how: package ${Package} ${Version} ${Architecture} ${source:Package} ${source:Version}\n'
  else
    rpm --query --all --queryformat \
      'ai-how: package %{NAME} %{VERSION}-%{RELEASE} %{ARCH} %{SOURCERPM} %{VERSION}-%{RELEASE}\n' | sort
  fi
}

say_facts() {
  say slurm "$(slurmctld -V | sed 's/^slurm[^ ]* //')"
  for plugin in /usr/lib/*/slurm*/mpi_pmix*.so /usr/lib64/slurm/mpi_pmix*.so /usr/lib/slurm/mpi_pmix*.so; do
    [ ! -e "$plugin" ] || { say pmix; break; }
  done
  # shellcheck disable=SC1091
  (. /etc/os-release && say system "$PRETTY_NAME" && say os "$ID")
}

if has apt-get; then manager=apt; elif has dnf; then manager=dnf; else fail manager; fi
say phase settle
# It may still be at work, and holds the locks of apt or dnf.
! has cloud-init || timeout 600 cloud-init status --wait > /dev/null 2>&1 || :
set_outside
install_missing
say phase configure
# The group of our own account, which goes again, may have it.
awk -F: -v ours="$user" '$3 == 1000 && $1 != ours { found = 1 } END { exit !found }' /etc/passwd /etc/group && fail login
getent passwd slurm > /dev/null || useradd --system --user-group --home-dir /var/lib/slurm --shell /bin/false slurm
[ -x /bin/busybox ] || ln -s "$(command -v busybox)" /bin/busybox
busybox --list | grep -qx nc || fail busybox
lay_over "$here/rootfs"
lay_over "$here/of_imported"
fit_software
chown slurm: /var/spool/slurmctld
forget_outside
set_units
set_boot_loader
set_mounts
list_packages
say_facts
say phase forget
forget
sync
say finished
systemctl --no-block poweroff
