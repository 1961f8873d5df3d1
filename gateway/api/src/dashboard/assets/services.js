// Services: a table that stays quick with thousands of rows, and all that is known of the one that was picked.

import { h } from './dom.js';
import { address, cell, failure, foot, heads, inspector, note, pair, plain, prose, quiet, sign, sparkline, stacked, state, swatch, unseen, view } from './parts.js';
import { count, finite, listed, milliseconds, minute, perSecond, percent, plural, tags, whole } from './format.js';
import { figuresUntil } from './model.js';
import { declared } from './traffic.js';

/** Rows that are drawn beyond what is seen, above and below. */
const BEYOND = 8;
/** Colours of zones in bars, by their place in the alphabet; more than these share. */
const TONES = 8;

export function servicesView({ list, sources, names, parameters, go, scroll, narrow }) {
  const source = sources.services;
  if (!source.value && !sources.allServices.value) return h('section', { key: 'services' }, failure(source, 'services'));
  if (!list.length) return view('services', 'Services', note('plain', 'No services yet.', h('p', null, 'Services are declared in the topology. ', h('code', null, 'causeway register'), ' gives one its instances.')));
  const wanted = (parameters.q ?? '').toLowerCase();
  const rows = list.filter((service) => (!wanted || service.name.toLowerCase().includes(wanted)) && (!parameters.only || ['bad', 'warn'].includes(service.state.tone)));
  const picked = list.find((service) => service.name === parameters.service);
  const tone = (zone) => names.indexOf(zone) % TONES;
  return h('section', { key: 'services', class: `view${picked ? ' with-inspector' : ''}` },
    unseen('Services'),
    h('div', { class: 'filters' },
      h('label', null, h('span', null, 'Name'), h('input', { type: 'search', value: parameters.q ?? '', placeholder: 'part of a name', autocomplete: 'off', spellcheck: 'false', oninput: (event) => go('services', { ...parameters, q: event.target.value }, true) })),
      h('label', { class: 'check' }, h('input', { type: 'checkbox', checked: Boolean(parameters.only), onchange: (event) => go('services', { ...parameters, only: event.target.checked ? 1 : null }, true) }), h('span', null, 'Only what needs a look')),
      h('p', { class: 'quiet', role: 'status' }, rows.length === list.length ? plural(list.length, 'service') : `${whole(rows.length)} of ${plural(list.length, 'service')}`),
      h('ul', { class: 'legend zones', 'aria-label': 'Colours of zones' }, names.length <= TONES ? names.map((name) => h('li', { key: name }, swatch(tone(name)), ` ${name}`)) : null)),
    figuresNote(sources.figures),
    h('div', { class: 'beside' }, table(rows, { parameters, tone, scroll, narrow, picked }), picked ? serviceInspector(picked, tone) : null));
}

function figuresNote(source) {
  const until = figuresUntil(source.value);
  const without = [...(source.value ?? [])].filter(([, minutes]) => !minutes.size).map(([zone]) => zone);
  if (until) return foot(`Figures until ${minute(until)}, of the last hour; rates and times of the latest minute. State is as of now. `, without.length ? `Without ${listed(without)}. ` : null, source.alone ? 'Traffic is shown as the clients of this zone see it: with so many zones and services the others are not asked for theirs.' : null);
  if (source.value) return null;
  if (source.error?.status === 404) return foot('Traffic, success and latency are not kept by this version of the gateway: those columns are empty.');
  return source.error ? foot(`No figures of the last hour: ${source.error.message}.`) : null;
}

const COLUMNS = [['Service', ''], ['State', ''], ['Served in', ''], ['Last hour', 'spark'], ['Where it went, last hour', 'bar'], ['Requests', 'n'], ['Success, last hour', 'n'], ['p50', 'n'], ['p95', 'n'], ['p99', 'n'], ['Headroom', 'n'], ['May call', '']];

/** Only the rows that can be seen are drawn; the rest is room. */
function table(rows, { parameters, tone, scroll, narrow, picked }) {
  const height = narrow ? 132 : 52;
  const first = Math.max(0, Math.floor(scroll.above / height) - BEYOND);
  const shown = rows.slice(first, first + Math.ceil(scroll.height / height) + 2 * BEYOND);
  const after = rows.length - first - shown.length;
  const room = (key, number) => (number > 0 ? h('tr', { key, class: 'room', 'aria-hidden': 'true' }, h('td', { colspan: COLUMNS.length }, h('svg', { width: 1, height: number * height, 'aria-hidden': 'true' }))) : null);
  return h('div', { class: 'card tablecard' },
    h('table', { class: 'services', 'aria-rowcount': rows.length + 1, 'data-rows': rows.length },
      h('thead', null, h('tr', null, COLUMNS.map(([name, kind]) => h('th', { scope: 'col', class: kind || null, key: name }, name)))),
      h('tbody', null, room('above', first), shown.map((service, index) => row(service, first + index, { parameters, tone, picked: service === picked, narrower: Boolean(picked) })), room('below', after))),
    rows.length ? null : foot('No service has that in its name.'));
}

