// How two texts differ, line by line. Pure.

/** Lines around a difference that are shown. */
const AROUND = 3;
/** Most steps of the search; what differs in more is shown as replaced. */
const MOST_STEPS = 2_000;

/** `{ kind: 'same' | 'added' | 'removed' | 'gap', left, right, text }`, with numbers of lines. */
export function compare(before, after) {
  const [a, b] = [before.split('\n'), after.split('\n')];
  let head = 0;
  while (head < a.length && head < b.length && a[head] === b[head]) head += 1;
  let tail = 0;
  while (tail < a.length - head && tail < b.length - head && a[a.length - 1 - tail] === b[b.length - 1 - tail]) tail += 1;
  const middle = shortest(a.slice(head, a.length - tail), b.slice(head, b.length - tail));
  const all = [];
  for (let index = 0; index < head; index += 1) all.push({ kind: 'same', left: index + 1, right: index + 1, text: a[index] });
  for (const part of middle) all.push({ ...part, left: part.left === null ? null : part.left + head, right: part.right === null ? null : part.right + head });
  for (let index = 0; index < tail; index += 1) all.push({ kind: 'same', left: a.length - tail + index + 1, right: b.length - tail + index + 1, text: a[a.length - tail + index] });
  return folded(all);
}

/** Myers, "An O(ND) difference algorithm and its variations" (1986), the greedy form. */
function shortest(a, b) {
  const limit = Math.min(a.length + b.length, MOST_STEPS);
  const trace = [];
  let reach = new Map([[1, 0]]);
  for (let steps = 0; steps <= limit; steps += 1) {
    trace.push(new Map(reach));
    for (let line = -steps; line <= steps; line += 2) {
      const down = line === -steps || (line !== steps && (reach.get(line - 1) ?? -1) < (reach.get(line + 1) ?? -1));
      let x = down ? reach.get(line + 1) ?? 0 : (reach.get(line - 1) ?? 0) + 1;
      while (x < a.length && x - line < b.length && a[x] === b[x - line]) x += 1;
      reach.set(line, x);
      if (x >= a.length && x - line >= b.length) return back(a, b, trace);
    }
  }
  return [...a.map((text, index) => ({ kind: 'removed', left: index + 1, right: null, text })), ...b.map((text, index) => ({ kind: 'added', left: null, right: index + 1, text }))];
}

function back(a, b, trace) {
  const parts = [];
  let [x, y] = [a.length, b.length];
  for (let steps = trace.length - 1; steps >= 0; steps -= 1) {
    const reach = trace[steps];
    const line = x - y;
    const down = line === -steps || (line !== steps && (reach.get(line - 1) ?? -1) < (reach.get(line + 1) ?? -1));
    const from = down ? line + 1 : line - 1;
    const fromX = steps === 0 ? 0 : reach.get(from) ?? 0;
    const fromY = steps === 0 ? 0 : fromX - from;
    while (x > fromX && y > fromY) {
      parts.push({ kind: 'same', left: x, right: y, text: a[x - 1] });
      x -= 1;
      y -= 1;
    }
    if (steps === 0) break;
    if (down) parts.push({ kind: 'added', left: null, right: y, text: b[y - 1] });
    else parts.push({ kind: 'removed', left: x, right: null, text: a[x - 1] });
    [x, y] = [fromX, fromY];
  }
  return parts.reverse();
}

/** Leaves out what is far from any difference. */
function folded(all) {
  const near = new Uint8Array(all.length);
  all.forEach((part, index) => {
    if (part.kind !== 'same') near.fill(1, Math.max(0, index - AROUND), index + AROUND + 1);
  });
  const shown = [];
  all.forEach((part, index) => {
    if (near[index]) shown.push(part);
    else if (shown.at(-1)?.kind !== 'gap') shown.push({ kind: 'gap', left: null, right: null, text: '⋯' });
  });
  return shown;
}
