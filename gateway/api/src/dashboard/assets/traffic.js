// Services: where each is served, what was declared and what was seen. Pure.

import { answers, figuresUntil, items, lastWhole, sum } from './model.js';
import { finite, natural, tags } from './format.js';

/** Minutes that are looked back on. */
const MINUTES = 60;

/** Every service of every answer, with its places. */
export function services({ own, all, figures, exports, lost, now }) {
  const mine = answers(own?.value, own?.at)[0];
  const entries = new Map(answers(all?.value, all?.at).map((entry) => [entry.zone, entry]));
  if (mine) entries.set(mine.zone, { ...entries.get(mine.zone), ...mine, state: 'answered', old: null });
  const order = [...entries.values()].sort((a, b) => (a.zone === mine?.zone ? -1 : b.zone === mine?.zone ? 1 : natural(a.zone, b.zone)));
  const byName = new Map();
  for (const entry of order) {
    for (const view of items(entry)) {
      const service = byName.get(view.name) ?? { name: view.name, view, views: new Map(), places: new Map() };
      byName.set(view.name, service);
      service.views.set(entry.zone, { view, old: entry.old });
    }
  }
  for (const service of byName.values()) places(service, mine?.zone, entries);
  const seen = figures ? traffic(figures, lost.found, now) : null;
  const capacities = exports ? capacity(exports) : new Map();
  const list = [...byName.values()];
  for (const service of list) complete(service, seen?.get(service.name) ?? null, capacities.get(service.name), lost.get(service.name));
  return list.sort((a, b) => natural(a.name, b.name));
}

/** Where it has instances: by each zone's own word if there is one, else by what the others hear of it. */
function places(service, own, entries) {
  for (const [zone, { view, old }] of service.views) {
    for (const place of view.zones ?? []) {
      const known = service.places.get(place.zone);
      if (known && known.by === own) continue;
      const by = zone;
      service.places.set(place.zone, { zone: place.zone, instances: place.instances, healthy: place.healthy, age: place.age, link: place.link, usable: place.usable, by, old });
    }
  }
  for (const [zone, { view, old }] of service.views) {
    const heard = service.places.get(zone);
    const { instances, healthy } = view.local ?? { instances: 0, healthy: 0 };
    if (old) continue;
    if (!instances && !heard) continue;
    const reached = zone === own || heard?.usable !== false;
    service.places.set(zone, { zone, instances, healthy, age: zone === own ? 'own' : heard?.age ?? null, link: heard?.link ?? null, usable: reached, by: zone, old: null });
  }
  for (const place of service.places.values()) place.away = entries.get(place.zone)?.state === 'away';
}

function complete(service, seen, capacities, lost) {
  service.list = [...service.places.values()].sort((a, b) => natural(a.zone, b.zone));
  service.instances = service.list.reduce((all, place) => all + place.instances, 0);
  service.healthy = service.list.reduce((all, place) => all + (place.usable ? place.healthy : 0), 0);
  service.ejected = [...service.views].flatMap(([zone, { view }]) => (view.ejected ?? []).map((ejection) => ({ by: zone, ...ejection })));
  service.seen = seen;
  service.lost = lost ?? null;
  service.capacities = capacities ?? new Map();
  service.capacity = sum([...service.capacities.values()]);
  service.rate = seen ? seen.rate : NaN;
  service.headroom = finite(service.capacity) && finite(service.rate) ? 1 - service.rate / service.capacity : NaN;
  service.state = stateOf(service);
}

/** How it is about now: what the zones say at this moment, and the latest minutes. */
function stateOf(service) {
  const asked = [...service.views].filter(([, { old }]) => !old).map(([zone]) => zone);
  if (service.lost && asked.every((zone) => service.lost.zones.has(zone))) return { tone: 'bad', label: 'not served', sign: 'down' };
  if (!service.list.length) return { tone: 'none', label: 'no instance', sign: 'never' };
  if (!service.healthy) return { tone: 'bad', label: 'not served', sign: 'down' };
  if (service.lost) return { tone: 'bad', label: 'cut off in part', sign: 'partial' };
  const seen = service.seen?.lately;
  if (seen && seen.begun >= ENOUGH && seen.ok / seen.begun < 0.95) return { tone: 'bad', label: 'failing', sign: 'partial' };
  if (service.ejected.length) return { tone: 'warn', label: 'ejected in part', sign: 'suspect' };
  if (service.headroom < 0.1) return { tone: 'warn', label: 'near its capacity', sign: 'stalled' };
  const weak = service.list.some((place) => place.healthy < place.instances || !place.usable);
  if (weak) return { tone: 'warn', label: 'served in part', sign: 'suspect' };
  return { tone: 'good', label: 'served', sign: 'up' };
}

