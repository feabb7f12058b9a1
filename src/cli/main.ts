#!/usr/bin/env node
import { readFileSync } from 'node:fs';
import { Command, CommanderError, Option } from 'commander';
import { aimed, does, epoch, lsn, moment, seconds, size } from './command.js';
import { addDatabaseCommands } from './databases.js';
import { exitCode, outcomeOf } from './exit.js';

// Each command's code is loaded when it runs: help needs no addon.

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8'));

const program = new Command('walship');

program
  .description("Ships a database's write-ahead log over RDMA or TCP, from primary to standby to standby.")
  .version(version)
  .exitOverride()
  .showHelpAfterError('(add --help for what there is)')
  .helpCommand('help [command]', 'what a command does, with examples')
  .addHelpText(
    'after',
    `
Begin with:
  $ walship config example > walship.toml   then set node_id, dir, cluster and listen in it
  $ walship node                            runs the node that walship.toml describes
  $ walship status                          in another terminal: who has what

LSNs are written as 0/16B3740 or as a decimal number of bytes.

Exit codes:
  0  done
  1  failed: the message says what and why
  2  wrong use: an option, an argument or the configuration file
  3  no node answers at the address
  4  the log or the database has problems (verify, log inspect, log verify, log export, sqlite restore, sqlite check)`,
  );

program
  .command('node')
  .description('Runs a node until SIGTERM or SIGINT, with one line on stdout for everything that happens.')
  .option('-c, --config <file>', 'configuration file (TOML)', 'walship.toml')
  .addOption(
    new Option('--log-format <format>', 'lines for people or for programs')
      .choices(['text', 'json'])
      .default('text'),
  )
  .option('--stdin', 'append what comes in on standard input to the log (primary only)')
  .addHelpText(
    'after',
    `
The first signal stops the node cleanly, a second one at once. With port 0 in listen, the line "listening on" says
which port it is. A primary begins a new epoch at every start.

Examples:
  $ walship node --config /etc/walship/a.toml
  $ walship node --log-format json | jq -r 'select(.level != "info") | .message'
  $ seq 1000000 | walship node --config primary.toml --stdin   something to ship, to try it out`,
  )
  .action(does(async (options) => (await import('./node.js')).runNode(options)));

aimed(program.command('status'))
  .description(
    'Shows a node and the tree of standbys below it: positions, lag, rails, cache, log, latencies.',
  )
  .option('--json', 'everything, as JSON; LSNs and epochs are decimal text')
  .option('-w, --watch [seconds]', 'again and again (default: every second)', seconds)
  .addHelpText(
    'after',
    `
RECEIVED is verified in the node's memory, FLUSHED durable on its disk, APPLIED visible in its database. Ask the primary
to see the whole tree; a standby knows itself, its upstream and what is below it. "away" is a standby that is not
connected and for which the log is kept. With [failover] every node shows the whole cluster: its members, the primary,
who counts for commits, what it waits for, and the coordinator.

Examples:
  $ walship status --dir /var/lib/walship/a
  $ walship status --watch
  $ walship status --url http://127.0.0.1:7070 --json | jq '.nodes[] | {node, lagBytes}'`,
  )
  .action(
    does(async ({ watch, ...options }) =>
      (await import('./control.js')).showStatus({
        ...options,
        ...(watch && { watch: watch === true ? 1 : watch }),
      }),
    ),
  );

aimed(program.command('promote'))
  .description('Makes a standby the primary, in a new epoch.')
  .option('--epoch <n>', 'begin this epoch instead of the next one', epoch)
  .addHelpText(
    'after',
    `
For nodes without [failover]; with it, use walship switchover or walship failover. Whether it is safe is yours to know:
take the standby that has received most, and be sure that the old primary is stopped. Then let the other standbys follow
the new primary, and correct role and upstream in the configuration files.

Examples:
  $ walship promote --dir /var/lib/walship/b
  $ walship promote --url http://127.0.0.1:7071`,
  )
  .action(does(async (options) => (await import('./control.js')).promote(options)));

aimed(program.command('follow'))
  .description(
    'Makes a node the standby of an upstream. What diverges from the upstream is cut and set aside.',
  )
  .argument('[upstream]', 'HOST:PORT that the upstream listens on')
  .option('--node <id>', 'refuse the upstream if it is another node')
  .option('--none', 'follow nobody: a standby on its own')
  .addHelpText(
    'after',
    `
Examples:
  $ walship follow --dir /var/lib/walship/c 10.0.0.2:7100
  $ walship follow --dir /var/lib/walship/c --none`,
  )
  .action(does(async (upstream, options) => (await import('./control.js')).follow(upstream, options)));

