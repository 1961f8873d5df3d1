// Zones: the map, who says what of whom, and what is known of the zone or line that was picked.

import { h } from './dom.js';
import { figuresUntil, STATES } from './model.js';
import { bytesPerSecond, count, finite, listed, milliseconds, minute, moment, percent, plural, since, span, tags, word } from './format.js';
import { describe, map } from './map.js';
import { address, cardhead, cell, failure, foot, heads, inspector, note, pair, plain, prose, quiet, sign, state, unseen } from './parts.js';

export function zonesView({ federation, sources, figures, checks, lost, parameters, width, now }) {
  const look = () => attention(federation, { checks, lost, now });
  if (!federation.own) return h('section', { key: 'zones' }, failure(sources.zones, 'zones'));
  const picked = federation.zones.has(parameters.zone) ? parameters.zone : null;
  const wide = width >= 1040;
  const inner = width - (wide ? 372 : 0) - (width < 560 ? 32 : 50);
  return h('section', { key: 'zones', class: `view zones${picked ? ' with-inspector' : ''}` },
    unseen('Zones'), summary(federation, checks, figuresUntil(figures.value)),
    h('div', { class: 'beside' },
      h('div', { class: 'card mapcard' },
        cardhead('Zones and tunnels', legend(federation)),
        map(federation, { width: Math.max(280, Math.round(inner)), picked }), mapNote(federation, figures)),
      picked ? zoneInspector(federation, picked, parameters.to, now) : wide ? look() : null),
    !picked && !wide ? look() : null, matrix(federation, parameters, { now, narrow: width < 700 }));
}

const tile = (label, value, more, tone) => h('div', { class: `tile ${tone ?? ''}`, key: label }, h('dt', null, label), h('dd', null, h('b', null, value), ' ', h('span', null, more)));

function summary({ own, names, zones, edges, federated }, checks, until) {
  const list = [...zones.values()];
  const well = list.filter((zone) => ['good', 'calm'].includes(STATES[zone.state].tone)).length;
  const bad = list.filter((zone) => STATES[zone.state].tone === 'bad').length;
  const answered = list.filter((zone) => zone.answer === 'answered').length;
  const up = edges.filter((edge) => edge.tunnels > 0 && STATES[edge.state].tone !== 'bad').length;
  const bytes = edges.reduce((all, edge) => all + (edge.bytes || 0), 0);
  const requests = edges.reduce((all, edge) => (finite(edge.requests) ? (all ?? 0) + edge.requests : all), null);
  const findings = checks ? checks.filter((check) => check.status !== 'ok').length : null;
  const failed = checks ? checks.filter((check) => check.status === 'fail').length : 0;
  // What not all have told says whose word it is.
  const whose = answered === names.length ? '' : federated && answered > 1 ? `, say ${answered} of ${names.length}` : `, says ${own} alone`;
  return h('dl', { class: 'tiles' },
    tile('Zones up', `${well}`, `of ${names.length}${whose}`, bad ? 'bad' : well < list.length ? 'warn' : 'good'),
    tile('Pairs with a tunnel', `${up}`, `of ${edges.length}${whose}`, up < edges.length ? 'warn' : 'good'),
    tile('Between zones', bytesPerSecond(bytes), `${requests === null ? '' : `${count(requests)} req/s until ${minute(until)}`}${whose}`),
    tile('Asked', federated ? `${answered}` : '1', federated ? `of ${names.length} answered` : 'this zone alone', federated && answered < names.length ? 'warn' : ''),
    tile('Findings', findings === null ? '–' : `${findings}`, `${failed ? `${failed} failed` : findings ? 'to look at' : ''}${whose}`.replace(/^, /, ''), failed ? 'bad' : findings ? 'warn' : 'good'));
}

function legend({ zones, edges }) {
  const states = new Set([...[...zones.values()].map((zone) => zone.state), ...edges.map((edge) => edge.state)]);
  states.delete('own');
  states.add('up');
  return h('ul', { class: 'legend', 'aria-label': 'Signs' }, [...states].sort((a, b) => STATES[b].rank - STATES[a].rank).map((name) => h('li', { key: name }, state(name))));
}

function mapNote(federation, figures) {
  const told = [];
  if (figures?.error?.status === 404) told.push('Requests are not counted by this version.');
  if (federation.names.length > 14) told.push('Pick a zone to see the others as it sees them.');
  return told.length ? foot(told.join(' ')) : null;
}

