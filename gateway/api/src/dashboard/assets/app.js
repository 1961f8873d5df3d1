// The dashboard: which view is open, what it needs to know, and that it is drawn anew when something is known.

import { draw, h } from './dom.js';
import { EventStream, hasToken, onToken, setToken, Source } from './api.js';
import { federation, lostHomes, mergeEvents, STATES, takeEvents, takeFigures, takeTunnels } from './model.js';
import { services } from './traffic.js';
import { clock, span } from './format.js';
import { note, prose, quiet } from './parts.js';
import { zonesView } from './zones.js';
import { servicesView } from './services.js';
import { timelineView } from './timeline.js';
import { explainView } from './explain.js';
import { checksOf, topologyView } from './topology.js';
import { shiftsView } from './shifts.js';

const VIEWS = { zones: 'Zones', services: 'Services', timeline: 'Timeline', explain: 'Explain', topology: 'Topology', shifts: 'Shifts' };
const NEEDS = {
  zones: ['allZones', 'tunnels', 'allTunnels', 'figures', 'checks', 'events'], services: ['services', 'allServices', 'figures', 'exports', 'allZones', 'checks', 'events'], timeline: ['events', 'services'],
  explain: ['services'], topology: ['topology', 'history', 'checks'], shifts: ['shifts'],
};
/** While the stream tells of changes, in milliseconds; without it, three times as often. */
const EVERY = 2000;
/** After so many milliseconds without an answer, what is shown is said to be old. */
const STALE = 6000;

const keep = (answer) => answer;
/** Where one zone answers a question for all, the others are not asked for: it need not be asked often. */
const forAll = (take) => function (answer, before) {
  if (!Array.isArray(answer.zones)) this.every = 30_000;
  return take(answer, before);
};
const recent = (source, whole, part) => (source.value && Date.now() - source.at < 100_000 ? part : whole);
/** Services times zones up to which all zones are asked about all services: of more an answer would have tens of megabytes. */
const MOST_FOR_ALL = 2_000;
/** Zones up to which all are asked about their tunnels: each has some with each other. */
const MOST_WITH_TUNNELS = 30;
const isLarge = () => (page.services ?? 0) * (page.zones ?? 1) > MOST_FOR_ALL;

function figuresPath(source) {
  source.alone = isLarge();
  // The map needs the latest minutes, the table of services the hour.
  const hour = page.view === 'services' && !(source.hour && source.value);
  source.hour ||= hour;
  return `/v1/figures?${source.alone ? '' : 'all=true&'}since=${hour ? '1h' : recent(source, '4m', '3m')}`;
}

const sources = {
  zones: new Source('/v1/zones', EVERY, keep),
  allZones: new Source('/v1/zones?all=true', 4000, forAll(keep)),
  tunnels: new Source('/v1/tunnels', EVERY, takeTunnels),
  allTunnels: new Source('/v1/tunnels?all=true', 4000, forAll(takeTunnels)),
  services: new Source('/v1/services', 3000, keep),
  allServices: new Source('/v1/services?all=true', 5000, forAll(keep)),
  exports: new Source('/v1/exports', 10_000, keep),
  figures: new Source(figuresPath, 15_000, takeFigures),
  events: new Source((source) => `/v1/events?all=true&limit=500&since=${recent(source, '24h', '5m')}`, 5000, takeEvents),
  checks: new Source('/v1/checks?all=true', 8000, keep),
  topology: new Source('/v1/topology', 5000, keep),
  history: new Source('/v1/topology/history', 10_000, keep),
  shifts: new Source('/v1/shifts?all=true', 3000, keep),
};
const stream = new EventStream('/v1/events/stream', happened);

const page = { view: 'zones', parameters: {}, width: 0, scroll: { above: 0, height: 900 }, states: new Map() };
const [head, main, told] = ['head', 'main', 'told'].map((id) => document.getElementById(id));

// ---- the address

