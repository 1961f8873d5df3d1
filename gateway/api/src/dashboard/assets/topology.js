// Topology: what is in force, what was before, how two of them differ, and what the gateways find.

import { h } from './dom.js';
import { ask } from './api.js';
import { answers, items } from './model.js';
import { moment, natural, plural, span, since, whole } from './format.js';
import { address, cardhead, cell, failure, foot, note, pair, plain, prose, quiet, sign, view } from './parts.js';
import { compare } from './difference.js';

export function checksOf(source) {
  if (!source?.value) return null;
  const found = new Map();
  for (const entry of answers(source.value, source.at)) {
    for (const check of entry.old ? [] : items(entry)) {
      // What several zones say in the same words is said once.
      const key = JSON.stringify([check.group, check.name, check.status, check.message]);
      const known = found.get(key);
      if (known) known.zones.push(entry.zone);
      else found.set(key, { ...check, key, zones: [entry.zone] });
    }
  }
  return [...found.values()];
}

export function topologyView({ sources, checks, federation, parameters, go, redraw, now }) {
  return view('topology', 'Topology',
    h('div', { class: 'beside even' }, inForce(sources.topology, federation, now), history(sources.history, parameters, now)),
    difference(sources, parameters, go, redraw), findings(sources.checks, checks, parameters, go));
}

function inForce(source, federation, now) {
  const item = source.value?.items?.[0];
  if (!item) return h('div', { class: 'card' }, failure(source, 'topology'));
  const others = [...federation.zones.values()].flatMap((zone) => (zone.near?.zone.links ?? []).filter((link) => link.same_topology === false).map((link) => `${zone.name}/${link.gateway}`));
  const from = { file: 'a file at this gateway; nothing can be applied', initial: 'the initial file; nothing was applied yet', applied: 'applied' }[item.source] ?? item.source;
  return h('div', { class: 'card', key: 'force' }, cardhead('In force'),
    h('p', { class: 'figure-big' }, h('b', null, item.generation ? `Generation ${item.generation}` : 'Not applied yet'), ' ', h('code', null, item.fingerprint)),
    h('dl', { class: 'facts' }, pair('From', from), item.applied_by ? pair('Applied', `by ${item.applied_by}, ${moment(item.applied_at)} (${span(since(item.applied_at, now))} ago)`) : null, pair('Trust domain', item.trust_domain), pair('Mesh DNS', `*.${item.dns_domain}, ${item.dns_ttl_seconds} s`),
      pair('Zones', plural(item.zones?.length ?? 0, 'zone')), pair('Services', plural(item.services?.length ?? 0, 'service')),
      pair('Others', others.length ? h('span', { class: 'warn' }, sign('suspect'), ` another topology at ${others.join(', ')}`) : 'every gateway that is heard has the same')));
}

function history(source, parameters, now) {
  const list = source.value?.items ?? [];
  let body;
  if (source.error?.status === 403 && !source.value) body = note('plain', 'There is no history.', h('p', null, source.error.message), source.error.hint ? plain(prose(source.error.hint)) : null);
  else if (!source.value) body = failure(source, 'history');
  else if (!list.length) body = note('plain', 'Nothing was applied yet.', h('p', null, h('code', null, 'causeway apply -f topology.yaml'), ' makes the first generation.'));
  else {
    body = h('ol', { class: 'history' }, list.map((item, index) => {
      const before = list.find((other) => other.generation === item.follows) ?? list[index + 1];
      const id = nameOf(item);
      return h('li', { key: id, class: item.standing === 'in force' ? 'good' : null }, h('span', null, h('b', null, `Generation ${item.generation}`), quiet(`${moment(item.applied_at)} by ${item.applied_by}${item.reason ? `: ${item.reason}` : ''}`)), h('span', { class: 'chip' }, item.standing),
        before && before !== item ? h('a', { class: 'more', href: address('topology', { from: nameOf(before), to: id }), 'aria-current': parameters.to === id ? 'true' : null }, 'what changed') : null);
    }));
  }
  return h('div', { class: 'card', key: 'history' }, cardhead('History'), body);
}

const nameOf = (item) => `${item.generation}.${item.fingerprint}`;
const told = { key: null, changes: null, error: null };

/** Changes in words where one of the two is in force: the gateway compares a text with that one. */
function inWords(from, to, redraw) {
  const key = `${nameOf(from)}|${nameOf(to)}`;
  if (told.key === key) return;
  Object.assign(told, { key, changes: null, error: null });
  const [forced, other] = to.standing === 'in force' ? [to, from] : from.standing === 'in force' ? [from, to] : [null, null];
  if (!forced) return;
  ask('/v1/topology/diff', { method: 'POST', body: other.text }).then((answer) => {
    if (told.key !== key) return;
    const backwards = forced === to;
    told.changes = (answer.items?.[0]?.changes ?? []).map((change) => (backwards ? { subject: change.subject, kind: { added: 'removed', removed: 'added' }[change.kind] ?? change.kind, before: change.after, after: change.before } : change));
    redraw();
  }, (error) => {
    if (told.key === key) told.error = error;
    redraw();
  });
}

