// Explain: where a request would go now, filter by filter, as the gateway decides it.

import { h } from './dom.js';
import { ask } from './api.js';
import { cardhead, note, pair, plain, prose, quiet, sign, unseen } from './parts.js';
import { tags } from './format.js';

const FIELDS = [
  ['service', 'Service', 'orders', 'The service that is called'],
  ['from', 'From zone', 'east', 'Zone of the caller: a gateway there decides'],
  ['tag', 'Tags', 'version=v2', 'Ask for instances with these tags, several with a space between'],
  ['zone', 'In zone', 'west', 'Ask for instances of one zone'],
  ['caller', 'Caller', 'web@east', 'Who calls: a service, service@zone, or anonymous'],
  ['port', 'Port', 'admin', 'Name of a port, where the service has several'],
  ['method', 'Method', 'GET', 'For http and grpc'],
  ['path', 'Path', '/orders/7', 'For http and grpc; begins with /'],
  ['host', 'Host', 'shop.example', 'For http and grpc'],
  ['header', 'Headers', 'x-canary: 1', 'For http and grpc, several with a comma between'],
];
const SEVERAL = { tag: /\s+/, header: /\s*,\s*/ };

/** The question as `/v1/explain` takes it; null without a service. Of another zone it is put to a gateway there, through this one. */
export function question(parameters, own) {
  if (!parameters.service) return null;
  const query = new URLSearchParams();
  for (const [name] of FIELDS) {
    const value = (parameters[name] ?? '').trim();
    if (!value) continue;
    for (const part of SEVERAL[name] ? value.split(SEVERAL[name]) : [value]) if (part) query.append(name, part);
  }
  const from = (parameters.from ?? '').trim();
  if (from && own && from !== own) query.append('at', from);
  return `/v1/explain?${query}`;
}

const asked = { path: null, answer: null, error: null, busy: false };

/** Asks once for each question, and again when somebody presses the button. */
function inquire(path, redraw) {
  Object.assign(asked, { path, busy: true, error: null });
  ask(path).then((answer) => [answer, null], (error) => [null, error]).then(([answer, error]) => {
    if (asked.path !== path) return;
    Object.assign(asked, { answer, error, busy: false });
    redraw();
  });
}

export function explainView({ parameters, services, names, own, go, redraw }) {
  const path = own ? question(parameters, own) : null;
  if (path !== asked.path) {
    asked.answer = null;
    if (path) inquire(path, redraw);
    else Object.assign(asked, { path: null, error: null });
  }
  return h('section', { key: 'explain', class: 'view explain' }, unseen('Explain'),
    h('div', { class: 'beside even' }, form({ parameters, services, names, own, go, redraw }), h('div', { class: 'card answer', 'aria-live': 'polite', 'aria-busy': asked.busy ? 'true' : 'false' }, answer(path))));
}

function form({ parameters, services, names, own, go, redraw }) {
  const submit = (event) => {
    event.preventDefault();
    const given = Object.fromEntries(FIELDS.map(([name]) => [name, event.target.elements.namedItem(name).value.trim()]));
    if (question(given, own) === asked.path) inquire(asked.path, redraw);
    go('explain', given);
  };
  const lists = { service: services.slice(0, 500).map((service) => service.name), from: names, zone: names, method: ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE'] };
  const mark = FIELDS.map(([name]) => parameters[name] ?? '').join('\u0000');
  return h('form', { class: 'card form', key: mark, onsubmit: submit }, cardhead('A request'),
    FIELDS.map(([name, label, example, help]) => h('label', { key: name, class: ['service', 'path', 'header'].includes(name) ? 'whole' : null }, h('span', null, label),
      h('input', { name, value: parameters[name] ?? '', placeholder: example, list: lists[name] ? `list-${name}` : null, required: name === 'service', autocomplete: 'off', autocapitalize: 'off', spellcheck: 'false', title: help }),
      lists[name] ? h('datalist', { id: `list-${name}` }, lists[name].map((value) => h('option', { key: value, value }))) : null)),
    h('div', { class: 'whole' }, h('button', { type: 'submit', class: 'button first' }, 'Explain')), h('p', { class: 'quiet whole' }, 'Nothing is sent to the service: the gateway says what it would do now.'));
}

const VERDICTS = { taken: ['up', 'taken', 'good'], in_reserve: ['drained', 'in reserve', 'calm'], passed_over: ['never', 'passed over', 'none'] };

function answer(path) {
  if (!path) return note('plain', 'Name a service.', h('p', null, 'The decision is shown step by step, with the reason of each filter, as ', h('code', null, 'causeway explain'), ' gives it.'));
  if (asked.error) return note('bad', asked.error.message, asked.error.hint ? h('p', null, prose(asked.error.hint)) : null);
  const item = asked.answer?.items?.[0];
  if (!item) return note('wait', 'Asking …');
  return [cardhead(`${item.target} from ${item.from}`), outcome(item), permission(item), steps(item.steps ?? []),
    list('In force', item.policies), list('Comes after the others now', item.ejected), item.open_connections ? list('Open connections', [item.open_connections]) : null];
}

function outcome(item) {
  const places = item.candidates ?? [];
  const first = places[0];
  const name = (place) => `${place.zone}${place.gateway ? ` by gateway ${place.gateway}` : ''}`;
  return h('div', { class: `outcome ${first || item.answered_by ? 'good' : 'bad'}`, 'data-outcome': first ? first.zone : '' }, sign(first || item.answered_by ? 'up' : 'down', { width: 20, height: 20 }),
    h('div', null, h('p', { class: 'title' }, first ? `Goes to ${name(first)}${Object.keys(first.tags ?? {}).length ? ` with ${tags(first.tags)}` : ''}` : item.answered_by ? 'The gateway answers itself' : 'Goes nowhere'), h('p', null, prose(item.outcome)),
      places.length > 1 ? plain(`Then: ${places.slice(1, 8).map((place) => `${name(place)}${Object.keys(place.tags ?? {}).length ? ` (${tags(place.tags)})` : ''}`).join(', ')}${places.length > 8 ? ` and ${places.length - 8} more` : ''}`) : null));
}

function permission(item) {
  const one = item.permission ?? item.callers;
  if (!one) return null;
  const verdict = String(one.verdict).replaceAll('_', ' ');
  const forbidden = /forbid|nobody/.test(verdict);
  return h('dl', { class: 'facts' }, pair(item.permission ? `May ${one.caller ?? 'it'} call` : 'May call', h('span', { class: forbidden ? 'bad' : '' }, verdict, one.reason ? [': ', prose(one.reason)] : null)));
}

function steps(all) {
  if (!all.length) return null;
  const groups = [];
  for (const step of all) {
    const last = groups.at(-1);
    if (last?.filter === step.filter) last.steps.push(step);
    else groups.push({ filter: step.filter, steps: [step] });
  }
  return h('ol', { class: 'steps' }, groups.map((group, index) => h('li', { key: index }, h('h3', null, group.filter), h('ul', null, group.steps.map((step, number) => {
    const [shape, label, kind] = VERDICTS[step.verdict] ?? VERDICTS.passed_over;
    return h('li', { key: number, class: kind, 'data-verdict': step.verdict }, sign(shape, { tone: kind }), h('b', null, step.subject), h('span', { class: 'verdict' }, label), quiet(prose(step.reason)));
  })))));
}

const list = (title, lines) => ((lines ?? []).length ? [h('h3', { key: title }, title), h('ul', { class: 'plain', key: `${title}s` }, lines.map((line, index) => h('li', { key: index }, prose(line))))] : null);