function route() {
  const [, name = '', query = ''] = /^#?([^?]*)\??(.*)$/.exec(location.hash) ?? [];
  const view = name in VIEWS ? name : 'zones';
  const other = view !== page.view;
  page.view = view;
  page.parameters = Object.fromEntries(new URLSearchParams(query));
  want();
  redraw();
  if (!other) return;
  // Without a gap in the hour.
  if (view !== 'services') sources.figures.hour = false;
  else sources.figures.refresh();
  window.scrollTo(0, 0);
  main.focus({ preventScroll: true });
}

function go(view, parameters = {}, replace = false) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined && value !== '')).toString();
  const address = `#${view}${query ? `?${query}` : ''}`;
  if (!replace) location.hash = address;
  else {
    history.replaceState(null, '', address);
    route();
  }
}

// ---- what is asked

const locked = () => [401, 403].includes(sources.zones.error?.status);

function isWanted(name) {
  if (name === 'allTunnels') return (sources.zones.value.items ?? []).length <= MOST_WITH_TUNNELS;
  // How many services there are is known with the first answer.
  return name !== 'allServices' || (page.services > 0 && !isLarge());
}

function want() {
  const hidden = document.hidden;
  // Nothing else is asked for before it is known that an answer may be had.
  const needed = sources.zones.value ? NEEDS[page.view].filter(isWanted) : [];
  for (const [name, source] of Object.entries(sources)) source.want(!hidden && (name === 'zones' ? !locked() : needed.includes(name)));
  if (hidden || locked()) stream.close();
  else if (sources.zones.value) stream.open();
}

function happened(event) {
  const source = sources.events;
  const zone = event.zone ?? sources.zones.value?.zone;
  source.value = { kept: 0, away: [], ...source.value, list: mergeEvents(source.value?.list, [{ zone, ...event }]) };
  // An event says that something has changed; what it is now is asked.
  for (const name of ['zones', 'tunnels', 'allZones', 'services', 'allServices', 'shifts', 'topology', 'history', ...(/^home_/.test(event.kind) ? ['checks', 'events'] : [])]) if (sources[name].wanted) sources[name].refresh();
  redraw();
}

for (const [name, source] of Object.entries(sources)) {
  source.changed = () => {
    if (name === 'zones') zonesChanged();
    redraw();
  };
}

let wasLocked = false;
let wasKnown = false;
let before = '';

function zonesChanged() {
  const isLocked = locked();
  if (isLocked) forget();
  const isKnown = sources.zones.value !== null;
  if (isLocked !== wasLocked || isKnown !== wasKnown) {
    [wasLocked, wasKnown] = [isLocked, isKnown];
    setTimeout(want);
  }
  const now = (sources.zones.value?.items ?? []).map((zone) => `${zone.name} ${zone.state}`).join();
  if (now !== before && before) for (const name of ['tunnels', 'allZones', 'allTunnels', 'services', 'allServices', 'checks']) if (sources[name].wanted) sources[name].refresh();
  before = now;
}

/** Nothing stays on the page that its reader may not see any more. */
function forget() {
  for (const source of Object.values(sources)) source.value = null;
}

onToken(() => {
  for (const source of Object.values(sources)) Object.assign(source, { value: null, error: null, failures: 0, at: 0 });
  [wasLocked, wasKnown] = [false, false];
  stream.close();
  stream.failures = 0;
  want();
  sources.zones.refresh();
  redraw();
});

stream.changed = () => {
  sources.zones.every = stream.state === 'open' ? EVERY : EVERY / 3;
  sources.events.every = stream.state === 'open' ? 10_000 : 4000;
  redraw();
};

// ---- what is drawn

function status(now) {
  const { zones } = sources;
  if (locked()) return ['none', 'Locked', 'A token is wanted'];
  if (!zones.value) return zones.error ? ['bad', 'No answer', zones.error.message] : ['none', 'Asking …', ''];
  const age = now - zones.at;
  if (zones.error || age > STALE) return ['bad', `Stale: ${span(age / 1000)} old`, `No answer since ${clock(new Date(zones.at).toISOString())}${zones.error ? `: ${zones.error.message}` : ''}. It is asked again by itself.`];
  if (stream.state === 'open') return ['good', 'Live', 'Changes are shown as they happen.'];
  return ['good', 'Polling', 'Asked all the time: this gateway tells of no events as they happen.'];
}