function row(service, index, { parameters, tone, picked, narrower }) {
  const seen = service.seen;
  const success = seen?.begun ? seen.ok / seen.begun : NaN;
  const parts = seen ? [...seen.byZone].sort((a, b) => tone(a[0]) - tone(b[0])).map(([zone, value]) => ({ name: zone, value, tone: tone(zone) })) : [];
  const slow = seen?.slowest;
  return h('tr', { key: service.name, class: picked ? 'picked' : null, 'aria-rowindex': index + 2, 'data-service': service.name },
    h('th', { scope: 'row' }, h('a', { href: address('services', { ...parameters, service: service.name }), title: service.name }, service.name), quiet(`${service.view.protocol} :${service.view.port}`)),
    h('td', { class: 'st', title: service.lost ? lostText(service.lost) : null }, state(service.state.sign, service.state.label, service.state.tone)),
    h('td', { class: 'zones' }, h('div', null, chips(service, narrower))),
    h('td', { class: 'spark' }, seen ? sparkline(seen.minutes, `${whole(seen.begun)} requests in the last hour, ${whole(seen.failed)} failed`) : null),
    h('td', { class: 'bar' }, parts.length ? stacked(parts, parts.map((part) => `${part.name} ${whole(part.value)}`).join(', ')) : quiet('–')),
    h('td', { class: 'n', 'data-label': '' }, perSecond(service.rate)),
    h('td', { class: 'n', 'data-label': '1 h' }, percent(success)),
    ['p50', 'p95', 'p99'].map((name) => h('td', { key: name, class: 'n', 'data-label': name, title: slow ? `from ${slow.zone}` : null }, milliseconds(slow?.[name]))),
    h('td', { class: `n ${service.headroom < 0.1 ? 'bad' : service.headroom < 0.25 ? 'warn' : ''}`, 'data-label': 'free', title: finite(service.capacity) ? `of ${perSecond(service.capacity)}` : 'no capacity is declared' }, finite(service.capacity) ? percent(Math.max(0, service.headroom)) : '–'),
    h('td', { class: 'callers', title: service.view.callers }, service.view.callers || '–'));
}

/** Most places that a row names. */
const MOST_CHIPS = 3;

function chips(service, narrower) {
  const most = narrower ? MOST_CHIPS - 1 : MOST_CHIPS;
  const list = service.list;
  if (!list.length) return quiet('nowhere');
  const order = [...list].sort((a, b) => b.usable - a.usable || b.healthy - a.healthy);
  const chip = (place) => {
    const tone = !place.usable || !place.healthy ? 'bad' : place.healthy < place.instances ? 'warn' : '';
    const told = `${place.zone}: ${place.healthy} of ${place.instances} healthy${place.usable ? '' : ', not reached'}`;
    return h('span', { key: place.zone, class: `chip ${tone}`, title: told }, tone === 'bad' ? sign('down') : tone === 'warn' ? sign('suspect') : null, h('span', { class: 'in' }, place.zone), ' ', h('b', null, place.healthy === place.instances ? place.instances : `${place.healthy}/${place.instances}`));
  };
  return [order.slice(0, most).map(chip), order.length > most ? h('span', { class: 'quiet', key: 'more' }, `+${order.length - most}`) : null];
}

function serviceInspector(service, tone) {
  const { view, seen } = service;
  return inspector(service.name, address('services', {}),
    h('p', { class: 'lead' }, state(service.state.sign, service.state.label, service.state.tone), quiet(` ${view.protocol} :${view.port}${(view.vips ?? []).length ? ` at ${view.vips.join(', ')}` : ''}`)),
    service.lost ? h('p', { class: 'lost bad' }, prose(lostText(service.lost))) : null,
    view.shift ? h('p', { class: 'callout' }, h('a', { href: address('shifts') }, view.shift)) : null,
    seen ? trafficOf(service, tone) : plain('No traffic is recorded.'),
    h('h3', null, 'Declared beside observed'), compared(service),
    h('h3', null, 'Where it is served'), served(service, tone),
    service.ejected.length ? [h('h3', null, 'Comes after the others now'), ejected(service)] : null,
    h('h3', null, 'Rules'), rules(view),
    h('p', { class: 'actions' }, h('a', { class: 'button', href: address('explain', { service: service.name }) }, 'Explain a request'), h('a', { class: 'button', href: address('timeline', { service: service.name }) }, 'Its timeline')));
}

const lostText = ({ zones, because }) => `Nobody can serve it from ${listed(zones)}${because ? `: ${because}` : ''}.`;

/** What comes after the others, once for all who say so. */
function ejected(service) {
  const found = new Map();
  for (const ejection of service.ejected) {
    const subject = `${ejection.instance ? `instance ${ejection.instance} of ` : ''}${ejection.zone}${Object.keys(ejection.tags ?? {}).length ? ` with ${tags(ejection.tags)}` : ''}`;
    const known = found.get(subject) ?? { ...ejection, subject, says: [] };
    known.says.push(ejection.by);
    found.set(subject, known);
  }
  return [...found.values()].map((one) => h('div', { class: 'row', key: one.subject }, sign('suspect'), h('span', null, one.subject, quiet(`${one.reason}; back in ${Math.ceil(one.back_in_seconds)} s; so says ${one.says.join(', ')}`))));
}

