/**
 * A configuration file with every setting. What is commented out shows the default, except where it says "no default".
 */
export const exampleConfig = `# A node of walship. Every setting is here; what is commented out is the default.
# Sizes: 65536 or "64KiB" (KiB, MiB, GiB, TiB). Times: 20 (ms) or "20ms" (ms, s, min, h). Paths: relative to this file.

node_id = "a"                     # this node's name, unique in the cluster: A-Z a-z 0-9 _ . -
dir = "data/a"                    # of the log; made if missing
listen = "127.0.0.1:7100"         # host:port for standbys to connect to; 0: any free port; no default: nobody can
role = "primary"                  # at start: "primary" (begins a new epoch), or "standby", the default
                                  # with [failover] neither role nor upstream: the controller decides
# upstream = "10.0.0.1:7100"      # whom a standby follows; no default: it waits for \`walship follow\`
# applied = "flushed"             # "manual": the program around the engine says what is applied
# stall_ms = "2s"                 # a standby that is behind and has not moved for so long is reported
# rule_ms = "1s"                  # a commit rule that has not been met for so long is reported
# transport = "auto"              # "tcp", "verbs" (RDMA): that and nothing else; "auto": RDMA where both sides have it
# admin_socket = "data/a/walship.sock"  # for walship status, promote, follow; default: walship.sock in dir
# admin_listen = "127.0.0.1:7070" # HTTP for clients and load balancers (GET /primary, /standby, /health, /cluster, /status)
                                  # and, from this host only, for commands (POST); no default: closed
# journal_bytes = "8MiB"          # of this node's record of what it saw and did: walship journal

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
# own_disk = true                 # false: they need not wait for this node's own disk, which follows

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

[scrub]                           # the log's pages, compared with those of the other nodes in the background: walship verify
# bytes_per_second = "1MiB"       # 0: never
# repair = true                   # a damaged page, from a good copy; false: it is told
# pause_ms = "10min"              # from the end of the log to its beginning again

[links]
# heartbeat_ms = "20ms"
# timeout_ms = "1s"               # a link that is silent for so long is given up
# setup_timeout_ms = "3s"
# reconnect_ms_min = "50ms"
# reconnect_ms_max = "2s"
# grant_pages = 16                # window of a link, in pages; default: a quarter of the arena, at most 16
# read_ahead_pages = 4            # for a standby that lags

[rails]                           # network paths to the upstream: walship rails
# listen = ["10.1.0.1:7100"]      # further addresses for standbys to connect to, each a rail; no default
# dispatch = true                 # keep spare links, and move to another rail when the one in use fails or degrades
# pin = ["verbs:*"]               # use these as long as one is up; * stands for anything; no default
# exclude = ["tcp@10.1.*"]        # never use these; no default
# stripe = true                   # over rails that are equally good
# probe_ms = "50ms"               # how often a spare link is probed
# silence_ms = "100ms"            # the link in use is given up if it is silent for so long and another one is not
# band_factor = 3                 # degraded: a round trip longer than this times that of the best other rail, and
# band_ms = "1ms"                 # this on top; or
# loss_per_second = 20            # more packets a second sent again
# degrade_ms = "500ms"            # for so long
# return_ms = "10s"               # a better rail is used once it has been well for so long

[verbs]                           # RDMA; found by itself unless it is said here
# device = "rxe0"                 # no default: every one
# port = 1                        # no default
# gid_index = 1                   # no default
# address = "10.0.0.1"            # the GID of this address; or a list: a device for each; no default: every device
# path_mtu_bytes = 0              # 0: the port's
# retry_count = 6
# ack_timeout_exponent = 14       # a packet is sent again after 4.096 us * 2^this

# Automatic failover: a standby takes over when the primary is gone, and the old primary returns as a standby. Every node
# has this table, [coordinator], and no role.
# [failover]
# listen = "127.0.0.1:7200"       # host:port of this node's controller, for the others' controllers; no default
# advertise_log = "10.0.0.1:7100" # where others reach listen; no default: there. Needed where that is 0.0.0.0 or [::]
# advertise_control = "10.0.0.1:7200"  # the same for failover.listen; no default
# advertise_http = "10.0.0.1:7070"  # the same for admin_listen; no default
# bootstrap = false               # true on one node: it begins the cluster, if there has been none, as its first primary
# priority = 0                    # of two standbys that are equally far, the one with the higher priority is promoted
# nofailover = false              # true: never promoted by itself, and no commit relies on it
# lease_ms = "2s"                 # how long a primary that is cut off may go on committing; at least 4 * suspect_ms
# suspect_ms = "250ms"            # a primary that nobody has heard for so long is taken for dead
# drop_ms = "300ms"               # a standby that is away for so long no longer counts for commits, if others are enough
# switchover_ms = "5s"            # a planned switchover that is not ready by then is given up
# max_lag_bytes = "1MiB"          # with level = "async": who lacks more than this is never promoted by itself
# fan_out = 4                     # standbys that get the log from one node; more are served by standbys
# on_role = "on-role.sh"          # no default; a program, run at start and after each change, in order, with arguments
                                  # primary|standby EPOCH NODE; also in WALSHIP_ROLE, _EPOCH, _NODE, _CLUSTER
# on_role_timeout_ms = "10s"      # then it is ended

# Who is primary is kept here, for every node the same.
# [coordinator]
# kind = "etcd"                   # or "embedded": a directory, for nodes that all run on one machine
# endpoints = ["http://10.0.0.1:2379", "http://10.0.0.2:2379"]  # of etcd; no default
# prefix = "/walship"             # of the keys in etcd
# user = "walship"                # of etcd, with password or password_file; no default
# password = "secret"             # no default
# password_file = "etcd.password" # instead of password
# ca_file = "ca.pem"              # for https:// endpoints; no default: the system's authorities
# cert_file = "node.pem"          # client certificate, with key_file; no default
# key_file = "node.key"           # no default
# try_timeout_ms = "75ms"         # an endpoint that is silent for so long: the next one is asked as well
# timeout_ms = "1s"               # then a request has failed
# check_ms = "500ms"              # how often it is made sure that no change was missed
# path = "coordinator"            # of kind = "embedded": a directory on a local disk; no default

# PostgreSQL: the log is the WAL of an unmodified server. While this node is the primary it is that server's synchronous
# standby; on every node it is the walsender of the standby servers beside it. \`walship postgres status\` checks all.
# [postgres.server]               # the server whose WAL is shipped while this node is the primary
# conninfo = "host=/var/run/postgresql user=postgres"  # of libpq, a role with REPLICATION; passwords: a passfile; no default
# application_name = "walship"    # what its synchronous_standby_names has to name
# slot = "walship"                # replication slot, made if missing
# start_lsn = "0/16B3740"         # a new log begins in this segment; no default: at the server's last checkpoint
# connect_timeout_ms = "10s"
# reconnect_ms_min = "100ms"
# reconnect_ms_max = "5s"
# status_ms = "1s"                # positions are told when they move, and at least so often
# silence_ms = "1min"             # a server that is silent for so long is given up
# [postgres.serve]                # primary_conninfo of standby servers: host=DIRECTORY port=PORT user=postgres
# directory = "/run/walship"      # of the unix socket; no default
# port = 5432                     # part of the socket's name
# users = ["postgres"]            # of the operating system, who may connect beside this process's own
# send_at = "flushed"             # what a standby server is given: what is on this disk; "received": what is in memory
# connect_timeout_ms = "10s"      # for connecting to server and ordinary
# listen = "10.0.0.1:6432"        # by TCP, too, for roles; no default
# roles = [{ name = "standby", password_file = "standby.password" }]  # or password, or verifier; each may copy all; no default
# server = "host=/var/run/postgresql user=postgres"  # for pg_basebackup through here; no default: postgres.server.conninfo
# standby = "b"                   # application_name of whose replay is \`applied\`; no default: the slowest of all
# gather_ms = "10ms"              # between pieces of WAL, while no commit waits for what a standby server applies
# silence_ms = "1min"             # a client that is silent for so long is given up
# [postgres.serve.tls]            # of listen
# cert_file = "server.pem"        # no default
# key_file = "server.key"         # no default
# required = false                # true: who does not encrypt is refused
# [postgres.serve.ordinary]       # other connections go on to this server, which takes them for this host's own: pg_hba.conf!
# host = "/var/run/postgresql"    # no default: they are refused
# port = 5432
# sessions_max = 100
# [postgres.manage]               # with [failover]: the server is started, promoted, stopped and rewound by this node
# data_dir = "/var/lib/postgresql/15/main"   # its owner is who the server runs as; no default
# bin_dir = "/usr/lib/postgresql/15/bin"     # of pg_ctl, pg_rewind and pg_basebackup; no default
# advertise = "host=10.0.0.1 user=postgres"  # how other nodes' pg_rewind reaches it; no default: server.conninfo
# config_file = "postgresql.conf" # if not in data_dir: Debian has it in /etc/postgresql/15/main; no default
# log_file = "server.log"         # no default: the data directory's name with .log behind it
# timeout_ms = "1min"             # for starting, promoting and stopping

[monitor]                         # finds what goes wrong before it is an outage: walship status, the log, the journal
# check_ms = "500ms"              # how often it looks
# rate_ms = "5s"                  # rates are means over about so long
# clear_ms = "2s"                 # a finding ends when its cause has been away for so long
# stall_ms = "5s"                 # a position that does not move for so long though there is more for it: replica-stalled
# lag_ms = "30s"                  # further behind in time, or in bytes: replica-lagging
# lag_bytes = "256MiB"
# drift_ms = "1min"               # a lag that has grown all the time for so long …
# drift_bytes = "16MiB"           # … and to so much: replica-drifting
# trim_ms = "10min"               # the log will be trimmed past a reader that lags in so long: log-trim-near
# disk_ms = "1h"                  # the disk will be full in so long: disk-filling
# disk_bytes = "128MiB"           # less than this is free, and than a twentieth of the disk: disk-full

[completion]                      # how the threads wait for the network
mode = "adaptive"                 # "busy": a core of its own; "event": sleeps; "adaptive": polls for spin_us, then sleeps
# spin_us = 20                    # default: 0 on a single core
`;
