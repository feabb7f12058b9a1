/**
 * A configuration file with every setting. What is commented out shows the default, except where it says "no default".
 */
export const exampleConfig = `# A node of walship. Every setting is here; what is commented out is the default.
# Sizes: 65536 or "64KiB" (KiB, MiB, GiB, TiB). Times: 20 (ms) or "20ms" (ms, s, min, h). Paths: relative to this file.

node_id = "a"                     # this node's name, unique in the cluster: A-Z a-z 0-9 _ . -
dir = "data/a"                    # of the log; made if missing
listen = "127.0.0.1:7100"         # host:port for standbys to connect to; 0: any free port; no default: nobody can
role = "primary"                  # at start: "primary" (begins a new epoch), or "standby", the default
# upstream = "10.0.0.1:7100"      # whom a standby follows; no default: it waits for \`walship follow\`
# applied = "flushed"             # "manual": the program around the engine says what is applied
# stall_ms = "2s"                 # a standby that is behind and has not moved for so long is reported
# rule_ms = "1s"                  # a commit rule that has not been met for so long is reported
# transport = "auto"              # "tcp", "verbs" (RDMA): that and nothing else; "auto": RDMA where both sides have it
# admin_socket = "data/a/walship.sock"  # for walship status, promote, follow; default: walship.sock in dir
# admin_listen = "127.0.0.1:7070" # GET /status and /health over HTTP, POST from this host only; no default: closed

[cluster]
id = "example"                    # nodes and logs of other clusters are refused
# Known to every node, never sent, at least 16 characters. Make one with: openssl rand -hex 32
secret = "change me: openssl rand -hex 32"
# secret_file = "secret"          # instead of secret; or WALSHIP_SECRET in the environment

# Whom you follow as a table, where more is to be said about it:
# [upstream]
# address = "10.0.0.1:7100"
# node = "a"                      # refuse any other node; no default: any of the cluster
# source = "10.0.0.2"             # connect from this address; no default: the system chooses

[commit_rule]                     # when an append counts as committed
level = "async"                   # "async": flushed here; "received", "flushed", "applied": by standbys too
# any = 1                         # how many of them, any; no default
# first = 1                       # or the first so many of nodes, in order of priority; no default
# nodes = ["b", "c"]              # which standbys count, cascaded ones included; no default: all

[log]                             # page_bytes and segment_bytes: the same on every node, fixed once the log is made
# page_bytes = "256KiB"           # a power of two from 64KiB to 4MiB
# segment_bytes = "64MiB"         # of one file
# start_lsn = "0/0"               # of a new log
# retain_bytes = "1GiB"           # kept behind the end even if nobody needs it
# retain_bytes_max = "16GiB"      # kept at most, even for a standby that is away; 0: no bound
# spare_segments = 2              # files kept ready
# zero_fill = true                # write zeros into new files: cheaper syncs on disks
# frame_bytes_max = "64KiB"       # most payload of one frame

[durability]
sync = "every-batch"              # "interval": a crash of the host loses that much; "never": it can lose anything
# interval_ms = "10ms"            # for sync = "interval"

[arena]                           # the memory that the log is shipped from
# bytes = "64MiB"
# huge_pages = true

[cache]                           # which pages stay in the arena
# first_window_ms = "5s"
# review_ms = "100ms"
# fill_percent = 90
# evict_percent = 10
# fifo_share = 0.5
# adaptive = true
# lru_margin_percent = 2
# victims = 128                   # default: half of the pages in the arena, at most 8192
# interval_ms = "10ms"

[links]
# heartbeat_ms = "20ms"
# timeout_ms = "1s"               # a link that is silent for so long is given up
# setup_timeout_ms = "3s"
# reconnect_ms_min = "50ms"
# reconnect_ms_max = "2s"
# grant_pages = 16                # window of a link, in pages; default: a quarter of the arena, at most 16
# read_ahead_pages = 4            # for a standby that lags

[verbs]                           # RDMA; found by itself unless it is said here
# device = "rxe0"                 # no default
# port = 1                        # no default
# gid_index = 1                   # no default
# address = "10.0.0.1"            # the GID of this address; no default
# path_mtu_bytes = 0              # 0: the port's
# retry_count = 6
# ack_timeout_exponent = 14       # a packet is sent again after 4.096 us * 2^this

[completion]                      # how the threads wait for the network
mode = "adaptive"                 # "busy": a core of its own; "event": sleeps; "adaptive": polls for spin_us, then sleeps
# spin_us = 20                    # default: 0 on a single core
`;
