import type { CommitRule } from '../engine/options.js';
import type { Facts } from './protocol.js';
import { chooseStandbys, ruleOver, standbysNeeded, standbysOf } from './quorum.js';
import type { Reign } from './reign.js';
import { eligibleBut, swap, type Turn } from './state.js';

/**
 * A node is in the record before the data plane counts it, and out of the data plane's rule, with all that was committed
 * by then held by the others, before it is out of the record. So whoever takes over by the record meets every commit.
 */
export function keepRule(turn: Turn, reign: Reign): void {
  const { state, settings, facts, now } = turn;
  if (settings.rule.level === 'async' || !state.view) return;
  for (const { node } of facts.standbys) reign.seen.set(node, now);
  const here = new Set<string>();
  for (const [node, at] of reign.seen) if (now - at < settings.dropMs) here.add(node);
  const inRecord = standbysOf(reign.record.rule);
  if (reign.record.previous) forgetPrevious(turn, reign);
  const wanted = chooseStandbys(settings.rule, eligibleBut(state.view, settings.node), here, inRecord);
  if (same(wanted, inRecord)) {
    reign.narrowedAt = undefined;
    if (!same(standbysOf(reign.rule), wanted)) setRule(turn, reign, reign.record.rule);
    return;
  }
  if (wanted.some((node) => !inRecord.includes(node))) {
    reign.narrowedAt = undefined;
    if (state.swap) return;
    const rule = ruleOver(settings.rule, [...new Set([...inRecord, ...wanted])].sort());
    swap(turn, 'rule', state.view.revision, { ...reign.record, rule, renewal: reign.record.renewal + 1 });
    return;
  }
  const narrow = ruleOver(settings.rule, wanted);
  if (!same(standbysOf(reign.rule), wanted)) {
    reign.narrowedAt = undefined;
    setRule(turn, reign, narrow);
    return;
  }
  // A step after the data plane was told: nothing is committed by the wider rule any more.
  reign.narrowedAt ??= facts.committed;
  if (state.swap || !hold(facts, narrow, reign.narrowedAt)) return;
  swap(turn, 'rule', state.view.revision, {
    ...reign.record,
    rule: narrow,
    renewal: reign.record.renewal + 1,
  });
}

/** Every set of promises that is enough from now on has a node with all of what was committed before this reign. */
function forgetPrevious(turn: Turn, reign: Reign): void {
  const { state, facts } = turn;
  if (state.swap || !state.view || !hold(facts, reign.record.rule, reign.firstLsn)) return;
  const { previous: _, ...record } = reign.record;
  swap(turn, 'rule', state.view.revision, { ...record, renewal: record.renewal + 1 });
}

function setRule(turn: Turn, reign: Reign, rule: CommitRule): void {
  reign.rule = rule;
  turn.actions.push({ type: 'rule', rule });
}

/** Whether as many of the rule's nodes as it needs have everything below `lsn` at its level. */
function hold(facts: Facts, rule: CommitRule, lsn: bigint): boolean {
  if (rule.level === 'async') return true;
  const { level } = rule;
  const names = standbysOf(rule);
  return (
    facts.standbys.filter((standby) => names.includes(standby.node) && standby[level] >= lsn).length >=
    standbysNeeded(rule)
  );
}

function same(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((node) => b.includes(node));
}
