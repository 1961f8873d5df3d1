// Shifts: gradual moves of a service's traffic, each with its steps, its gate and who drives it.

import { h } from './dom.js';
import { answers, items } from './model.js';
import { moment, natural, percent, plural, span, tags, whole } from './format.js';
import { address, cardhead, cell, failure, foot, note, pair, prose, quiet, sign, view } from './parts.js';

const STATES = { running: ['own', 'running', 'good'], paused: ['stalled', 'paused', 'warn'], aborted: ['down', 'aborted', 'bad'], done: ['up', 'done', 'good'] };

/** Each shift once: as the zone that drives it tells of it, else as this one does. */
function all(source, own) {
  const found = new Map();
  for (const entry of answers(source.value, source.at)) {
    for (const shift of items(entry)) {
      const key = `${shift.service}\u0000${shift.begun}`;
      const drives = String(shift.driver).split('/')[0] === entry.zone;
      const known = found.get(key);
      if (!known || drives || (entry.zone === own && !known.drives)) found.set(key, { ...shift, key, drives, by: entry.zone });
    }
  }
  const order = { running: 0, paused: 1, aborted: 2, done: 3 };
  return [...found.values()].sort((a, b) => order[a.state] - order[b.state] || natural(a.service, b.service));
}

export function shiftsView({ sources, federation, now }) {
  const source = sources.shifts;
  if (!source.value) return view('shifts', 'Shifts', failure(source, 'shifts'));
  const list = all(source, federation.own);
  return view('shifts', 'Shifts',
    list.length ? h('div', { class: 'cards' }, list.map((shift) => card(shift, now))) : note('plain', 'No service is under a shift.', h('p', null, h('code', null, 'causeway shift orders --to version=v2 --steps 5,25,50,100 --every 5m'), ' moves traffic step by step, with a way back.')));
}

function card(shift, now) {
  const [shape, label, tone] = STATES[shift.state] ?? ['unknown', shift.state, 'none'];
  return h('article', { class: `card shift ${tone}`, key: shift.key, 'data-shift': shift.service, 'data-state': shift.state },
    cardhead(h('a', { href: address('services', { service: shift.service }) }, shift.service), h('span', { class: `state ${tone}` }, sign(shape, { tone }), ' ', label)),
    h('p', { class: 'figure-big' }, h('b', null, `${shift.percent} %`), ` to ${tags(shift.to)}`), steps(shift), h('dl', { class: 'facts' },
      shift.because ? pair('Because', prose(shift.because)) : null, shift.due ? pair('Next step', due(shift.due, now)) : null, pair('Since', `${moment(shift.since)} (begun ${moment(shift.begun)})`), pair('Every', shift.every),
      pair('From', (shift.from ?? []).map((arm) => `${tags(arm.tags)} ${arm.weight}`).join(', ') || 'any tags'), pair('Driven by', shift.driver_gone ? h('span', { class: 'warn' }, sign('suspect'), ` ${shift.driver}, which is not heard: the shift stays as it is`) : shift.driver),
      shift.taken_back ? pair('Taken back', h('span', { class: 'bad' }, sign('down'), ' this gateway has taken its share back')) : null), gate(shift), gateways(shift));
}

function due(time, now) {
  const seconds = (Date.parse(time) - now) / 1000;
  return seconds > 0 ? `in ${span(seconds)}, at ${moment(time)}` : 'due now';
}

function steps(shift) {
  const list = shift.steps ?? [];
  const label = `step ${shift.step} of ${list.length}: ${shift.percent} percent`;
  return h('ol', { class: 'shiftsteps', 'aria-label': label }, list.map((step, index) => {
    const place = index + 1 < shift.step || shift.state === 'done' ? 'past' : index + 1 === shift.step ? 'here' : 'ahead';
    return h('li', { key: index, class: place, 'aria-current': place === 'here' ? 'step' : null }, `${step} %`);
  }));
}

function gate(shift) {
  const conditions = shift.abort_if ?? [];
  if (!conditions.length) return foot('It has no gate: every step is taken.');
  return h('table', { class: 'small' }, h('thead', null, h('tr', null, h('th', { scope: 'col' }, 'Goes back if'), h('th', { scope: 'col', class: 'n' }, 'Against'), h('th', { scope: 'col', class: 'n' }, 'Share'))),
    h('tbody', null, conditions.map((condition, index) => h('tr', { key: condition }, h('th', { scope: 'row' }, condition), cell(whole(shift.against?.[index] ?? NaN)), cell(shift.requests ? percent((shift.against?.[index] ?? 0) / shift.requests) : '–')))),
    h('caption', null, `${plural(shift.requests ?? 0, 'request')} on this step${shift.min_requests ? `; the gate speaks from ${whole(shift.min_requests)} on` : ''}`));
}

function gateways(shift) {
  const list = shift.gateways ?? [];
  if (list.length < 2) return null;
  return h('ul', { class: 'plain' }, list.map((one) => h('li', { key: one.gateway }, h('b', null, one.gateway), quiet(`${plural(one.requests, 'request')}${one.taken_back ? ', has taken its share back' : ''}`))));
}