aimed(program.command('switchover'))
  .description(
    'Makes a standby the primary, with the help of the primary of now: nothing is lost, nothing fails.',
  )
  .option('--to <node>', 'this standby (default: the one that has received most)')
  .addHelpText(
    'after',
    `
For clusters with [failover]; any node may be asked. Appends wait until the standby has everything, then it begins a new
epoch; the others follow it. If it is not ready within failover.switchover_ms, nothing has changed. Exit code 1: the
message says who is the primary, or why nothing was done.

Examples:
  $ walship switchover --dir /var/lib/walship/a
  $ walship switchover --url http://10.0.0.2:7070 --to c     on the host of the node asked`,
  )
  .action(does(async (options) => (await import('./failover.js')).switchover(options)));

aimed(program.command('failover'))
  .description('Makes a standby the primary, without the help of the primary of now.')
  .option('--to <node>', 'this standby (default: the node asked; if that one cannot be, the most advanced)')
  .option('--accept-data-loss', 'also if it may lack what was committed')
  .addHelpText(
    'after',
    `
For clusters with [failover], where none was promoted by itself: it is paused, or it cannot be proved that a standby has
all that was committed. The second is refused without --accept-data-loss. What a node of before has beyond the new
primary's log is set aside in a file when it returns; if it was committed, it waits for walship rejoin.

Examples:
  $ walship failover --dir /var/lib/walship/b
  $ walship failover --dir /var/lib/walship/b --accept-data-loss`,
  )
  .action(does(async (options) => (await import('./failover.js')).failover(options)));

aimed(program.command('pause'))
  .description('Turns automatic failover off, for the whole cluster, for as long as you want.')
  .addHelpText(
    'after',
    `
The primary stays, and goes on. Switchover and failover by hand are possible.

Example:
  $ walship pause --dir /var/lib/walship/a`,
  )
  .action(does(async (options) => (await import('./failover.js')).pause(options)));

aimed(program.command('resume'))
  .description('Turns automatic failover on again, for the whole cluster.')
  .addHelpText('after', '\nExample:\n  $ walship resume --dir /var/lib/walship/a')
  .action(does(async (options) => (await import('./failover.js')).resume(options)));

aimed(program.command('rejoin'))
  .description('Brings back a node that has committed what the cluster has lost, as a standby.')
  .option('--discard-committed', 'take it out of its log, into a diverged-… file')
  .addHelpText(
    'after',
    `
Needed only after a failover with --accept-data-loss; every other node comes back by itself. Ask the node concerned.
Without the option nothing is changed, and the message says what would be discarded (exit code 1 if there is something).

Examples:
  $ walship rejoin --dir /var/lib/walship/a
  $ walship rejoin --dir /var/lib/walship/a --discard-committed`,
  )
  .action(does(async (options) => (await import('./failover.js')).rejoin(options)));

aimed(program.command('forget'))
  .description('Takes a node that is gone for good out of the cluster.')
  .argument('<node>', 'its node_id')
  .addHelpText(
    'after',
    `
No commit waits for it any more, and no node keeps its log for it. A node that is started again registers again.

Example:
  $ walship forget c --dir /var/lib/walship/a`,
  )
  .action(does(async (node, options) => (await import('./failover.js')).forget(node, options)));

aimed(program.command('journal'))
  .description('Shows what the nodes of a cluster saw and did, all together, in causal order.')
  .option('--since <when>', 'a time, or a span before now, such as 10min', moment)
  .option('-n, --node <node>', 'of this node only')
  .option('-f, --follow', 'go on with what is being written')
  .option('--json', 'one line of JSON for each entry; LSNs, epochs and clocks are decimal text')
  .addHelpText(
    'after',
    `
Every node keeps a journal in its log directory: changes of role, links that come and go, what stalled, what was cut or
refused, with LSN and epoch. The node asked fetches the other members' journals over their admin_listen; whose cannot be had
is said. Without a running node the files are read, of that node alone. The order is that of a clock which the controllers
share: what may have been the cause of something stands before it, whatever the hosts' own clocks say.

Examples:
  $ walship journal --dir /var/lib/walship/a --since 10min
  $ walship journal --since 2026-05-01T12:30:00Z --node b
  $ walship journal --follow --json | jq 'select(.level != "info")'`,
  )
  .action(does(async (options) => (await import('./journal.js')).showJournal(options)));

aimed(program.command('rails'))
  .description('Shows the network paths between a node and its upstream: which are used, and why.')
  .option('--pin <pattern...>', 'use these rails as long as one of them is up; * stands for anything')
  .option('--exclude <pattern...>', 'never use these')
  .option('--auto', 'neither: by the configuration again')
  .option('--json', 'as JSON')
  .addHelpText(
    'after',
    `
A rail is named by transport, RDMA device here, and address there: tcp@10.0.0.2:7100, verbs:mlx5_0@10.0.0.2:7100. What is
chosen here holds until the next choice or a restart of the node ([rails] in the configuration is for good). Every rail has a
spare link; the session moves from one to another by a hand-shake, so nothing is lost, doubled or reordered.

Examples:
  $ walship rails --dir /var/lib/walship/b
  $ walship rails --dir /var/lib/walship/b --exclude 'verbs:mlx5_1@*'
  $ walship rails --dir /var/lib/walship/b --auto`,
  )
  .action(does(async (options) => (await import('./rails.js')).railsOf(options)));