/** What an operator should look at, worst first. */
function attention(federation, { checks, lost, now }) {
  const { silent, own } = federation;
  const lines = [];
  for (const zone of federation.zones.values()) {
    if (['own', 'up'].includes(zone.state)) continue;
    const said = zone.words.find((one) => one.state === zone.state) ?? zone.near;
    lines.push({ rank: STATES[zone.state].rank, key: `z${zone.name}`, sign: zone.state, href: address('zones', { zone: zone.name }), title: `${zone.name} is ${STATES[zone.state].label}`, text: reason(zone, said) });
  }
  for (const { service, zones, since: begun, because } of lost.values()) {
    lines.push({ rank: 0.5, key: `s${service}`, sign: 'down', href: address('services', { service }), title: `Nobody can serve ${service} from ${listed(zones)}`, text: `${begun ? `since ${span((now - begun) / 1000)}` : ''}${begun && because ? '; ' : ''}${because ?? ''}` });
  }
  for (const { names, because, refused, states } of silent) {
    // Of who is away that is said above; that no others are asked is no fault.
    if (refused || states.some((one) => ['up', 'drained'].includes(one) && federation.federated)) lines.push({ rank: 2.5, key: `r${because}`, sign: 'unknown', href: address('zones', { zone: names[0] }), title: `No word from ${listed(names)}`, text: `${because}${because ? '; ' : ''}what is shown is without it` });
  }
  for (const check of checks ?? []) {
    // That a zone is away is said above.
    if (check.status === 'ok' || federation.zones.has(check.name.replace(/^zone /, '')) || (check.group === 'services' && lost.has(check.name))) continue;
    lines.push({ rank: check.status === 'fail' ? 1.5 : 8, key: `c${check.key}`, sign: check.status === 'fail' ? 'down' : 'suspect', href: address('topology', { findings: 1 }), title: `${check.name}`, text: `${check.message || check.hint || check.group}${federation.names.length > 1 ? ` (says ${check.zones.length > 2 ? `${check.zones[0]} and ${check.zones.length - 1} more` : check.zones.join(' and ')})` : ''}` });
  }
  lines.sort((a, b) => a.rank - b.rank);
  const shown = lines.slice(0, 6);
  return h('aside', { class: 'card attention', key: 'attention', 'aria-label': 'To look at' }, cardhead('To look at'),
    shown.length ? h('ul', null, shown.map((line) => h('li', { key: line.key }, h('a', { href: line.href }, sign(line.sign), h('span', null, h('b', null, line.title), quiet(prose(line.text))))))) :
      silent.length ? h('p', { class: 'calm' }, sign('unknown'), ` Nothing that ${own} tells of. Not asked: ${silent.map(({ names, because }) => `${listed(names)} (${because})`).join('; ')}.`) :
        h('p', { class: 'calm' }, sign('up'), ' Nothing. Every zone is up', checks ? ' and every check passes.' : '.'),
    lines.length > shown.length ? h('a', { class: 'more', href: address('topology', { findings: 1 }) }, `${lines.length - shown.length} more`) : null);
}

function reason(zone, said) {
  const parts = [];
  const same = zone.words.filter((one) => one.state === zone.state);
  if (same.length && same.length < zone.words.length) parts.push(same.length > 3 ? `so say ${same.length} of ${zone.words.length}` : `so says ${same.map((one) => one.observer).join(' and ')}, and the other ${zone.words.length - same.length} not`);
  if (said?.zone.last_word) parts.push(lastWord(said));
  if (said && finite(said.heard) && ['bad', 'warn'].includes(STATES[zone.state].tone)) parts.push(`last heard ${span(said.heard)} ago`);
  if (zone.state === 'drained') parts.push(zone.declared?.drain?.by ? `open connections end by ${moment(zone.declared.drain.by)}` : 'its traffic goes elsewhere');
  if (zone.because) parts.push(zone.because);
  return parts.join('; ');
}

function lastWord(said) {
  const { side, reason: why, seconds_ago: ago } = said.zone.last_word;
  const who = side === 'peer' ? `it refuses ${said.observer}` : side ? `${said.observer} refuses it` : 'nobody was reached';
  return `${who}: ${word(why)}, ${span(ago)} ago`;
}

function sentence(said) {
  const parts = [`${said.observer} says of ${said.subject}: ${STATES[said.state].label}`];
  if (said.held) parts.push(`for ${span(said.held.seconds)}, ${said.held.by}`);
  if (finite(said.rtt)) parts.push(`round trip ${milliseconds(said.rtt)}`);
  if (said.old) parts.push(`in its last answer, of ${moment(said.old)}`);
  return parts.join(', ');
}

