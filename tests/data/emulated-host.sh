#!/bin/busybox sh
# emulated-host.sh: the first process of an emulated host, from its initramfs. The root is the real machine's, read-only
# below a layer in memory; /out is the only directory whose changes reach the machine. Runs /out/run, and powers off.
b=/bin/busybox
if [ "$1" = root ]; then
    ip link set lo up
    sh /out/run >/out/stdout 2>/out/stderr </dev/null
    echo $? >/out/code
    exec $b poweroff -f
fi
$b mkdir -p /proc /sys /host /tree /memory /root
$b mount -t proc proc /proc
while read -r module; do $b insmod "$module"; done </modules
options=trans=virtio,version=9p2000.L,msize=512000
$b mount -t 9p -o "ro,cache=loose,$options" host /host
$b mount -t 9p -o "ro,cache=loose,$options" tree /tree
$b mount -t tmpfs -o mode=755 tmpfs /memory
$b mkdir /memory/upper /memory/work
$b mount -t overlay -o lowerdir=/tree:/host,upperdir=/memory/upper,workdir=/memory/work overlay /root
$b mkdir -p /root/out
$b mount -t proc proc /root/proc
$b mount -t sysfs sysfs /root/sys
$b mount -t cgroup2 cgroup2 /root/sys/fs/cgroup
$b mount -t devtmpfs dev /root/dev
$b mkdir -p /root/dev/pts /root/dev/shm
$b mount -t devpts devpts /root/dev/pts
$b mount -t tmpfs tmpfs /root/dev/shm
$b mount -t tmpfs -o mode=755 tmpfs /root/run
$b mount -t tmpfs -o mode=755 tmpfs /root/srv
$b mount -t 9p -o "$options" out /root/out
$b cp /init /root/run/init
exec $b switch_root /root /bin/busybox sh /run/init root
