# The guest's network. Sourced by guest and by walship-lab, after the plan.
#
# --nodes N: node I is the rxe device rxeI on the netdev nodeI with the address 10.77.0.I. nodeI is one end of a veth
# pair; the other end, wireI, is a port of the bridge `switch`. rxe does not work in network namespaces, so all nodes
# share one, and routing keeps the kernel from handing a packet for one of its own addresses straight to itself:
# whatever leaves from 10.77.0.I or through nodeI is looked up in node I's own table first, where the others are out on
# the wire, and the `local` table comes after that. So RoCE always crosses the bridge, and TCP does if its socket is
# bound to 10.77.0.I (a listening socket answers from the address it was called by, which is enough).
#
# --vms N: VM I is the rxe device rxe0 on the netdev eth0 with the address 10.77.0.I, an ordinary machine on a network.

address() { echo "10.77.0.$1"; }

# Ethernet address of node or VM $1, the same everywhere: neighbours are entered by hand, so that a link that was cut or
# down works again at once and no ARP packet is lost in the noise of a test.
mac() { printf '02:77:00:00:00:%02x' "$1"; }

# Enters the other nodes' or VMs' Ethernet addresses (1 … $2) at the netdev $3 of number $1: commands for `ip -batch`.
neighbours() {
  local j
  for ((j = 1; j <= $2; j++)); do
    (($1 == j)) || echo "neigh replace $(address "$j") lladdr $(mac "$j") dev $3 nud permanent"
  done
}

# Puts back what the link of node or VM $1 loses when it goes down.
restoreLink() {
  local i=$1
  if ((vms > 1)); then
    neighbours "$i" "$vms" eth0
  else
    echo "route replace table $((100 + i)) 10.77.0.0/24 dev node$i src $(address "$i")"
    echo "route replace table $((100 + i)) local $(address "$i") dev node$i src $(address "$i")"
    neighbours "$i" "$nodes" "node$i"
  fi | ip -batch -
}

# Settings that must be there before an interface is: quiet (no IPv6 chatter), and own addresses accepted from a wire.
quietNetwork() {
  local conf=/proc/sys/net/ipv4/conf where
  echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6
  for where in all default; do
    echo 0 >"$conf/$where/rp_filter"
    echo 1 >"$conf/$where/accept_local"
    echo 1 >"$conf/$where/arp_ignore"
    echo 2 >"$conf/$where/arp_announce"
  done
}

makeNodes() {
  local i
  {
    echo 'link set lo up'
    echo "link add switch mtu $mtu type bridge stp_state 0 forward_delay 0 mcast_snooping 0"
    echo 'link set switch up'
    for ((i = 1; i <= nodes; i++)); do
      echo "link add node$i mtu $mtu address $(mac "$i") type veth peer name wire$i mtu $mtu"
      echo "link set wire$i master switch up"
      echo "addr add $(address "$i")/24 dev node$i noprefixroute"
      echo "link set node$i up"
      echo "rule add pref 10 oif node$i lookup $((100 + i))"
      echo "rule add pref 20 from $(address "$i") iif lo lookup $((100 + i))"
    done
    echo 'rule add pref 1000 lookup local'
    echo 'rule del pref 0 lookup local'
  } | ip -batch -
  for ((i = 1; i <= nodes; i++)); do
    restoreLink "$i"
    echo "link add rxe$i type rxe netdev node$i"
  done | rdma -b -
}

makeMachine() {
  {
    echo 'link set lo up'
    echo "link set eth0 mtu $mtu"
    echo "addr add $(address "$vm")/24 dev eth0"
    echo 'link set eth0 up'
  } | ip -batch -
  restoreLink "$vm"
  rdma link add rxe0 type rxe netdev eth0
}

# "rxe1:10.77.0.1,rxe2:10.77.0.2", what WALSHIP_LAB_DEVICES says.
devices() {
  local i list=
  if ((vms > 1)); then
    echo "rxe0:$(address "$vm")"
  else
    for ((i = 1; i <= nodes; i++)); do list+=,rxe$i:$(address "$i"); done
    echo "${list#,}"
  fi
}