/** A row for each zone that says, a column for each of which it is said. */
function matrix(federation, parameters, { now, narrow }) {
  const { says, zones } = federation;
  const rank = (name) => STATES[zones.get(name).state].rank;
  // Where not all columns are seen, what is ill comes first.
  const names = narrow ? [...federation.names].sort((a, b) => rank(a) - rank(b)) : federation.names;
  if (names.length < 2) return note('plain', 'There is one zone.', h('p', null, 'With a second one in the topology, what each says of the other is shown here.'));
  const many = names.length > 16;
  const order = names.join();
  const head = h('tr', { key: 'head' }, h('td', { class: 'corner' }, h('span', null, 'says'), h('span', null, 'of')), names.map((name) => h('th', { key: name, scope: 'col' }, h('span', { title: name }, name))));
  return h('div', { class: 'card', key: 'matrix' },
    cardhead('Who says what of whom', plain(many ? 'Sign only; point at one, or pick it, to read it.' : `Sign, round trip, and for how long it has been so.${narrow ? ' Worst first; more to the right.' : ''}`)),
    h('div', { class: `scroll matrix${many ? ' many' : ''}`, tabindex: 0, role: 'region', 'aria-label': 'Health by zone and zone' },
      h('table', null, h('thead', null, head), h('tbody', null, federation.names.map((name) => matrixRow(name, { names, order, row: says.get(name), zone: zones.get(name), many, parameters, now }))))));
}

const rows = new Map();

/** The row as it was drawn before, where nothing in it is another: of 100 zones there are 10,000 cells. */
function matrixRow(observer, { names, order, row, zone, many, parameters, now }) {
  const picked = parameters.zone === observer ? parameters.to : '';
  const told = names.map((name) => {
    const said = row?.get(name);
    return said ? `${said.state} ${Math.round(said.rtt * 10)} ${said.held ? span(said.held.seconds) : ''}` : '';
  });
  const mark = [many, picked, zone.answer, zone.because, zone.old && span(since(zone.old, now)), order, ...told].join('|');
  const known = rows.get(observer);
  if (known?.mark === mark) return known.drawn;
  const drawn = drawRow(observer, { names, row, zone, many, parameters, now });
  rows.set(observer, { mark, drawn });
  return drawn;
}

function drawRow(observer, { names, row, zone, many, parameters, now }) {
  const answered = row && [...row.values()].some((said) => said.answered);
  const silent = !row || !row.size;
  const head = h('th', { scope: 'row' }, h('a', { href: address('zones', { zone: observer }) }, observer),
    answered ? null : quiet(silent ? silence(zone) : `last word ${span(since(zone.old, now))} ago`));
  const cells = silent ? h('td', { class: 'silent', colspan: names.length, key: 'silent' }, silenceLong(zone)) : names.map((subject) => matrixCell(row.get(subject), observer, subject, many, parameters));
  return h('tr', { key: observer, class: answered ? null : 'old' }, head, cells);
}

const silence = (zone) => (zone.answer === 'unasked' ? 'not asked' : zone.answer === 'refused' ? 'refused' : 'no answer');

function silenceLong(zone) {
  if (zone.answer === 'unasked') return 'Not asked: this gateway tells of its own zone alone.';
  return `${zone.answer === 'refused' ? 'It does not tell' : 'It does not answer'}${zone.because ? `: ${zone.because}` : '.'}`;
}

function matrixCell(said, observer, subject, many, parameters) {
  if (observer === subject) return h('td', { key: subject, class: 'self' }, h('span', { class: 'unseen' }, 'itself'));
  if (!said) return h('td', { key: subject, class: 'none' }, sign('unknown'), h('span', { class: 'unseen' }, 'not known'));
  const { tone, label } = STATES[said.state];
  const picked = parameters.zone === observer && parameters.to === subject;
  const figure = tone === 'good' || said.state === 'drained' ? milliseconds(said.rtt) : label;
  return h('td', { key: subject, class: `${tone}${picked ? ' picked' : ''}`, 'data-says': observer, 'data-of': subject, 'data-state': said.state, 'data-rtt': finite(said.rtt) ? said.rtt : null },
    h('a', { href: address('zones', { zone: observer, to: subject }), title: sentence(said), tabindex: many ? -1 : null }, sign(said.state), many ? h('span', { class: 'unseen' }, label) : [h('span', { class: 'figure' }, finite(said.rtt) || tone !== 'good' ? figure : label), quiet(said.held ? span(said.held.seconds) : '')]));
}

