# Setting the lab up: Debian packages, a kernel that has rdma_rxe, an initramfs that loads it. Sourced by scripts/softroce.
#
# The cache folder holds
#   kernel                        name of the kernel in use, for example linux-image-6.1.0-9-amd64
#   linux-image-…-amd64/vmlinux   the kernel, uncompressed: it boots in a third of the bzImage's time
#   linux-image-…-amd64/modules/  the modules the guests load; order.nodes and order.vms list them in loading order
#   linux-image-…-amd64/initramfs-KEY   busybox, init and those modules; KEY = hash of what went in
#   runs/                         what runs left behind: results and logs of failures
# Everything but runs/ is written to a temporary name first and renamed: an interrupted set-up leaves nothing half made.

readonly kPackages=(
  qemu-system-x86 busybox-static cpio kmod xz-utils zstd binutils iproute2 util-linux
  rdma-core ibverbs-providers ibverbs-utils rdmacm-utils perftest
)

# The plain kernel: Debian's cloud kernels lack rdma_rxe and 9p.
readonly kKernelMetaPackage=linux-image-amd64

# What a guest loads; modprobe adds what these depend on. crc32_generic is rxe's checksum, which rxe asks the crypto layer
# for by name and so no dependency names it; likewise 9pnet_virtio is 9p's way to the host.
readonly kModules='virtio_pci virtio_console 9pnet_virtio 9p overlay crc32_generic ib_uverbs rdma_ucm rdma_rxe sch_netem'
readonly kNodesModules='veth bridge'
readonly kVmsModules='virtio_net ifb sch_ingress cls_matchall act_gact act_mirred'

asRoot() {
  if ((EUID == 0)); then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    fail $kSetupFailed "installing packages needs root, and there is no sudo: run 'scripts/softroce setup' as root once"
  fi
}

aptGet() { asRoot env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 "$@"; }

# Lists that were never fetched know no candidate; lists that are old name versions the archive no longer has.
aptUpdateOnce() {
  [[ -z ${aptUpdated:-} ]] || return 0
  say 'reading package lists'
  aptGet update || fail $kSetupFailed 'apt-get update failed (above): is the Debian archive reachable?'
  aptUpdated=1
}

