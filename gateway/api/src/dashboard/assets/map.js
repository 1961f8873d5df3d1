// The map of zones and tunnels: a ring while there are few, a grid of tiles when there are many. Where things lie is worked out
// from their number and the width alone, so that nothing moves when a state changes.

import { h } from './dom.js';
import { STATES } from './model.js';
import { bytesPerSecond, count, cut, finite, milliseconds, percent } from './format.js';
import { address, sign } from './parts.js';

/** Most zones on a ring with lines between them. */
const MOST_ON_RING = 14;
/** Share of lost packets that is worth a word. */
const LOSS_TOLD = 0.001;

export function map(federation, { width, picked }) {
  const { names } = federation;
  if (names.length > MOST_ON_RING) return grid(federation, { width, picked });
  return ring(federation, { width, picked });
}

function places(names, width) {
  const narrow = width < 560;
  const node = { width: narrow ? 98 : names.length > 9 ? 128 : 148, height: narrow ? 48 : 54 };
  const number = names.length;
  const height = number <= 1 ? 140 : number === 2 ? 190 : narrow ? Math.min(520, 260 + number * 26) : Math.min(560, 270 + number * 26);
  const centre = { x: width / 2, y: height / 2 };
  const reach = { x: width / 2 - node.width / 2 - 10, y: height / 2 - node.height / 2 - 10 };
  // Two stand side by side, others begin at the top.
  const begin = number === 2 ? Math.PI : number === 4 ? -Math.PI * 0.75 : -Math.PI / 2;
  const turns = names.map((_, index) => begin + (2 * Math.PI * index) / number);
  // An odd number leaves room below: all of the height is used.
  const [highest, lowest] = [Math.min(...turns.map(Math.sin)), Math.max(...turns.map(Math.sin))];
  const tall = number > 2 ? 2 / (lowest - highest) : 1;
  const down = (turn) => (number > 2 ? (Math.sin(turn) - highest) * tall - 1 : 0);
  const at = new Map(names.map((name, index) => [name, number === 1 ? centre : { x: centre.x + reach.x * Math.cos(turns[index]), y: centre.y + reach.y * down(turns[index]) }]));
  return { node, height, at, narrow };
}

function ring(federation, { width, picked }) {
  const { names, edges, zones } = federation;
  const { node, height, at, narrow } = places(names, width);
  const taken = [...at.values()].map((place) => ({ x: place.x, y: place.y, w: node.width + 6, h: node.height + 6 }));
  const labels = [];
  const wordy = names.length <= 6 && !narrow;
  const lines = edges.map((edge) => {
    const [a, b] = [at.get(edge.a), at.get(edge.b)];
    const text = lineText(edge, wordy, narrow);
    const box = { w: Math.max(...text.map((part) => part.length)) * 6.6 + 16, h: 8 + 15 * text.length };
    const place = names.length <= 9 || STATES[edge.state].tone !== 'good' ? free(a, b, box, taken) : null;
    if (place) labels.push({ edge, text, box, ...place });
    return line(edge, a, b);
  });
  return h('svg', { class: 'map', viewBox: `0 0 ${width} ${height}`, width, height, role: 'group', 'aria-label': 'Map of zones and tunnels' },
    h('g', { class: 'lines' }, lines), h('g', null, names.map((name) => zoneNode(zones.get(name), at.get(name), node, picked === name))),
    h('g', { class: 'labels' }, labels.map(lineLabel)));
}

/** A place on the line where its words cover neither a zone nor other words. */
function free(a, b, box, taken) {
  let best = null;
  for (const share of [0.5, 0.44, 0.56, 0.38, 0.62, 0.32, 0.68, 0.26, 0.74]) {
    const place = { x: a.x + (b.x - a.x) * share, y: a.y + (b.y - a.y) * share, ...box };
    const covers = taken.filter((other) => Math.abs(other.x - place.x) * 2 < other.w + place.w && Math.abs(other.y - place.y) * 2 < other.h + place.h).length;
    if (!best || covers < best.covers) best = { ...place, covers };
    if (!covers) break;
  }
  // Words over words say nothing; the line alone still does.
  if (best.covers) return null;
  taken.push(best);
  return best;
}

function lineText(edge, wordy, narrow) {
  if (STATES[edge.state].tone === 'bad' || edge.state === 'never') return [STATES[edge.state].label];
  const first = [finite(edge.rtt) ? milliseconds(edge.rtt) : STATES[edge.state].label];
  if (narrow) return edge.loss >= LOSS_TOLD ? [first[0], `${percent(edge.loss)} lost`] : first;
  if (edge.state === 'suspect' || edge.state === 'stalled') first.push(STATES[edge.state].label);
  if (edge.loss >= LOSS_TOLD) first.push(`${percent(edge.loss)} lost`);
  const second = [];
  if (wordy && edge.requests >= 0.05) second.push(`${count(edge.requests)} req/s`);
  if (wordy && edge.bytes >= 1) second.push(bytesPerSecond(edge.bytes));
  return second.length ? [first.join(' · '), second.join(' · ')] : [first.join(' · ')];
}