function zoneInspector(federation, name, to, now) {
  const zone = federation.zones.get(name);
  if (to && federation.zones.has(to) && to !== name) return lineInspector(federation, name, to, now);
  const declared = zone.declared ?? {};
  const links = zone.near?.zone.links ?? [];
  return inspector(name, '#zones',
    h('p', { class: 'lead' }, state(zone.state), zone.own ? quiet(' the zone that answers here') : null),
    reason(zone, zone.near) ? plain(reason(zone, zone.near)) : null,
    h('dl', { class: 'facts' }, pair('Asked', asked(zone, now)), pair('Tags', tags(declared.tags)),
      pair('Ways in', declared.gateways?.length ? declared.gateways.flat().join(', ') : 'none: it dials out'),
      declared.drain ? pair('Drained', declared.drain.by ? `open connections end by ${moment(declared.drain.by)}` : 'new connections go elsewhere') : null),
    h('h3', null, 'What the others say'),
    zone.words.length ? h('ul', { class: 'plain' }, zone.words.map((said) => h('li', { key: said.observer }, h('a', { href: address('zones', { zone: said.observer, to: name }) }, sign(said.state), ' ', h('b', null, said.observer), ` ${STATES[said.state].label}`), quiet([finite(said.rtt) ? milliseconds(said.rtt) : null, said.held ? `for ${span(said.held.seconds)}` : null].filter(Boolean).join(' · '))))) : plain('Nobody else was asked.'),
    links.length ? [h('h3', null, zone.own ? 'Other gateways of this zone' : 'Its gateways'), links.map((link) => gatewayFacts(link))] : null,
    h('p', { class: 'actions' }, h('a', { class: 'button', href: address('timeline', { zone: name }) }, 'Its timeline')));
}

function asked(zone, now) {
  if (zone.answer === 'answered') return 'it answers';
  if (zone.answer === 'unasked') return 'not asked';
  const verdict = zone.answer === 'refused' ? 'it does not tell' : 'it does not answer';
  return `${verdict}${zone.because ? `: ${zone.because}` : ''}${zone.old ? `; last word ${span(since(zone.old, now))} ago` : ''}`;
}

function gatewayFacts(link) {
  const facts = [finite(link.rtt_ms) ? milliseconds(link.rtt_ms) : null, plural(link.tunnels ?? 0, 'tunnel'), link.age ? `its word is ${link.age}` : 'has told nothing', link.same_topology === false ? 'another topology' : null,
    Math.abs(link.clock_ahead_seconds ?? 0) >= 1 ? `clock ${span(Math.abs(link.clock_ahead_seconds))} ${link.clock_ahead_seconds > 0 ? 'ahead' : 'behind'}` : null, link.unanswered ? `${plural(link.unanswered, 'ask')} without an answer` : null];
  return h('div', { class: 'row', key: link.gateway }, sign(link.state === 'up' && link.age === 'suspect' ? 'suspect' : link.state), h('span', null, h('b', null, link.gateway), ` ${link.state}`, quiet(facts.filter(Boolean).join(' · '))));
}

function lineInspector(federation, a, b, now) {
  const edge = federation.edges.find((one) => (one.a === a && one.b === b) || (one.a === b && one.b === a));
  const views = [federation.says.get(a)?.get(b), federation.says.get(b)?.get(a)];
  return inspector(`${a} and ${b}`, address('zones', { zone: a }),
    h('p', { class: 'lead' }, state(edge?.state ?? 'unknown')), edge ? plain(describe(edge)) : null,
    views.map((said, index) => (said ? oneWay(said) : h('p', { class: 'quiet', key: index }, `${index ? b : a} was not asked.`))),
    h('p', { class: 'actions' }, h('a', { class: 'button', href: address('timeline', { zone: a }) }, `Timeline of ${a}`), h('a', { class: 'button', href: address('timeline', { zone: b }) }, `Timeline of ${b}`)));
}

function oneWay(said) {
  const list = said.tunnels;
  return h('div', { key: said.observer }, h('h3', null, `${said.observer} says`), h('p', null, state(said.state), said.held ? quiet(` for ${span(said.held.seconds)}, ${said.held.by}`) : null),
    said.zone.last_word ? plain(lastWord(said)) : null, said.old ? plain(`Its last answer, of ${moment(said.old)}.`) : null,
    list.length ? h('table', { class: 'small' }, heads(['Tunnel', 'Round trip', 'Lost', 'Out', 'In']),
      h('tbody', null, list.map((tunnel, index) => h('tr', { key: `${tunnel.gateway}${tunnel.thread}${tunnel.remote}${index}` }, h('td', { title: `${tunnel.remote}, ${count(tunnel.streams)} streams, ${tunnel.key_exchange ?? ''} ${tunnel.cipher ?? ''}` }, `${tunnel.gateway} #${tunnel.thread}`), cell(milliseconds(tunnel.rtt_ms)), cell(percent(tunnel.loss)), cell(bytesPerSecond(tunnel.sentRate)), cell(bytesPerSecond(tunnel.receivedRate)))))) : plain('No tunnel.'));
}
