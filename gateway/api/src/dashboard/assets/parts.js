// What several views draw with: signs of states, bars, lines, notes.

import { h } from './dom.js';
import { STATES } from './model.js';
import { clock, moment, percent, span, whole } from './format.js';

/** Each state has a shape of its own, so that colour is never all there is. In a square of 16. */
const SHAPES = {
  up: [['circle', { cx: 8, cy: 8, r: 7, class: 'body' }], ['path', { d: 'M4.8 8.3 7 10.5 11.3 5.8', class: 'mark' }]],
  own: [['circle', { cx: 8, cy: 8, r: 7, class: 'body' }], ['circle', { cx: 8, cy: 8, r: 2.6, class: 'hole' }]],
  suspect: [['path', { d: 'M8 1.2 15.2 14.2H.8Z', class: 'body' }], ['path', { d: 'M8 6v4M8 12v.4', class: 'mark' }]],
  stalled: [['path', { d: 'M8 .6 15.4 8 8 15.4.6 8Z', class: 'body' }], ['path', { d: 'M6.2 5.6v4.8M9.8 5.6v4.8', class: 'mark' }]],
  draining: [['circle', { cx: 8, cy: 8, r: 6.2, class: 'line' }], ['path', { d: 'M8 4.5v6.3M5.4 8.4 8 11l2.6-2.6', class: 'stroke' }]],
  drained: [['circle', { cx: 8, cy: 8, r: 6.2, class: 'line' }], ['path', { d: 'M8 1.8a6.2 6.2 0 0 1 0 12.4Z', class: 'body' }]],
  down: [['rect', { x: 1, y: 1, width: 14, height: 14, rx: 3, class: 'body' }], ['path', { d: 'M5 5l6 6M11 5l-6 6', class: 'mark' }]],
  withdrawn: [['rect', { x: 1.8, y: 1.8, width: 12.4, height: 12.4, rx: 3, class: 'line' }], ['path', { d: 'M5 8h6', class: 'stroke' }]],
  revoked: [['circle', { cx: 8, cy: 8, r: 6.2, class: 'line' }], ['path', { d: 'M3.8 12.2 12.2 3.8', class: 'stroke' }]],
  partial: [['rect', { x: 1.8, y: 1.8, width: 12.4, height: 12.4, rx: 3, class: 'line' }], ['path', { d: 'M1.8 14.2V4.8a3 3 0 0 1 3-3h9.4Z', class: 'body' }]],
  never: [['circle', { cx: 8, cy: 8, r: 6.2, class: 'line dashed' }]],
  unknown: [['circle', { cx: 8, cy: 8, r: 6.2, class: 'line dashed' }], ['path', { d: 'M6.3 6.4a1.8 1.8 0 1 1 2.4 1.7c-.5.2-.7.5-.7 1M8 11.2v.3', class: 'stroke' }]],
};

export function sign(state, props = {}) {
  const shapes = SHAPES[state] ?? SHAPES.unknown;
  return h('svg', { viewBox: '0 0 16 16', width: 14, height: 14, 'aria-hidden': 'true', focusable: 'false', ...props, class: `sign ${props.tone ?? STATES[state]?.tone ?? 'none'}` }, shapes.map(([tag, shape]) => h(tag, shape)));
}

export const state = (name, label = STATES[name]?.label, tone = STATES[name]?.tone) => h('span', { class: `state ${tone}` }, sign(name, { tone }), ' ', h('span', null, label));

/** Words of the API, with what stands between backticks as code. */
export const prose = (text) => String(text ?? '').split('`').map((part, index) => (index % 2 ? h('code', null, part) : part));

export const note = (kind, title, ...rest) => h('div', { class: `note ${kind}`, role: kind === 'bad' ? 'alert' : null }, h('p', { class: 'title' }, title), rest);

/** Why something is not there, in words. */
export function failure(source, subject, absent) {
  const error = source?.error;
  if (!error) return note('wait', `Waiting for ${subject} …`);
  if (error.status === 404) return note('plain', absent ?? `This gateway does not tell ${subject}.`, h('p', null, 'It runs a version that does not have them yet.'));
  return note('bad', `No ${subject}: ${error.message}`, error.hint ? h('p', null, prose(error.hint)) : null, plain('It is asked again by itself.'));
}

