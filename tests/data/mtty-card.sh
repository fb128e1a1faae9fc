# mtty-card.sh VERSION: builds /mtty-card.ko for that kernel, from mtty.c of Debian's linux-source. In the system of
# a build, as root; its packages are in mdev_driver.py.
set -e
mkdir /build
cd /build
sample=samples/vfio-mdev/mtty.c
set -- "$1" /usr/src/linux-source-*.tar.xz
top=$(basename "$2" .tar.xz)
# No more of it is read than that file.
tar -xJf "$2" --occurrence=1 --strip-components=3 "$top/$sample"
cp /mtty-card.c .
echo 'obj-m := mtty-card.o' >Makefile
make -C "/usr/src/linux-headers-$1" M=/build modules
mv mtty-card.ko /
