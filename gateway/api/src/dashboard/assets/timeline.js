// Timeline: what happened, newest first, and why.

import { h } from './dom.js';
import { tone } from './model.js';
import { clock, day, natural, plural, span, whole, word } from './format.js';
import { address, cardhead, failure, foot, note, plain, prose, quiet, view } from './parts.js';

/** Events drawn at first, and with each wish for more. */
const AT_ONCE = 150;

const SIGNS = { bad: 'M8 2.2v7M8 12.4v1.2', warn: 'M8 3v6.4M8 12.4v1', good: 'M3.6 8.4 6.8 11.6 12.6 4.8', calm: 'M8 3v9M4.4 8.6 8 12.2l3.6-3.6', none: 'M4 8h8' };

export function timelineView({ events, sources, stream, names, services, parameters, go, now }) {
  const source = sources.events;
  if (!events.length && source.value?.nobody) return view('timeline', 'Timeline', note('plain', 'No zone tells events.', h('p', null, source.value.away.map((entry) => `${entry.zone}: ${entry.because ?? 'no answer'}`).slice(0, 5).join('; '))));
  if (!events.length && !source.value) return view('timeline', 'Timeline', failure(source, 'events', 'This gateway keeps no record of events.'));
  const kinds = [...new Set(events.map((event) => event.kind))].sort(natural);
  const rows = events.filter((event) => matches(event, parameters));
  const most = Number(parameters.most) || AT_ONCE;
  const joined = together(rows);
  const shown = joined.slice(0, most);
  const change = (name) => (event) => go('timeline', { ...parameters, [name]: event.target.value || null, most: null }, true);
  return view('timeline', 'Timeline',
    h('div', { class: 'filters' }, choice('Zone', names, parameters.zone, change('zone'), 'every zone'), choice('Kind', kinds, parameters.kind, change('kind'), 'every kind', word),
      h('label', null, h('span', null, 'Service'), h('input', { type: 'search', value: parameters.service ?? '', list: 'servicenames', placeholder: 'every service', autocomplete: 'off', spellcheck: 'false', oninput: change('service') })),
      h('datalist', { id: 'servicenames' }, services.slice(0, 200).map((service) => h('option', { key: service.name, value: service.name }))),
      h('p', { class: 'quiet', role: 'status' }, rows.length === events.length ? plural(rows.length, 'event') : `${whole(rows.length)} of ${plural(events.length, 'event')}`,
        source.value?.kept ? `, kept for ${span(source.value.kept)}` : '', stream.state === 'open' ? '' : '; asked for every few seconds')),
    awayNote(source.value?.away), source.error ? foot(`The latest question for events failed: ${source.error.message}`) : null,
    rows.length ? days(shown, now) : note('plain', events.length ? 'No event is like that.' : 'Nothing has happened yet.', h('p', null, events.length ? 'Take a filter away to see more.' : 'Tunnels, zones, failovers, shifts, drains, topologies and certificates are noted here as they change.')),
    joined.length > shown.length ? h('p', { class: 'actions' }, h('a', { class: 'button', href: address('timeline', { ...parameters, most: most + AT_ONCE }) }, `Show ${Math.min(AT_ONCE, joined.length - shown.length)} more`)) : null);
}

function choice(name, options, value, onchange, none, label = (text) => text) {
  const all = value && !options.includes(value) ? [...options, value] : options;
  return h('label', null, h('span', null, name), h('select', { value: value ?? '', onchange }, h('option', { value: '', key: ' ' }, none), all.map((option) => h('option', { value: option, key: option, selected: option === value }, label(option)))));
}

function matches(event, { zone, kind, service }) {
  if (zone && event.zone !== zone && event.subject !== zone && (event.peer ?? '').split('/')[0] !== zone) return false;
  if (kind && event.kind !== kind) return false;
  return !service || (event.service ?? '').toLowerCase().includes(service.toLowerCase());
}

/** Zones see one thing within so many milliseconds of each other. */
const TOGETHER = 2000;

/** What several zones saw of the same thing, in one: of another gateway each sees its own tunnels. */
function together(events) {
  const open = new Map();
  const list = [];
  for (const event of events) {
    const key = JSON.stringify([event.kind, event.service, event.subject, /^generation \d+/.exec(event.text)?.[0] ?? event.text]);
    const known = event.peer ? null : open.get(key);
    if (known && known.at - event.at <= TOGETHER && !known.seenBy.includes(event.zone)) known.seenBy.push(event.zone);
    else {
      const one = { ...event, seenBy: [event.zone] };
      list.push(one);
      open.set(key, one);
    }
  }
  return list;
}

function awayNote(away) {
  if (!away?.length) return null;
  return foot(`Without ${away.map((entry) => entry.zone).join(', ')}: ${away[0].because ?? 'no answer'}. What it saw is shown up to its last word.`);
}

function days(events, now) {
  const groups = new Map();
  for (const event of events) {
    const name = day(event.time);
    groups.set(name, [...(groups.get(name) ?? []), event]);
  }
  const today = day(new Date(now).toISOString());
  return [...groups].map(([name, list]) => h('div', { key: name, class: 'card' }, cardhead(name === today ? 'Today' : name), h('ol', { class: 'events' }, list.map(line))));
}

function line(event) {
  const kind = tone(event.kind);
  const about = event.service ? h('a', { class: 'chip', href: address('services', { service: event.service }) }, event.service) : null;
  return h('li', { key: event.key, class: kind, 'data-event': event.key, 'data-kind': event.kind }, h('time', { datetime: event.time, title: event.time }, clock(event.time)),
    h('svg', { viewBox: '0 0 16 16', width: 16, height: 16, class: `sign ${kind}`, 'aria-hidden': 'true' }, h('circle', { cx: 8, cy: 8, r: 7.5, class: 'body' }), h('path', { d: SIGNS[kind], class: 'mark' })),
    h('div', null, h('p', null, h('b', null, word(event.kind)), ' ', prose(event.text)), event.count > 1 ? quiet(` (${whole(event.count)} times)`) : null, event.seenBy.length > 1 ? quiet(` (seen by ${event.seenBy.length} zones)`) : null, event.because ? plain('because ', prose(event.because)) : null, thought(event)),
    h('p', { class: 'where' }, event.seenBy.slice(0, 4).map((zone) => h('a', { key: zone, class: 'chip', href: address('zones', { zone }), title: 'seen by' }, zone)), event.peer ?? event.subject ? h('span', { class: 'chip', title: 'about' }, event.peer ?? event.subject) : null, about,
      event.service ? h('a', { class: 'more', href: address('explain', { service: event.service, from: event.zone }), title: 'what is decided now' }, 'explain') : null));
}

/** What was decided at that moment, as the gateway noted it. */
function thought(event) {
  if (!event.explained?.length) return null;
  return h('details', null, h('summary', null, 'Explained as of then'), h('ul', null, event.explained.map((text, index) => h('li', { key: index }, prose(text)))));
}