/** A share of a whole, drawn to scale: `parts` are `{ name, value, tone }`. */
export function stacked(parts, label) {
  const total = parts.reduce((all, part) => all + part.value, 0);
  let at = 0;
  const drawn = total > 0 ? parts.map((part) => {
    const width = (100 * part.value) / total;
    const rect = h('rect', { x: at.toFixed(2), y: 0, width: Math.max(0, width - 0.6).toFixed(2), height: 8, class: `part p${part.tone}` }, h('title', null, `${part.name}: ${percent(part.value / total)} (${whole(part.value)})`));
    at += width;
    return rect;
  }) : h('rect', { x: 0, y: 0, width: 100, height: 8, class: 'part none' });
  return h('svg', { class: 'stacked', viewBox: '0 0 100 8', preserveAspectRatio: 'none', role: 'img', 'aria-label': label }, drawn);
}

/** A line of minutes; the failed ones stand below in red. */
export function sparkline(minutes, label, { width = 120, height = 28 } = {}) {
  const top = Math.max(1, ...minutes.map((minute) => minute.begun));
  const step = width / minutes.length;
  const y = (value) => (height - 2 - ((height - 4) * value) / top).toFixed(1);
  const line = minutes.map((minute, index) => `${index ? 'L' : 'M'}${(index * step + step / 2).toFixed(1)} ${y(minute.begun)}`).join('');
  const bad = minutes.map((minute, index) => (minute.failed + minute.shed > 0.01 * minute.begun ? `M${(index * step + step / 2).toFixed(1)} ${height - 1}V${y(Math.max(minute.failed + minute.shed, top * 0.14))}` : '')).join('');
  const last = (width - step / 2).toFixed(1);
  return h('svg', { class: 'sparkline', viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: 'none', role: 'img', 'aria-label': label },
    h('path', { class: 'area', d: `${line}L${last} ${height}L${(step / 2).toFixed(1)} ${height}Z` }), h('path', { class: 'curve', d: line }), bad ? h('path', { class: 'failed', d: bad }) : null);
}

export const quiet = (...text) => h('span', { class: 'quiet' }, text);
export const plain = (...text) => h('p', { class: 'quiet' }, text);
export const cardhead = (title, ...more) => h('div', { class: 'cardhead' }, h('h2', null, title), more);
export const foot = (...text) => h('p', { class: 'quiet foot' }, text);
/** A view's name, for those who hear it. */
export const unseen = (title) => h('h1', { class: 'unseen' }, title);
export const view = (name, title, ...rest) => h('section', { key: name, class: 'view' }, unseen(title), rest);
export const cell = (...text) => h('td', { class: 'n' }, text);
export const heads = (names) => h('thead', null, h('tr', null, names.map((name, index) => h('th', { scope: 'col', class: index ? 'n' : null }, name))));
export const swatch = (tone) => h('svg', { viewBox: '0 0 10 10', width: 10, height: 10, 'aria-hidden': 'true' }, h('rect', { width: 10, height: 10, rx: 2.5, class: `part p${tone}` }));

export const pair = (name, ...value) => [h('dt', { key: `t${name}` }, name), h('dd', { key: `d${name}` }, value)];

/** A moment, with how long ago it was for a pointer and a reader. */
export function when(time, now) {
  const at = Date.parse(time ?? '');
  return Number.isFinite(at) ? h('time', { datetime: time, title: `${moment(time)}, ${span((now - at) / 1000)} ago` }, clock(time)) : '–';
}

/** What is known more of something that was picked, beside or over the rest. */
export function inspector(title, close, ...body) {
  return h('aside', { class: 'inspector', key: `inspector ${title}`, 'aria-label': `About ${title}`, tabindex: -1, created: (node) => node.focus({ preventScroll: true }) },
    h('header', null, h('h2', null, title), h('a', { class: 'close', href: close, 'aria-label': 'Close' }, h('svg', { viewBox: '0 0 16 16', width: 16, height: 16, 'aria-hidden': 'true' }, h('path', { d: 'M3.5 3.5l9 9M12.5 3.5l-9 9', class: 'stroke' })))),
    h('div', { class: 'body' }, body));
}

/** Address of a view, with what is picked there: `#services?service=orders`. */
export function address(view, parameters = {}) {
  const pairs = Object.entries(parameters).filter(([, value]) => value !== undefined && value !== null && value !== '');
  const query = pairs.map(([name, value]) => `${name}=${encodeURIComponent(value)}`).join('&');
  return `#${view}${query ? `?${query}` : ''}`;
}