function drawHead() {
  const now = Date.now();
  const [tone, label, more] = status(now);
  const zone = sources.zones.value?.zone;
  draw(head, h('a', { class: 'brand', href: '#zones', 'aria-label': 'Causeway' }, h('svg', { viewBox: '0 0 32 32', width: 26, height: 26, 'aria-hidden': 'true' }, h('rect', { width: 32, height: 32, rx: 8, class: 'plate' }), h('path', { d: 'M6.5 21c3-9 16-9 19 0', class: 'bow' }), h('circle', { cx: 6.5, cy: 21, r: 3, class: 'end' }), h('circle', { cx: 25.5, cy: 21, r: 3, class: 'end' }), h('circle', { cx: 16, cy: 14.3, r: 3, class: 'top' })), h('b', null, 'Causeway'), zone ? quiet(`zone ${zone}`) : null),
    h('nav', { 'aria-label': 'Views' }, Object.entries(VIEWS).map(([name, title]) => h('a', { key: name, href: `#${name}`, 'aria-current': name === page.view ? 'page' : null }, title))),
    h('div', { class: 'status' }, h('span', { class: `live ${tone}`, title: more, 'data-status': tone }, h('svg', { viewBox: '0 0 10 10', width: 10, height: 10, 'aria-hidden': 'true' }, tone === 'bad' ? h('path', { d: 'M1 1l8 8M9 1l-8 8', class: 'cross' }) : h('circle', { cx: 5, cy: 5, r: 4 })), ` ${label}`),
      hasToken() ? h('button', { type: 'button', class: 'button small', onclick: forgetToken, title: 'The token is held in the memory of this page alone' }, 'Forget token') : null));
  document.title = `${zone ? `${zone} · ` : ''}${VIEWS[page.view]} · Causeway`;
}

const forgetToken = () => setToken(null);

function tokenForm() {
  const { error } = sources.zones;
  const submit = (event) => {
    event.preventDefault();
    const field = event.target.elements.namedItem('token');
    setToken(field.value.trim());
    field.value = '';
  };
  const refused = hasToken();
  return h('section', { key: 'token', class: 'view token' }, h('form', { class: 'card form', onsubmit: submit },
    h('h1', null, refused ? 'That token does not open this' : 'This gateway wants a token'), refused ? note('bad', error.message, error.hint ? h('p', null, prose(error.hint)) : null) : h('p', null, 'To read from another host, show an admin token with the scope ', h('code', null, 'read'), '.'),
    h('label', { class: 'whole' }, h('span', null, 'Token'), h('input', { name: 'token', type: 'password', required: true, autocomplete: 'off', spellcheck: 'false', created: (node) => node.focus() })),
    h('div', { class: 'whole' }, h('button', { type: 'submit', class: 'button first' }, 'Open')),
    h('p', { class: 'quiet whole' }, 'It is held in the memory of this page, sent as a header to this gateway alone, and gone when the page is closed. ', h('code', null, 'causeway admin-token issue --scope read'), ' makes one.')));
}

const made = new Map();

/** What was worked out from the same answers is not worked out again. */
function once(name, parts, make) {
  const mark = parts.join();
  if (made.get(name)?.mark !== mark) made.set(name, { mark, value: make() });
  return made.get(name).value;
}

const versions = (...names) => names.map((name) => `${sources[name].version}${sources[name].value ? '' : 'x'}`);