function line(edge, a, b) {
  const heavy = finite(edge.bytes) ? Math.min(4.5, 1.4 + 0.8 * Math.log10(1 + edge.bytes / 200)) : 1.6;
  const { tone } = STATES[edge.state];
  return h('line', { key: edge.key, x1: a.x.toFixed(1), y1: a.y.toFixed(1), x2: b.x.toFixed(1), y2: b.y.toFixed(1), class: `line ${tone} ${edge.state}`, 'stroke-width': (tone === 'bad' ? 1.6 : heavy).toFixed(1), 'data-line': `${edge.a} ${edge.b}`, 'data-state': edge.state });
}

function lineLabel({ edge, text, x, y, box }) {
  const said = `${edge.a} and ${edge.b}: ${STATES[edge.state].label}, ${describe(edge)}`;
  const { tone } = STATES[edge.state];
  return h('a', { key: edge.key, href: address('zones', { zone: edge.a, to: edge.b }), class: `label ${tone}`, 'aria-label': said, transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})` },
    h('rect', { x: (-box.w / 2).toFixed(1), y: (-box.h / 2).toFixed(1), width: box.w.toFixed(1), height: box.h, rx: 8 }),
    text.map((part, index) => h('text', { y: (15 * (index - (text.length - 1) / 2) + 4).toFixed(1), class: index ? 'quiet' : null }, part)), h('title', null, said));
}

export function describe(edge) {
  const parts = [`round trip ${milliseconds(edge.rtt)}`];
  if (finite(edge.loss)) parts.push(`${percent(edge.loss)} of packets lost`);
  if (finite(edge.bytes)) parts.push(bytesPerSecond(edge.bytes));
  if (finite(edge.requests)) parts.push(`${count(edge.requests)} requests a second`);
  return parts.join(', ');
}

/** Short words in a narrow box. */
function underName(zone, narrow) {
  if (zone.state !== 'own' && zone.state !== 'up') return (narrow && { partial: 'cut off', draining: 'leaving', never: 'unheard' }[zone.state]) || STATES[zone.state].label;
  if (zone.answer === 'away') return 'no answer';
  if (zone.answer === 'refused') return narrow ? 'refuses' : 'tells nothing';
  const region = zone.declared?.tags?.region;
  return zone.own ? 'here' : region ?? 'up';
}

function zoneNode(zone, place, node, picked) {
  const { tone, label } = STATES[zone.state];
  const left = node.width < 100 ? 34 : 40;
  const most = node.width < 100 ? 7 : node.width < 140 ? 10 : 13;
  return h('a', { key: zone.name, href: address('zones', { zone: zone.name }), class: `zone ${tone} ${zone.state}${picked ? ' picked' : ''}${zone.own ? ' here' : ''}`, 'data-zone': zone.name, 'data-state': zone.state,
    'aria-label': `zone ${zone.name}: ${label}${zone.own ? ', the one that answers here' : ''}`, 'aria-current': picked ? 'true' : null, transform: `translate(${(place.x - node.width / 2).toFixed(1)} ${(place.y - node.height / 2).toFixed(1)})` },
    h('rect', { width: node.width, height: node.height, rx: 10 }),
    sign(zone.state, { x: left - 26, y: node.height / 2 - 9, width: 18, height: 18 }),
    h('text', { x: left, y: node.height / 2 - 3, class: 'name' }, cut(zone.name, most)),
    h('text', { x: left, y: node.height / 2 + 14, class: 'quiet' }, cut(underName(zone, node.width < 100), most + 2)), h('title', null, `${zone.name}: ${label}`));
}

/** With many zones: a tile each, coloured and signed by how the picked zone (or all together) finds it. */
function grid(federation, { width, picked }) {
  const { names, zones, says } = federation;
  const row = picked ? says.get(picked) : null;
  const across = Math.max(3, Math.floor(width / 112));
  const size = { w: width / across, h: 44 };
  const height = Math.ceil(names.length / across) * size.h;
  const tiles = names.map((name, index) => {
    const zone = zones.get(name);
    const said = row?.get(name)?.state ?? (row && name !== picked ? 'unknown' : zone.state);
    const { tone, label } = STATES[said];
    const whose = row ? `${picked} says ${label}` : label;
    return h('a', { key: name, href: address('zones', { zone: name }), class: `zone tile ${tone} ${said}${name === picked ? ' picked' : ''}${zone.own ? ' here' : ''}`, 'data-zone': name, 'data-state': said, 'aria-label': `zone ${name}: ${whose}`, 'aria-current': name === picked ? 'true' : null,
      transform: `translate(${((index % across) * size.w).toFixed(1)} ${Math.floor(index / across) * size.h})` },
      h('rect', { x: 2, y: 2, width: (size.w - 4).toFixed(1), height: size.h - 4, rx: 7 }), sign(said, { x: 10, y: size.h / 2 - 7, width: 14, height: 14 }),
      h('text', { x: 30, y: size.h / 2 + 4.5, class: 'name' }, cut(name, Math.max(5, Math.floor((size.w - 38) / 7)))), h('title', null, `${name}: ${whose}`));
  });
  return h('svg', { class: 'map grid', viewBox: `0 0 ${width} ${height}`, width, height, role: 'group', 'aria-label': 'All zones' }, tiles);
}
