#!/bin/sh
# derive-inside.sh: what derive.sh becomes in the tree of the image, which is / here, with nothing of the host but /ai-how-job:
# packages, documented (if the documentation is kept), upgrade (if packages of the base shall be the newest), sources.list
# (if another is used), components (of Debian besides main), certificates (that are trusted while it runs), resolv.conf,
# sets/ (NAME/answers, NAME/install), files/ (NUMBER, and NUMBER.target), run/ (NUMBER, and NUMBER.script), pack.sh. It
# adds known and packages.tsv.
# CHECK_EXPIRY is false if the lists of packages may be old, else true.
set -eu
[ $$ = 1 ] || exit 70 # all other processes are killed below
job=/ai-how-job
# shellcheck disable=SC2034
root=/ OUT=$job PLACE=$job # for pack.sh
# shellcheck source=src/ai_how/images/pack.sh
. "$job/pack.sh"

# The line that ai-how follows.
say() { printf 'ai-how: %s\n' "$*"; }

numbers() { find "$1" -mindepth 1 -maxdepth 1 ! -name '*.*' -printf '%f\n' | sort -n; }

get() { apt-get --quiet --yes --no-install-recommends -o DPkg::Use-Pty=0 -o Dpkg::Options::=--force-unsafe-io \
    -o Acquire::Retries=2 "$@"; }

# What starts a unit at boot, or is a generator of units.
boot_links() {
  find /etc/systemd/system/*.wants /etc/systemd/system/*.requires /usr/lib/systemd/system/*.wants \
    /usr/lib/systemd/system-generators /etc/rc?.d -mindepth 1 2> /dev/null | sort
}

# The certificates of the host are the nodes' own, when they are told: an image may go to another host.
distrust_host() { [ ! -e "$bundle" ] || sed -i '/^# ai-how: begin$/,/^# ai-how: end$/d' "$bundle"; }

trust_host() {
  distrust_host
  [ ! -e "$job/certificates" ] || [ ! -e "$bundle" ] ||
    { echo '# ai-how: begin'; cat "$job/certificates"; echo '# ai-how: end'; } >> "$bundle"
}

# The image keeps them: what comes from there shall get its updates.
add_components() {
  [ -e "$job/components" ] || return 0
  while read -r component; do
    sed -i "/^deb .* $component\\( .*\\)*\$/!s/^deb .*/& $component/" /etc/apt/sources.list
  done < "$job/components"
}

# What a set builds in the image, by a script of its own, which uses `get`.
install_sets() {
  for set in "$job"/sets/*/; do
    [ -e "$set/install" ] || continue
    say phase sets
    (
      cd "$set"
      # shellcheck source=/dev/null
      . ./install
    )
  done
}

install_packages() {
  [ -s "$job/packages" ] || [ -e "$job/upgrade" ] || return 0
  add_components
  if [ -e "$job/sources.list" ]; then
    mv /etc/apt/sources.list "$job/sources.list.kept"
    cp "$job/sources.list" /etc/apt/sources.list
    add_components
  fi
  boot_links > "$job/links.before"
  say phase update
  get -o APT::Update::Error-Mode=any -o "Acquire::Check-Valid-Until=$CHECK_EXPIRY" update
  apt-cache pkgnames > "$job/known" # for what to say of a package that is none of them
  # Of a base with documentation that is there already.
  settings=/etc/dpkg/dpkg.cfg.d/99mmdebstrap
  wants_documentation=
  if [ -e "$job/documented" ] && grep -q '^path-exclude=' "$settings"; then
    wants_documentation=yes
    sed -i '/^path-exclude=/d' "$settings"
  fi
  # The kernel is that of the base, whose modules are made for it. dpkg also shows packages that it has only heard of;
  # apt refuses those where the archive has them no longer.
  kernels=$(dpkg-query --show --showformat '${db:Status-Abbrev}${Package}\n' 'linux-image-*' | sed -n 's/^.i //p')
  # shellcheck disable=SC2086
  apt-mark --quiet hold $kernels > /dev/null
  if [ -e "$job/upgrade" ]; then
    say phase upgrade
    get upgrade --with-new-pkgs
  fi
  # To what a package asks when it is installed.
  for answers in "$job"/sets/*/answers; do
    [ ! -e "$answers" ] || debconf-set-selections "$answers"
  done
  say phase install
  again=
  if [ -n "$wants_documentation" ]; then
    # shellcheck disable=SC2046
    again=$(dpkg-query --show --showformat '${Package}\n' $(cat "$job/documented") 2> /dev/null | sort -u)
  fi
  # shellcheck disable=SC2046
  get install $(cat "$job/packages")
  if [ -n "$again" ]; then
    say phase documentation
    # shellcheck disable=SC2086
    get install --reinstall $again
  fi
  install_sets
  # shellcheck disable=SC2086
  apt-mark --quiet unhold $kernels > /dev/null
  get clean
  # What packages want at boot is left out, as in the base: `run` can enable it.
  boot_links | comm -13 "$job/links.before" - | while read -r link; do
    case $link in
      */system-generators/*) ln -sf /dev/null "/etc/systemd/system-generators/${link##*/}" ;;
      *) rm -f "$link" ;;
    esac
  done
  rm "$job/links.before"
  [ ! -e "$job/sources.list.kept" ] || mv "$job/sources.list.kept" /etc/apt/sources.list
}

copy_files() {
  for number in $(numbers "$job/files"); do
    target=$(cat "$job/files/$number.target")
    mkdir -p -- "${target%/*}/"
    cp -R --no-target-directory --preserve=mode,timestamps --remove-destination -- "$job/files/$number" "$target"
  done
}

run_commands() {
  # Of a script for bash, the line that failed is said.
  # shellcheck disable=SC2016
  printf 'unset BASH_ENV; set -E; trap '\''echo "ai-how: line $LINENO: $BASH_COMMAND" >&2'\'' ERR\n' > "$job/trap"
  for number in $(numbers "$job/run"); do
    say phase run "$number"
    if [ -e "$job/run/$number.script" ]; then
      cp "$job/run/$number.script" "$job/script"
      chmod 0755 "$job/script"
    fi
    BASH_ENV=$job/trap sh -e "$job/run/$number" || {
      code=$?
      say failed "$code"
      exit "$code"
    }
  done
}

printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
chmod 0755 /usr/sbin/policy-rc.d
rm -f /etc/resolv.conf
cp "$job/resolv.conf" /etc/resolv.conf
bundle=/etc/ssl/certs/ca-certificates.crt
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
rm -f /usr/sbin/policy-rc.d
find /tmp -mindepth 1 -delete
rm -f /etc/machine-id # it may be a link
forget_identity
list_packages