function difference(sources, parameters, go, redraw) {
  const list = sources.history.value?.items ?? [];
  if (list.length < 2) return null;
  const find = (name) => list.find((item) => nameOf(item) === name);
  const to = find(parameters.to);
  const from = find(parameters.from);
  const choice = (name, value) => h('label', null, h('span', null, name === 'from' ? 'From' : 'To'), h('select', { value: value ?? '', onchange: (event) => go('topology', { ...parameters, [name]: event.target.value }, true) },
    h('option', { value: '', key: ' ' }, 'pick a generation'), list.map((item) => h('option', { key: nameOf(item), value: nameOf(item), selected: nameOf(item) === value }, `${item.generation}, ${item.standing}`))));
  const both = from && to && from !== to;
  if (both) inWords(from, to, redraw);
  return h('div', { class: 'card', key: 'difference' }, cardhead('What differs', h('div', { class: 'filters' }, choice('from', parameters.from), choice('to', parameters.to))),
    !both ? foot('Pick two generations, or “what changed” above.') : [told.changes ? changesInWords(told.changes) : told.error ? h('p', { class: 'quiet foot', key: 'error' }, `The gateway does not compare them in words: ${told.error.message}`) : null, lines(from, to)]);
}

function changesInWords(changes) {
  if (!changes.length) return h('p', { class: 'quiet foot', key: 'words' }, 'Nothing differs but the way it is written.');
  const tones = { added: 'good', removed: 'bad' };
  return h('ul', { class: 'changes', key: 'words' }, changes.map((change, index) => h('li', { key: index, class: tones[change.kind] ?? 'warn' }, h('b', null, change.kind), ' ', change.subject, change.before || change.after ? quiet([change.before, change.after].filter(Boolean).join(' → ')) : null)));
}

const drawn = { key: null, node: null };

function lines(from, to) {
  const key = `${nameOf(from)}|${nameOf(to)}`;
  if (drawn.key === key) return drawn.node;
  const parts = compare(from.text ?? '', to.text ?? '');
  drawn.key = key;
  drawn.node = h('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': 'Lines that differ', key: 'lines' }, h('table', { class: 'difference' }, h('tbody', null, parts.map((part, index) => h('tr', { key: index, class: part.kind }, cell(part.left ?? ''), cell(part.right ?? ''), h('td', { class: 'mark' }, { added: '+', removed: '−' }[part.kind] ?? ''), h('td', null, h('code', null, part.text)))))));
  return drawn.node;
}

const SIGN = { ok: 'up', warn: 'suspect', fail: 'down' };
/** Most findings that are drawn. */
const MOST_FINDINGS = 300;

function findings(source, checks, parameters, go) {
  if (!checks) return h('div', { class: 'card', key: 'findings' }, cardhead('Findings'), failure(source, 'checks'));
  const several = new Set(checks.flatMap((check) => check.zones)).size > 1;
  const rank = { fail: 0, warn: 1, ok: 2 };
  const rows = checks.filter((check) => parameters.all || check.status !== 'ok').sort((a, b) => rank[a.status] - rank[b.status] || natural(a.group, b.group) || natural(a.name, b.name));
  const number = (status) => checks.filter((check) => check.status === status).length;
  return h('div', { class: 'card', key: 'findings', id: 'findings' }, cardhead('Findings', plain(`${whole(number('ok'))} passed, ${whole(number('warn'))} to look at, ${whole(number('fail'))} failed`),
    h('label', { class: 'check' }, h('input', { type: 'checkbox', checked: Boolean(parameters.all), onchange: (event) => go('topology', { ...parameters, all: event.target.checked ? 1 : null }, true) }), h('span', null, 'Also what passes'))),
    rows.length ? h('ul', { class: 'findings' }, rows.slice(0, MOST_FINDINGS).map((check) => h('li', { key: check.key, 'data-status': check.status }, sign(SIGN[check.status] ?? 'unknown'), h('span', null, h('b', null, check.name), ' ', prose(check.message), check.hint && check.status !== 'ok' ? quiet(prose(check.hint)) : null), h('span', { class: 'where' }, h('span', { class: 'chip' }, check.group), several ? h('span', { class: 'chip', title: check.zones.join(', ') }, check.zones.length > 2 ? `${check.zones[0]} and ${check.zones.length - 1} more` : check.zones.join(', ')) : null)))) : h('p', { class: 'calm' }, sign('up'), ' Every check passes.'),
    rows.length > MOST_FINDINGS ? foot(`${rows.length - MOST_FINDINGS} more; causeway check shows all.`) : null);
}