installPackages() {
  local package missing=()
  command -v dpkg-query >/dev/null || fail $kSetupFailed 'this is not a Debian system (no dpkg-query): the lab is built from Debian packages'
  for package in "${kPackages[@]}"; do
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
  done
  ((${#missing[@]})) || return 0
  say "installing ${missing[*]}"
  apt-cache show "${missing[@]}" >/dev/null 2>&1 || aptUpdateOnce
  aptInstall "${missing[@]}" ||
    { aptUpdateOnce && aptInstall "${missing[@]}"; } ||
    fail $kSetupFailed "apt-get could not install ${missing[*]} (above)"
}

aptInstall() { aptGet install -y --no-install-recommends "$@" >/dev/null; }

kernelPackage() {
  apt-cache depends --no-recommends --no-suggests "$kKernelMetaPackage" 2>/dev/null |
    sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | head -n 1
}

# Finds the compressed kernel inside a bzImage by the magic of its stream, and accepts only what unpacks to an ELF file.
extractVmlinux() {
  local image=$1 out=$2 magic unpack offset
  local ways=('\xfd7zXZ\x00|xz -dc --single-stream' '\x28\xb5\x2f\xfd|zstd -dcq' '\x1f\x8b\x08|gzip -dcq')
  for way in "${ways[@]}"; do
    magic=${way%%|*} unpack=${way#*|}
    while IFS=: read -r offset _; do
      # Whatever follows the stream makes the decompressor complain after it did its work: judge by the result.
      tail -c "+$((offset + 1))" "$image" | $unpack >"$out" 2>/dev/null || true
      if [[ $(head -c 4 "$out" | od -An -tx1) == ' 7f 45 4c 46' ]]; then
        return 0
      fi
    done < <(LC_ALL=C grep -aboP "$magic" "$image")
  done
  return 1
}

# The files of modules $3… of the kernel tree $1, version $2, and of all they depend on, in loading order.
moduleFiles() {
  local root=$1 version=$2
  shift 2
  modprobe -d "$root" -S "$version" -a --show-depends "$@" | awk '$1 == "insmod" && !seen[$2]++ { print $2 }'
}

# Copies the modules out of an unpacked kernel package and writes their loading orders. They are unpacked and stripped,
# of their signatures too: checking those would take an emulated processor half a second of every boot.
collectModules() {
  local root=$1 out=$2 version kind extra path name
  version=$(ls "$root/lib/modules")
  depmod -b "$root" "$version"
  mkdir "$out"
  for kind in nodes vms; do
    if [[ $kind == nodes ]]; then extra=$kNodesModules; else extra=$kVmsModules; fi
    # shellcheck disable=SC2086 # lists of words
    moduleFiles "$root" "$version" $kModules $extra | while read -r path; do
      name=${path##*/} name=${name%.[xz]*}
      echo "$name"
      [[ ! -e $out/$name ]] || continue
      case $path in
        *.xz) xz -dc "$path" ;;
        *.zst) zstd -dcq "$path" ;;
        *) cat "$path" ;;
      esac >"$out/$name"
      strip --strip-debug "$out/$name"
    done >"$out/order.$kind" || return 1
  done
}

wantedModules() { printf '%s\n' "$kModules" "$kNodesModules" "$kVmsModules"; }

# Downloads and unpacks the kernel; nothing of it is installed on this machine.
makeKernel() {
  local package work=$cache/new.$$
  package=$(kernelPackage)
  [[ -n $package ]] || { aptUpdateOnce && package=$(kernelPackage); }
  [[ -n $package ]] || fail $kSetupFailed "apt knows no $kKernelMetaPackage: the lab needs Debian's amd64 archive"
  rm -rf "$work" && mkdir -p "$work/tree" "$work/kernel"
  say "downloading $package"
  (cd "$work" && apt-get -qq download "$package" 2>"$work/log") || {
    aptUpdateOnce
    package=$(kernelPackage)
    (cd "$work" && apt-get -qq download "$package") || fail $kSetupFailed "apt-get download $package failed (above)"
  }
  say "unpacking $package"
  dpkg -x "$work/$package"_*.deb "$work/tree"
  extractVmlinux "$work"/tree/boot/vmlinuz-* "$work/kernel/vmlinux" ||
    fail $kSetupFailed "found no kernel stream in the vmlinuz of $package"
  collectModules "$work/tree" "$work/kernel/modules" ||
    fail $kSetupFailed "$package lacks a module of: $kModules $kNodesModules $kVmsModules"
  wantedModules >"$work/kernel/wanted"
  rm -rf "${cache:?}/$package"
  mv "$work/kernel" "$cache/$package"
  echo "$package" >"$cache/kernel.new" && mv "$cache/kernel.new" "$cache/kernel"
  rm -rf "$work"
}

kernelReady() {
  [[ -s $cache/kernel ]] || return 1
  kernelDir=$cache/$(<"$cache/kernel")
  [[ -s $kernelDir/vmlinux ]] && cmp -s "$kernelDir/wanted" <(wantedModules)
}

makeInitramfs() {
  local work=$cache/new.$$ busybox
  busybox=$(command -v busybox)
  initramfs=$kernelDir/initramfs-$(cat "$busybox" "$here/init" "$kernelDir"/modules/* | sha256sum | cut -c 1-16)
  [[ ! -s $initramfs ]] || return 0
  rm -rf "$work" && mkdir -p "$work"/{bin,dev,proc,sys,host}
  cp "$busybox" "$work/bin/busybox"
  cp "$here/init" "$work/init" && chmod 755 "$work/init"
  cp -r "$kernelDir/modules" "$work/modules"
  (cd "$work" && find . | cpio --quiet -o -H newc -R 0:0) >"$initramfs.new"
  rm -f "$kernelDir"/initramfs-????????????????
  mv "$initramfs.new" "$initramfs"
  rm -rf "$work"
}

# Leaves kernelDir and initramfs set. Cheap when there is nothing to do; two at a time wait for each other.
setUp() {
  [[ $(uname -m) == x86_64 ]] || fail $kSetupFailed "the lab runs this machine's own programs in an x86_64 guest; this is $(uname -m)"
  installPackages
  mkdir -p "$cache" || fail $kSetupFailed "cannot write the cache folder $cache (WALSHIP_SOFTROCE_CACHE names another)"
  exec {lock}>"$cache/lock"
  flock "$lock"
  kernelReady || makeKernel
  kernelReady || fail $kSetupFailed "set-up left no kernel in $cache"
  makeInitramfs
  exec {lock}>&-
}