aimed(program.command('verify'))
  .description(
    'Has a running node compare every page of its log: memory, disk, and the disks of its neighbours.',
  )
  .option('--repair', 'repair damaged pages from good copies, while the node goes on')
  .option(
    '--rate <size>',
    'so much a second at most, and less while the log is busy; 0: as fast as it goes',
    size,
    64 * 1024 * 1024,
  )
  .option('--json', 'the outcome as JSON; LSNs are decimal text')
  .addHelpText(
    'after',
    `
Looks at the node asked; ask every node. Its neighbours are those that it gets the log from or gives it to. A page is right
if it verifies and continues those beside it; what is found is the node's own to repair, never a neighbour's. Where no copy
can be proved right, the page is left as it is, a copy of it is put into the log directory (scrub/), and it is listed as
isolated. Nodes do the same in the background, slowly: [scrub] in the configuration. The node's journal has every step.

Exit code 4 if something is in bad order and was not repaired.

Examples:
  $ walship verify --dir /var/lib/walship/a
  $ walship verify --dir /var/lib/walship/a --repair --rate 200MiB`,
  )
  .action(does(async (options) => (await import('./verify.js')).verifyNode(options)));

const log = program
  .command('log')
  .description("Reads a log's files, without a running node: inspect, verify, export. Nothing is changed.");

log
  .command('inspect')
  .description('Shows what a log holds, and whether it can be opened.')
  .argument('<dir>', "the log's directory, or a diverged-… file in it")
  .option('--segments', 'list the segment files')
  .option('--json', 'as JSON; LSNs and epochs are decimal text')
  .addHelpText('after', '\nExample:\n  $ walship log inspect /var/lib/walship/a')
  .action(does(async (path, options) => (await import('./log.js')).inspect(path, options)));

log
  .command('verify')
  .description('Checks every page and frame, and lists every problem with its file and offset.')
  .argument('<dir>', "the log's directory, or a diverged-… file in it")
  .option('--json', 'as JSON; LSNs and epochs are decimal text')
  .addHelpText(
    'after',
    `
Exit code 4 if there are problems. A running node repairs a damaged log from others: walship verify --repair. One whose log
cannot be opened is restored from another one.

Example:
  $ walship log verify /var/lib/walship/a`,
  )
  .action(does(async (path, options) => (await import('./log.js')).verify(path, options)));

log
  .command('export')
  .description('Writes the payload of a range of the log: exactly the bytes that were appended there.')
  .argument('<dir>', "the log's directory, or a diverged-… file in it")
  .option('--from <lsn>', 'first byte (default: the oldest there is)', lsn)
  .option('--to <lsn>', 'end, not included (default: the end of the log)', lsn)
  .option('-o, --out <file>', 'where to; - for standard output', '-')
  .addHelpText(
    'after',
    `
Examples:
  $ walship log export /var/lib/walship/a --from 0/16B3740 --to 0/16B4000 --out piece.bin
  $ walship log export /var/lib/walship/a | sha256sum`,
  )
  .action(does(async (path, options) => (await import('./log.js')).exportRange(path, options)));

addDatabaseCommands(program);

program
  .command('capabilities')
  .description('Says what this host has of RDMA, and what to do about what is missing.')
  .option('--json', 'as JSON')
  .addHelpText('after', '\nExample:\n  $ walship capabilities')
  .action(does(async (options) => (await import('./capabilities.js')).showCapabilities(options)));

const config = program.command('config').description('Helps with the configuration file of a node.');

config
  .command('example')
  .description('Prints a configuration file with every setting, what it does and its default.')
  .addHelpText('after', '\nExample:\n  $ walship config example > walship.toml')
  .action(does(async () => (await import('./config.js')).showExample()));

config
  .command('check')
  .description('Reads a configuration file and lists everything wrong with it.')
  .argument('[file]', 'configuration file', 'walship.toml')
  .addHelpText('after', '\nExample:\n  $ walship config check /etc/walship/a.toml')
  .action(does(async (file) => (await import('./config.js')).checkConfig(file)));

// A reader of the output that goes away ends a command, but not a node: its log is not what it is there for.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error;
  if (process.argv[2] !== 'node') process.exit(exitCode.ok);
});

try {
  await program.parseAsync();
} catch (error) {
  if (error instanceof CommanderError) {
    // Commander has printed its message, or the help or version asked for.
    process.exit(error.exitCode === 0 ? exitCode.ok : exitCode.usage);
  }
  const { message, code } = outcomeOf(error);
  process.stderr.write(`walship: ${message}\n`);
  process.exit(code);
}
// What is still open, such as an input that nobody appends any more, does not keep the process.
process.exit();