/** Of each service: each minute of the last hour, and the sums by zone and tags. */
function traffic(figures, found, now) {
  // The minute that is not over yet would look like an end.
  const begin = Math.floor(now / 60_000) * 60_000 - MINUTES * 60_000;
  const end = figuresUntil(figures) ?? now;
  const all = new Map();
  for (const [zone, minutes] of figures) {
    for (const [at, minute] of minutes) {
      const slot = Math.floor((at - 30_000 - begin) / 60_000);
      if (slot < 0 || slot >= MINUTES) continue;
      for (const part of minute.services ?? []) add(all, zone, slot, part, at);
    }
    const whole = lastWhole(minutes, now);
    for (const part of whole?.services ?? []) {
      const seen = all.get(part.service);
      if (!seen) continue;
      seen.rate = (finite(seen.rate) ? seen.rate : 0) + part.begun / 60;
      for (const to of part.to ?? []) seen.rateTo.set(to.zone, (seen.rateTo.get(to.zone) ?? 0) + to.count / 60);
    }
  }
  for (const [service, seen] of all) {
    // What was before somebody could serve it again is over.
    const from = Math.ceil(((found.get(service) ?? 0) - begin) / 60_000);
    seen.lately = lately(seen.minutes.slice(Math.max(0, from), Math.ceil((end - 30_000 - begin) / 60_000)));
    if (!finite(seen.rate)) seen.rate = 0;
    const latest = [...seen.latency.values()].filter((one) => one.slot >= MINUTES - 6);
    seen.slowest = latest.sort((a, b) => (b.p99 ?? 0) - (a.p99 ?? 0))[0] ?? null;
  }
  return all;
}

/** So many requests tell how a service fares; of the latest minutes, three at most. */
const ENOUGH = 20;

function lately(minutes) {
  const sums = EMPTY();
  for (const minute of minutes.slice(-3).reverse()) {
    for (const name of Object.keys(sums)) sums[name] += minute[name];
    if (sums.begun >= ENOUGH) break;
  }
  return sums;
}

const EMPTY = () => ({ begun: 0, ok: 0, failed: 0, shed: 0 });

function add(all, zone, slot, part, at) {
  let seen = all.get(part.service);
  if (!seen) {
    seen = { minutes: Array.from({ length: MINUTES }, EMPTY), byZone: new Map(), byTags: new Map(), byCaller: new Map(), to: new Map(), latency: new Map(), rate: NaN, rateTo: new Map(), begun: 0, ok: 0, failed: 0, shed: 0 };
    all.set(part.service, seen);
  }
  const minute = seen.minutes[slot];
  for (const name of ['begun', 'ok', 'failed', 'shed']) {
    minute[name] += part[name] ?? 0;
    seen[name] += part[name] ?? 0;
  }
  const caller = seen.byCaller.get(zone) ?? { begun: 0, ok: 0, failed: 0, shed: 0 };
  for (const name of ['begun', 'ok', 'failed', 'shed']) caller[name] += part[name] ?? 0;
  seen.byCaller.set(zone, caller);
  for (const to of part.to ?? []) {
    seen.byZone.set(to.zone, (seen.byZone.get(to.zone) ?? 0) + to.count);
    const named = tags(to.tags);
    seen.byTags.set(named, (seen.byTags.get(named) ?? 0) + to.count);
  }
  const setup = part.setup_milliseconds;
  if (!setup || !part.begun) return;
  const latest = seen.latency.get(zone);
  if (!latest || latest.at < at) seen.latency.set(zone, { zone, at, slot, ...setup });
}

/** Capacity a second, by service and zone. Where several gateways tell of the same instances, the most counts. */
function capacity(exports) {
  const byGateway = new Map();
  for (const item of items(answers(exports.value, exports.at)[0])) {
    if (!finite(item.capacity_per_second)) continue;
    const key = JSON.stringify([item.service, item.zone, item.gateway ?? null]);
    byGateway.set(key, (byGateway.get(key) ?? 0) + item.capacity_per_second);
  }
  const all = new Map();
  for (const [key, value] of byGateway) {
    const [service, zone] = JSON.parse(key);
    const zones = all.get(service) ?? new Map();
    all.set(service, zones);
    zones.set(zone, Math.max(zones.get(zone) ?? 0, value));
  }
  return all;
}

/** What was declared beside what was seen: the arms of the split, with their shares. */
export function declared(service) {
  const split = service.view.split ?? [];
  const weights = split.reduce((all, arm) => all + arm.weight, 0);
  const seen = service.seen?.byTags ?? new Map();
  const total = [...seen.values()].reduce((all, number) => all + number, 0);
  const rows = split.map((arm) => {
    const name = tags(arm.tags);
    const matches = [...seen].filter(([observed]) => Object.entries(arm.tags ?? {}).every(([key, value]) => observed.split(', ').includes(`${key}=${value}`)));
    const number = matches.reduce((all, [, value]) => all + value, 0);
    return { name, declared: weights ? arm.weight / weights : NaN, observed: total ? number / total : NaN };
  });
  if (!rows.length) return [...seen].map(([name, number]) => ({ name, declared: NaN, observed: total ? number / total : NaN })).sort((a, b) => b.observed - a.observed);
  return rows;
}
