/** A node that is to be given an upstream. */
export interface PlannedNode {
  readonly node: string;
  /** Whom it follows at present. */
  readonly parent?: string | undefined;
  /** Kinds of rails it has, such as `verbs` and `tcp`: a pair with more of them in common is preferred. */
  readonly rails?: readonly string[];
}

export interface PlanInput {
  readonly primary: PlannedNode;
  /** Those that live, without the primary. */
  readonly standbys: readonly PlannedNode[];
  /** Most standbys below one node. */
  readonly fanOut: number;
  /** Whether `node` could not be reached by `child`, or would not have it, a moment ago. */
  readonly avoids?: (child: string, node: string) => boolean;
}

/**
 * Gives every standby an upstream: the tree that the primary's log is shipped along.
 *
 * As few nodes as possible are moved: whoever follows a node that is in the tree, within the fan-out, stays there, and
 * what hangs below a node that moves stays below it. The others are put, one by one in the order of their names, below
 * the nearest node to the primary that has room; of several equally near ones, first those with the same kinds of rails.
 * There are no cycles: a node is only ever put below one that is connected with the primary already.
 *
 * @returns the upstream of every standby. One that everybody avoids is put below the primary: it must try somewhere.
 */
export function planTree(input: PlanInput): Map<string, string> {
  const avoids = input.avoids ?? (() => false);
  const nodes = new Map([input.primary, ...input.standbys].map((node) => [node.node, node]));
  const wish = new Map<string, string[]>();
  for (const { node, parent } of [...input.standbys].sort(byName)) {
    if (parent === undefined || !nodes.has(parent) || parent === node || avoids(node, parent)) continue;
    const siblings = wish.get(parent);
    if (siblings) siblings.push(node);
    else wish.set(parent, [node]);
  }

  const parents = new Map<string, string>();
  const depth = new Map([[input.primary.node, 0]]);
  const children = new Map<string, number>();
  const place = (node: string, parent: string) => {
    parents.set(node, parent);
    depth.set(node, (depth.get(parent) ?? 0) + 1);
    children.set(parent, (children.get(parent) ?? 0) + 1);
  };
  /** Whoever wishes to stay below `node` does, and so on downwards. */
  const keepBelow = (root: string) => {
    const open = [root];
    for (let node = open.shift(); node !== undefined; node = open.shift()) {
      for (const child of wish.get(node) ?? []) {
        if (depth.has(child) || (children.get(node) ?? 0) >= input.fanOut) continue;
        place(child, node);
        open.push(child);
      }
    }
  };

  keepBelow(input.primary.node);
  const waiting = [...input.standbys].sort(byName).filter(({ node }) => !depth.has(node));
  // Heads of subtrees first: what hangs below them then need not move.
  const heads = waiting.filter(({ node, parent }) => !(parent && nodes.has(parent) && !avoids(node, parent)));
  for (const { node } of [...heads, ...waiting]) {
    if (depth.has(node)) continue;
    const rails = new Set(nodes.get(node)?.rails);
    let best: { node: string; depth: number; shared: number } | undefined;
    for (const [candidate, at] of depth) {
      if ((children.get(candidate) ?? 0) >= input.fanOut || avoids(node, candidate)) continue;
      const shared = (nodes.get(candidate)?.rails ?? []).filter((rail) => rails.has(rail)).length;
      const better =
        !best ||
        at < best.depth ||
        (at === best.depth && (shared > best.shared || (shared === best.shared && candidate < best.node)));
      if (better) best = { node: candidate, depth: at, shared };
    }
    place(node, best?.node ?? input.primary.node);
    keepBelow(node);
  }
  return parents;
}

function byName(a: PlannedNode, b: PlannedNode): number {
  return a.node < b.node ? -1 : a.node > b.node ? 1 : 0;
}
