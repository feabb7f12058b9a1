# Running a command in the lab. Sourced by scripts/softroce after its options are parsed:
# nodes vms timeoutSeconds memoryMb mtu results environ[] command[].
#
# One folder per run, $run, with one folder per VM in it: what the guest is told (plan), what it says (status, dmesg,
# guest.log), what its serial line said (console), what QEMU said (qemu.log). It is removed at the end.

# How long a guest may take from power-on to the command's start, and from the command's end to power-off. Generous:
# the machine may be busy with other things, and these only end what hangs.
readonly kBootSeconds=180 kLeaveSeconds=30

pids=() # of QEMU, by number of VM
run=

# Everything a run made goes, however it ends. QEMU holds no state worth a goodbye.
cleanUp() {
  trap '' INT TERM HUP
  killVms
  [[ -z $run ]] || rm -rf "$run"
  [[ ! -d ${ownResults:-} ]] || rmdir "$ownResults" 2>/dev/null || say "results are in $ownResults"
}

killVms() {
  local pid
  for pid in "${pids[@]}"; do kill -KILL "$pid" 2>/dev/null || true; done
  wait "${pids[@]}" 2>/dev/null || true
}

# A folder for the guests to write to: the caller's, or one of this run's that is kept if there is something in it.
makeFolders() {
  local runs=$cache/runs name old path
  name=$(date +%Y%m%d-%H%M%S)-$$
  mkdir -p "$runs"
  run=$runs/.$name
  mkdir "$run"
  # What a run that was killed outright could not remove.
  for old in "$runs"/.2*; do [[ -e /proc/${old##*-} ]] || rm -rf "$old"; done
  if [[ -z $results ]]; then
    ownResults=$runs/$name
    results=$ownResults
    # Old results are the user's to look at, but not for ever.
    find "$runs" -mindepth 1 -maxdepth 1 -type d -name '2*' | sort | head -n -20 | xargs -r -d '\n' rm -rf
  fi
  mkdir -p "$results" || fail $kUsage "cannot make the results folder $results"
  results=$(cd "$results" && pwd -P)
  for path in "$checkout" "$results"; do
    case $path/ in /run/* | /dev/* | /proc/* | /sys/*)
      fail $kUsage "$path cannot be seen in the lab, which has a /run, /dev, /proc and /sys of its own" ;;
    esac
  done
}

writePlan() {
  local vm=$1 path=$PATH timeout=$timeoutSeconds
  mkdir "$run/$vm"
  declare -p checkout results nodes vms vm mtu timeout path environ command >"$run/$vm/plan"
}

# QEMU's option syntax ends a value at a comma, unless doubled.
value() { printf %s "${1//,/,,}"; }

# Carries the output of VM $1 from standard input to standard output as it comes; ends when its QEMU does.
# Output that nobody reads any more (`… | head`) is swallowed, for the guest has no SIGPIPE to be told by.
carry() {
  if ((vms == 1)); then cat; else sed -u "s/^/[vm$1] /"; fi || exec cat >/dev/null
}

startVm() {
  local vm=$1 folder=$run/$1 kind=nodes network=(-nic none)
  if ((vms > 1)); then
    kind=vms
    network=(-netdev "tap,id=net,ifname=tap$vm,script=no,downscript=no,vhost=off"
      -device "virtio-net-pci,netdev=net,romfile=,mac=$(printf '02:77:00:00:00:%02x' "$vm"),host_mtu=$mtu")
  fi
  # Nehalem: one of the fastest models under TCG (what has ERMS is half as fast) and enough for every Debian program.
  # Two processors even on one: with one, whoever polls starves whoever it polls for. PDEATHSIG: if this script dies
  # without a chance to clean up, QEMU goes with it.
  setpriv --pdeathsig KILL qemu-system-x86_64 \
    -name "walship-lab-$vm" -accel tcg,thread=multi -M q35,vmport=off,smm=off,hpet=off -cpu Nehalem,+rdrand \
    -smp 2 -m "$memoryMb" -nodefaults -no-user-config -display none -no-reboot -monitor none \
    -chardev "file,id=console,path=$(value "$folder/console")" -serial chardev:console \
    -kernel "$kernelDir/vmlinux" -initrd "$initramfs" \
    -append "console=ttyS0 quiet loglevel=4 panic=-1 oops=panic mitigations=off nokaslr tsc=reliable clocksource=tsc \
no_timer_check nowatchdog audit=0 apparmor=0 selinux=0 random.trust_cpu=on rcupdate.rcu_expedited=1 \
cryptomgr.notests log_buf_len=4M walship.network=$kind" \
    -device isa-debug-exit,iobase=0xf4,iosize=0x01 \
    -fsdev local,id=root,path=/,security_model=none,readonly=on,multidevs=remap \
    -device virtio-9p-pci,fsdev=root,mount_tag=root \
    -fsdev "local,id=control,path=$(value "$folder"),security_model=none,multidevs=remap" \
    -device virtio-9p-pci,fsdev=control,mount_tag=control \
    -fsdev "local,id=results,path=$(value "$results"),security_model=none,multidevs=remap" \
    -device virtio-9p-pci,fsdev=results,mount_tag=results \
    -device virtio-serial-pci \
    -add-fd fd=7,set=7 -chardev file,id=out,path=/dev/fdset/7,append=on -device virtserialport,chardev=out,name=out \
    -add-fd fd=8,set=8 -chardev file,id=err,path=/dev/fdset/8,append=on -device virtserialport,chardev=err,name=err \
    -add-fd fd=9,set=9 -chardev file,id=up,path=/dev/fdset/9,append=on -device virtserialport,chardev=up,name=up \
    "${network[@]}" </dev/null 9>"$run/events" {reader}<&- {writer}>&- \
    7> >(carry "$vm") 8> >(carry "$vm" >&2) >"$folder/qemu.log" 2>&1 &
  pids[vm]=$!
}

# A network of the VMs' own: a tap each on a bridge. We are in a network namespace that nothing else is in and that
# vanishes with the last process in it (see enterNetwork), so nothing here needs undoing.
makeNetwork() {
  local vm
  {
    echo "link add lab mtu $mtu type bridge stp_state 0 forward_delay 0 mcast_snooping 0"
    echo 'link set lab up'
    for ((vm = 1; vm <= vms; vm++)); do
      echo "tuntap add dev tap$vm mode tap"
      echo "link set tap$vm mtu $mtu master lab up"
    done
  } | ip -batch - || fail $kSetupFailed 'could not make a bridge and taps in a network namespace (above): is /dev/net/tun usable?'
}

# Replaces this process by itself in a fresh network namespace.
enterNetwork() {
  local user=()
  ((EUID == 0)) || user=(--user --map-root-user)
  WALSHIP_LAB_NETWORK=1 exec unshare --net "${user[@]}" "$0" "$@" ||
    fail $kSetupFailed 'could not make a network namespace: run as root, or allow unprivileged user namespaces'
}

# Lines of a kernel log that point at a fault. The boot of a healthy guest prints none.
suspicious() {
  grep -aE 'rxe|infiniband|BUG:|WARNING:|Oops|panic|Call Trace|hung_task|blocked for more|[a-z]+ stall|detected stalls|segfault|general protection|Out of memory|oom-kill' "$1" |
    grep -avE 'rdma_rxe: loaded|Command line|panic=|infiniband rxe[0-9]+: (added|set active)' | head -n 15
}

# Says why VM $1 ended as it did and leaves its code in `ended`.
judge() {
  local vm=$1 folder=$run/$1 name=guest status
  ((vms == 1)) || name="VM $vm"
  status=$(cat "$folder/status" 2>/dev/null || true)
  case $status in
    exit\ *)
      ended=${status#exit }
      ((vms == 1 || ended == 0)) || say "$name: the command ended with $ended" ;;
    timeout)
      ended=$kTimeout
      say "$name: the command did not end within $timeoutSeconds s (--timeout) and was killed" ;;
    lab\ *)
      ended=$kQemuFailed
      say "$name: could not get ready: '${status#lab }' failed"
      sed 's/^/softroce:   /' "$folder/guest.log" >&2 ;;
    *)
      if grep -aq 'Kernel panic' "$folder/console" 2>/dev/null; then
        ended=$kPanic
        say "$name: kernel panic"
        grep -aE -m 12 'BUG:|Oops|RIP:|Call Trace|Kernel panic| [a-z_]+\+0x' "$folder/console" | sed 's/^/softroce:   /' >&2
      elif [[ -n ${hung:-} ]]; then
        ended=$kHung
        say "$name: hung: $hung"
        tail -n 5 "$folder/console" 2>/dev/null | sed 's/^/softroce:   /' >&2
      else
        ended=$kQemuFailed
        say "$name: QEMU ended without the guest having said how the command went"
        tail -qn 10 "$folder/qemu.log" "$folder/console" 2>/dev/null | sed 's/^/softroce:   /' >&2
      fi ;;
  esac
  keepLogs "$vm" "$name"
}

# After a failure the guest's kernel log and console stay with the results.
keepLogs() {
  local vm=$1 name=$2 folder=$run/$1 log lines
  for log in dmesg console; do
    [[ -s $folder/$log ]] || continue
    ((ended == 0)) || cp "$folder/$log" "$results/vm$vm.$log"
    [[ $log == dmesg ]] || continue
    lines=$(suspicious "$folder/dmesg") || continue
    ((ended != 0)) || { grep -qE 'BUG|WARNING|Call Trace|stall|hung' <<<"$lines" && cp "$folder/dmesg" "$results/vm$vm.dmesg"; } || continue
    say "$name: the kernel said (all of it: $results/vm$vm.dmesg):"
    sed 's/^/softroce:   /' <<<"$lines" >&2
  done
}

# Starts the VMs, waits for them to end, returns the first code that is not 0 in the order of their numbers.
runLab() {
  local vm ended first=0 hung= reader writer
  trap cleanUp EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  trap 'exit 129' HUP
  makeFolders
  ((vms == 1)) || makeNetwork
  for ((vm = 1; vm <= vms; vm++)); do writePlan "$vm"; done
  # The guests say "up" on this pipe. Only the QEMUs and what carries their output hold its writing end: when it reads
  # as ended, they are gone and all they wrote was passed on.
  mkfifo "$run/events"
  exec {writer}<>"$run/events" {reader}<"$run/events"
  for ((vm = 1; vm <= vms; vm++)); do startVm "$vm"; done
  exec {writer}>&-
  awaitVms "$reader"
  killVms
  for ((vm = 1; vm <= vms; vm++)); do
    judge "$vm"
    ((first != 0)) || first=$ended
  done
  return "$first"
}

# Returns when all VMs have ended, or sets `hung` to what a VM failed to do in time. Each says "up" when it starts the
# command.
awaitVms() {
  local up=0 word seconds=$kBootSeconds status
  while true; do
    status=0
    read -r -t "$seconds" -u "$1" word || status=$?
    ((status <= 128)) || break # over time
    ((status == 0)) || return 0 # the pipe has ended
    [[ $word != up ]] || ((++up < vms)) || seconds=$((timeoutSeconds + kLeaveSeconds))
  done
  if ((up < vms)); then
    hung="it did not start the command within $seconds s"
  else
    hung="it neither ended the command nor gave it up within $seconds s"
  fi
}