function trafficOf(service, tone) {
  const { seen } = service;
  const callers = [...seen.byCaller].sort((a, b) => b[1].begun - a[1].begun);
  return [h('div', { class: 'bigspark' }, sparkline(seen.minutes, `Requests each minute of the last hour: ${whole(seen.begun)} in all`, { width: 320, height: 64 }), h('p', { class: 'axis' }, h('span', null, '60 min ago'), h('span', null, `${whole(seen.begun)} in the hour`), h('span', null, 'now')), plain('Requests, success and what was shed: of the last hour.')),
    h('table', { class: 'small' }, heads(['From', 'Requests', 'Success', 'Shed', 'p50', 'p95', 'p99']),
      h('tbody', null, callers.map(([zone, sums]) => {
        const latency = seen.latency.get(zone);
        return h('tr', { key: zone }, h('th', { scope: 'row' }, swatch(tone(zone)), `\u00a0${zone}`), [count(sums.begun), percent(sums.begun ? sums.ok / sums.begun : NaN), count(sums.shed), milliseconds(latency?.p50), milliseconds(latency?.p95), milliseconds(latency?.p99)].map((text, index) => h('td', { class: 'n', key: index }, text)));
      })))];
}

function compared(service) {
  const rows = declared(service);
  const tiers = service.view.failover ?? [];
  const tier = (one) => [one.zone === 'self' ? 'own zone' : one.zone, Object.keys(one.tags ?? {}).length ? tags(one.tags) : null].filter(Boolean).join(' with ') || 'any zone';
  return [rows.length ? h('table', { class: 'small' }, h('thead', null, h('tr', null, h('th', { scope: 'col' }, 'Tags'), h('th', { scope: 'col', class: 'n' }, 'Declared'), h('th', { scope: 'col', class: 'n' }, 'Observed'), h('th', { scope: 'col', class: 'wide' }, h('span', { class: 'unseen' }, 'Drawn')))),
    h('tbody', null, rows.map((one) => h('tr', { key: one.name }, h('th', { scope: 'row' }, one.name), cell(percent(one.declared)), cell(percent(one.observed)), h('td', { class: 'wide' }, versus(one)))))) : plain('It has no split: any instance will do.'),
    tiers.length ? plain(`Failover: ${tiers.map((one, index) => `${index + 1}. ${tier(one)}`).join(', ')}`) : null];
}

/** Two bars: what was declared above what was seen. */
const versus = (one) => h('svg', { class: 'versus', viewBox: '0 0 100 14', preserveAspectRatio: 'none', 'aria-hidden': 'true' }, h('rect', { x: 0, y: 1, width: 100 * (one.declared || 0), height: 4, rx: 2, class: 'part none' }), h('rect', { x: 0, y: 8, width: 100 * (one.observed || 0), height: 5, rx: 2, class: 'part p0' }));

function served(service, tone) {
  if (!service.list.length) return plain('No zone has an instance of it.');
  const total = [...(service.seen?.byZone.values() ?? [])].reduce((all, value) => all + value, 0);
  return h('table', { class: 'small' }, heads(['Zone', 'Healthy', 'Share', 'Capacity', 'In use']),
    h('tbody', null, service.list.map((place) => {
      const capacity = service.capacities.get(place.zone);
      const rate = service.seen?.rateTo.get(place.zone) ?? (service.seen ? 0 : NaN);
      const well = place.usable && place.healthy > 0;
      return h('tr', { key: place.zone }, h('th', { scope: 'row' }, sign(well ? (place.healthy < place.instances ? 'suspect' : 'up') : 'down'), ` ${place.zone}`, quiet([place.link === 'down' || place.link === 'stalled' ? `tunnel ${place.link}` : null, place.age && !['own', 'fresh'].includes(place.age) ? place.age : null].filter(Boolean).join(', '))),
        cell(`${place.healthy} of ${place.instances}`), cell(total ? percent((service.seen.byZone.get(place.zone) ?? 0) / total) : '–'), cell(perSecond(capacity)), cell(finite(capacity) ? percent(rate / capacity) : '–'));
    })));
}

function rules(view) {
  const zones = (list) => (list === null || list === undefined ? 'every zone' : list.length ? list.join(', ') : 'no zone');
  return h('dl', { class: 'facts' }, pair('May call', view.callers || '–'), (view.deny ?? []).length ? pair('May not call', view.deny.join(', ')) : null, pair('Seen from', zones(view.export_to)), pair('May run in', zones(view.run_in)),
    pair('Health', view.health ?? 'not checked: what is registered counts as healthy'), (view.ports ?? []).length ? pair('Ports', view.ports.map((port) => `${port.name} ${port.port} ${port.protocol}`).join(', ')) : null,
    (view.routes ?? []).length ? pair('Routes', h('ol', null, view.routes.map((route, index) => h('li', { key: index }, route)))) : null,
    [['Idle at most', view.idle_timeout], ['Linger', view.linger], ['Oldest', view.max_age]].map(([name, value]) => (value ? pair(name, value) : null)));
}