function drawMain() {
  if (locked()) {
    draw(main, tokenForm());
    return;
  }
  const now = Date.now();
  const events = sources.events.value?.list ?? [];
  const fed = once('federation', [...versions('zones', 'allZones', 'tunnels', 'allTunnels', 'figures'), events.length, Math.floor(now / 5000)], () => federation({ own: sources.zones, all: sources.allZones, tunnels: sources.tunnels, allTunnels: sources.allTunnels, figures: sources.figures.value, events, now }));
  const checks = once('checks', versions('checks'), () => checksOf(sources.checks));
  const lost = once('lost', [...versions('checks'), events.length, events[0]?.key], () => lostHomes(events, checks));
  const list = once('services', [...versions('services', 'allServices', 'figures', 'exports', 'checks'), events.length, events[0]?.key, Math.floor(now / 15_000)], () => services({ own: sources.services, all: sources.allServices, figures: sources.figures.value, exports: sources.exports.value ? sources.exports : null, lost, now }));
  tell(fed);
  const before = isLarge();
  const knew = page.services;
  Object.assign(page, { zones: fed.names.length, services: list.length });
  if (before !== isLarge() || Boolean(knew) !== list.length > 0) want();
  const { parameters, width } = page;
  const views = {
    zones: () => zonesView({ federation: fed, sources, figures: sources.figures, checks, lost, parameters, width, now }),
    services: () => servicesView({ list, sources, names: fed.names, parameters, go, scroll: page.scroll, narrow: width < 820 }),
    timeline: () => timelineView({ events, sources, stream, names: fed.names, services: list, parameters, go, now }),
    explain: () => explainView({ parameters, services: list, names: fed.names, own: fed.own, go, redraw }),
    topology: () => topologyView({ sources, checks, federation: fed, parameters, go, redraw, now }),
    shifts: () => shiftsView({ sources, federation: fed, now }),
  };
  draw(main, stale(now), views[page.view]());
  document.body.classList.toggle('over', Boolean(main.querySelector('.inspector')));
  measure();
}

function stale(now) {
  const [tone, label, more] = status(now);
  return tone === 'bad' && sources.zones.value ? h('div', { key: 'stale', class: 'note bad stale', role: 'alert' }, h('p', { class: 'title' }, `${label}. ${more}`)) : null;
}

/** Says changes of zones aloud, for those who do not see the map. */
function tell(fed) {
  const said = [];
  for (const zone of fed.zones.values()) {
    const was = page.states.get(zone.name);
    if (was && was !== zone.state) said.push(`${zone.name} is ${STATES[zone.state].label}`);
    page.states.set(zone.name, zone.state);
  }
  if (said.length) told.textContent = said.slice(0, 5).join('. ');
}

let pending = false;

function redraw() {
  if (pending) return;
  pending = true;
  // Not by frames: a page that is not painted is still right when somebody looks.
  setTimeout(() => {
    pending = false;
    try {
      drawHead();
      drawMain();
    } catch (error) {
      console.error(error);
      draw(main, note('bad', 'This view could not be drawn.', h('p', null, error.message)));
    }
  }, 16);
}

/** Which part of a long table is on the screen. */
function measure() {
  const body = main.querySelector('table.services tbody');
  if (!body) return;
  const above = Math.max(0, -body.getBoundingClientRect().top);
  const { scroll } = page;
  if (Math.abs(above - scroll.above) > 150 || scroll.height !== window.innerHeight) {
    Object.assign(scroll, { above, height: window.innerHeight });
    redraw();
  }
}

addEventListener('hashchange', route);
addEventListener('scroll', measure, { passive: true });
document.addEventListener('visibilitychange', () => {
  want();
  redraw();
});
addEventListener('keydown', (event) => {
  if (event.key !== 'Escape' || event.defaultPrevented) return;
  const close = main.querySelector('.inspector .close');
  if (close) location.hash = close.getAttribute('href');
});
new ResizeObserver(() => {
  if (page.width === main.clientWidth) return;
  page.width = main.clientWidth;
  redraw();
}).observe(main);
setInterval(drawHead, 1000);
setInterval(redraw, 5000);
page.width = main.clientWidth;
route();
sources.zones.refresh();

