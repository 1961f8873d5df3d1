// What the answers of the admin API say together. Pure: the answers and the time go in, and what is drawn comes out.

import { finite, natural, parsed, tags } from './format.js';

/** How a zone is, worst first; `label` is what a reader is told beside the sign. */
export const STATES = {
  revoked: { rank: 0, label: 'revoked', tone: 'bad' },
  down: { rank: 1, label: 'away', tone: 'bad' },
  withdrawn: { rank: 2, label: 'withdrawn', tone: 'bad' },
  partial: { rank: 3, label: 'cut off in part', tone: 'bad' },
  suspect: { rank: 4, label: 'suspect', tone: 'warn' },
  stalled: { rank: 5, label: 'stalled', tone: 'warn' },
  draining: { rank: 6, label: 'gateway leaving', tone: 'calm' },
  drained: { rank: 7, label: 'drained', tone: 'calm' },
  never: { rank: 8, label: 'never heard', tone: 'none' },
  unknown: { rank: 9, label: 'not known', tone: 'none' },
  up: { rank: 10, label: 'up', tone: 'good' },
  own: { rank: 11, label: 'up', tone: 'good' },
};

export const worst = (states) => states.reduce((a, b) => (STATES[b].rank < STATES[a].rank ? b : a), 'own');

/** Answers by zone, whether one zone was asked or all: `{ zone, state, because, old, at, answer }`. */
export function answers(answer, at) {
  if (!answer) return [];
  if (!Array.isArray(answer.zones)) {
    return [{ zone: answer.zone ?? '', state: 'answered', because: null, old: null, at, answer, alone: true }];
  }
  return answer.zones.map((entry) => {
    const answered = entry.state === 'answered' && entry.answer;
    return {
      zone: entry.zone, state: entry.state ?? 'away', because: entry.because ?? null, old: answered ? null : entry.last?.time ?? null,
      at, answer: answered ? entry.answer : entry.last?.answer ?? null, asked: entry.asked ?? null, alone: false,
    };
  });
}

const items = (entry) => (Array.isArray(entry?.answer?.items) ? entry.answer.items : []);

/** How an observer finds one zone, by the zone's entry in its answer. */
export function verdict(zone) {
  if (zone.own) return zone.drain ? 'drained' : 'own';
  const ages = (zone.links ?? []).map((link) => link.age).filter(Boolean);
  if (zone.state === 'down') {
    if (zone.last_word?.reason === 'revoked') return 'revoked';
    return ages.length || zone.last_word ? 'down' : 'never';
  }
  if (zone.state === 'stalled') return 'stalled';
  if (ages.length && ages.every((age) => age === 'withdrawn')) return 'withdrawn';
  if (ages.length && !ages.includes('fresh')) return 'suspect';
  if (zone.drain) return 'drained';
  return zone.state === 'draining' ? 'draining' : 'up';
}

const least = (numbers) => numbers.reduce((a, b) => (finite(b) && !(a <= b) ? b : a), NaN);

function heard(zone) {
  return least((zone.links ?? []).map((link) => link.heard_seconds_ago));
}

/** Seconds for which what an observer says has held, and by what that is known. */
function held(observer, zone, state, tunnels, changes, now) {
  const change = changes.get(`${observer}\u0000${zone.name}`);
  if (state === 'up' || state === 'drained' || state === 'draining') {
    const oldest = tunnels.reduce((most, tunnel) => Math.max(most, tunnel.up_seconds ?? 0), -1);
    if (oldest >= 0) return { seconds: oldest, by: 'the age of its oldest tunnel' };
  } else if (finite(heard(zone))) {
    return { seconds: heard(zone), by: 'since it was last heard' };
  }
  if (change) return { seconds: (now - parsed(change.time)) / 1000, by: 'as the record of events has it' };
  return null;
}

/** The latest event about each zone, by who saw it. */
function latestChanges(events) {
  const latest = new Map();
  for (const event of events) {
    if (!/^(tunnel|zone|peer)_/.test(event.kind)) continue;
    const about = event.peer ? event.peer.split('/')[0] : event.subject;
    const key = `${event.zone}\u0000${about}`;
    if (about && !latest.has(key)) latest.set(key, event);
  }
  return latest;
}

/** Zones, what each says of each, and the lines between them. */
export function federation({ own, all, tunnels, allTunnels, figures, events, now }) {
  const mine = answers(own?.value, own?.at)[0];
  const asked = answers(all?.value, all?.at);
  const entries = new Map(asked.map((entry) => [entry.zone, entry]));
  // The gateway that is asked itself answers soonest.
  if (mine) entries.set(mine.zone, { ...entries.get(mine.zone), ...mine, state: 'answered', old: null });
  const ends = tunnelsByZone(tunnels, allTunnels);
  const changes = latestChanges(events ?? []);
  const zones = new Map();
  const says = new Map();
  for (const entry of [mine, ...asked].filter(Boolean)) {
    for (const zone of items(entry)) if (!zones.has(zone.name)) zones.set(zone.name, { name: zone.name, declared: zone });
  }
  for (const entry of asked) if (!zones.has(entry.zone)) zones.set(entry.zone, { name: entry.zone, declared: null });
  for (const [observer, entry] of entries) {
    const row = new Map();
    for (const zone of items(entry)) {
      const state = verdict(zone);
      const to = (ends.get(observer) ?? []).filter((tunnel) => tunnel.zone === zone.name);
      row.set(zone.name, {
        observer, subject: zone.name, state, zone, tunnels: to, old: entry.old, answered: !entry.old && entry.state === 'answered',
        rtt: least((zone.links ?? []).map((link) => link.rtt_ms)), heard: heard(zone), held: held(observer, zone, state, to, changes, now),
      });
    }
    says.set(observer, row);
  }
  const names = [...zones.keys()].sort(natural);
  for (const zone of zones.values()) complete(zone, { mine, entries, says });
  const flow = figures ? flows(figures, now) : new Map();
  const federated = !asked.some((entry) => entry.alone) && asked.length > 0;
  const unasked = all?.error?.message ?? (asked.length ? 'this gateway tells of its own zone alone' : 'the answer is not there yet');
  return { own: mine?.zone ?? null, names, zones, says, entries, edges: edges(names, says, flow), federated, silent: silent(zones, unasked) };
}

/** Zones that say nothing now, by the reason why. */
function silent(zones, unasked) {
  const why = new Map();
  for (const zone of zones.values()) {
    if (zone.answer === 'answered') continue;
    const because = zone.answer === 'unasked' ? unasked : zone.because ?? '';
    const known = why.get(because) ?? { because, names: [], refused: zone.answer === 'refused', states: [] };
    known.names.push(zone.name);
    known.states.push(zone.state);
    why.set(because, known);
  }
  return [...why.values()];
}

/** How a zone is, all in all: what those say that answer now. */
function complete(zone, { mine, entries, says }) {
  const entry = entries.get(zone.name);
  const words = [];
  for (const [observer, row] of says) {
    const said = row.get(zone.name);
    if (said && observer !== zone.name && said.answered) words.push(said);
  }
  const own = mine?.zone === zone.name;
  const near = says.get(mine?.zone)?.get(zone.name);
  const reached = words.filter((said) => !['down', 'revoked', 'never', 'withdrawn'].includes(said.state));
  zone.own = own;
  zone.answer = entry?.state ?? (own ? 'answered' : 'unasked');
  zone.because = entry?.because ?? null;
  zone.old = entry?.old ?? null;
  zone.asked = entry?.asked ?? null;
  zone.words = words;
  if (own) zone.state = near?.state ?? 'own';
  else if (!words.length) zone.state = 'unknown';
  else if (!reached.length) zone.state = worst(words.map((said) => said.state));
  else if (reached.length < words.length) zone.state = 'partial';
  else zone.state = worst(reached.map((said) => said.state));
  // Nobody has heard of it, which is no fault yet.
  if (zone.state === 'partial' && words.every((said) => reached.includes(said) || said.state === 'never')) zone.state = worst(reached.map((said) => said.state));
  zone.near = near ?? null;
}

function tunnelsByZone(tunnels, allTunnels) {
  const ends = new Map();
  for (const entry of allTunnels?.value ?? []) if (!entry.old) ends.set(entry.zone, entry.tunnels);
  for (const entry of tunnels?.value ?? []) ends.set(entry.zone, entry.tunnels);
  return ends;
}

/** Takes an answer about tunnels up, with rates since the one before. */
export function takeTunnels(answer, before) {
  const now = Date.now();
  return answers(answer, now).map((entry) => {
    const old = before?.find((other) => other.zone === entry.zone);
    const known = new Map((old?.tunnels ?? []).map((tunnel) => [tunnelKey(tunnel), tunnel]));
    const seconds = old ? (now - old.at) / 1000 : NaN;
    const list = items(entry).map((tunnel) => {
      const was = known.get(tunnelKey(tunnel));
      const same = was && seconds > 0.2 && was.up_seconds <= tunnel.up_seconds;
      const marks = counted(tunnel, same ? was.marks : null, now);
      if (!same) return { ...tunnel, marks, sentRate: NaN, receivedRate: NaN, loss: NaN };
      return { ...tunnel, marks, sentRate: (tunnel.sent_bytes - was.sent_bytes) / seconds, receivedRate: (tunnel.received_bytes - was.received_bytes) / seconds, loss: lossOf(tunnel, marks[0]) };
    });
    return { zone: entry.zone, old: entry.old, at: now, tunnels: list };
  });
}

const tunnelKey = (tunnel) => `${tunnel.zone}/${tunnel.gateway}/${tunnel.thread}/${tunnel.dialled}/${tunnel.remote}`;

/** Loss is told of the latest half minute to a minute, and not of fewer packets than this. */
const LOSS_WINDOW = 30_000;
const LOSS_PACKETS = 20;

/** Two earlier counts of packets, the older one first. */
function counted(tunnel, marks, now) {
  const here = { at: now, sent: tunnel.sent_packets, lost: tunnel.lost_packets };
  if (!marks) return [here, here];
  return now - marks[1].at < LOSS_WINDOW ? marks : [marks[1], here];
}

function lossOf(tunnel, mark) {
  const sent = tunnel.sent_packets - mark.sent;
  return sent >= LOSS_PACKETS ? Math.max(0, tunnel.lost_packets - mark.lost) / sent : NaN;
}

const sum = (numbers) => numbers.reduce((all, number) => (finite(number) ? (finite(all) ? all + number : number) : all), NaN);
const most = (numbers) => numbers.reduce((all, number) => (finite(number) && !(all >= number) ? number : all), NaN);

/** What both ends say of the line between two zones. */
function edges(names, says, flow) {
  const list = [];
  names.forEach((a, index) => {
    for (const b of names.slice(index + 1)) {
      const views = [says.get(a)?.get(b), says.get(b)?.get(a)].filter((said) => said?.answered);
      if (!views.length) continue;
      const ends = views.map((said) => ({
        bytes: sum(said.tunnels.map((tunnel) => sum([tunnel.sentRate, tunnel.receivedRate]))), loss: most(said.tunnels.map((tunnel) => tunnel.loss)), tunnels: said.tunnels.length,
      }));
      list.push({
        a, b, key: `${a}\u0000${b}`, views, state: worst(views.map((said) => (said.state === 'own' ? 'up' : said.state))),
        rtt: least(views.map((said) => said.rtt)), loss: most(ends.map((end) => end.loss)), bytes: most(ends.map((end) => end.bytes)),
        tunnels: Math.max(...ends.map((end) => end.tunnels)), requests: sum([flow.get(`${a}\u0000${b}`), flow.get(`${b}\u0000${a}`)]),
      });
    }
  });
  return list;
}

/** Requests a second from zone to zone, in the latest whole minute. */
function flows(figures, now) {
  const flow = new Map();
  for (const [zone, minutes] of figures) {
    const minute = lastWhole(minutes, now);
    for (const service of minute?.services ?? []) {
      for (const part of service.to ?? []) {
        const key = `${zone}\u0000${part.zone}`;
        flow.set(key, (flow.get(key) ?? 0) + part.count / 60);
      }
    }
  }
  return flow;
}

/** The latest minute; a minute's time is its end. */
export function lastWhole(minutes, now) {
  let found = null;
  for (const [at, minute] of minutes) if (at > now - 140_000 && (!found || at > found.at)) found = { at, minute };
  return found?.minute ?? null;
}

/** Up to when the figures are; null without any. */
export function figuresUntil(figures) {
  const ends = [...(figures?.values() ?? [])].flatMap((minutes) => [...minutes.keys()]);
  return ends.length ? Math.max(...ends) : null;
}

/** Services that somebody cannot have now, with the zones that say so: by what they told last (events, newest first), or by a check. */
export function lostHomes(events, checks) {
  const lost = new Map();
  lost.found = new Map();
  const add = (service, zone, since, because) => {
    const known = lost.get(service) ?? { service, zones: new Set(), since: null, because: null };
    known.zones.add(zone);
    if (since) known.since = Math.min(since, known.since ?? since);
    known.because ??= because ?? null;
    lost.set(service, known);
  };
  const over = new Set();
  for (const { kind, zone, gateway, service, subject, at, because } of events) {
    const process = `${zone}/${gateway}`;
    // What a process said that is no more, nobody takes back.
    if (/^gateway_(started|ended)$/.test(kind)) over.add(process);
    if (!service || !/^home_/.test(kind)) continue;
    const arm = JSON.stringify([zone, service, subject]);
    if (kind === 'home_lost' && !over.has(arm) && !over.has(process)) add(service, zone, at, because);
    else if (kind === 'home_found' && !lost.found.has(service)) lost.found.set(service, at);
    over.add(arm);
  }
  for (const check of checks ?? []) if (check.group === 'services' && check.status === 'fail') for (const zone of check.zones) add(check.name, zone, null, check.message);
  return lost;
}

/** Minutes by zone, those of this answer put among those that are known. */
export function takeFigures(answer, before) {
  const figures = new Map();
  const oldest = Date.now() - 61 * 60_000;
  for (const [zone, minutes] of before ?? []) figures.set(zone, new Map([...minutes].filter(([at]) => at > oldest)));
  for (const entry of answers(answer, 0)) {
    const minutes = figures.get(entry.zone) ?? new Map();
    for (const minute of entry.answer?.minutes ?? []) {
      const at = parsed(minute.time);
      if (at !== null && at > oldest) minutes.set(at, minute);
    }
    figures.set(entry.zone, minutes);
  }
  return figures;
}

/** Most events that are kept here. */
const MOST_EVENTS = 3000;

/** Newest first, each once. */
export function mergeEvents(known, more) {
  const all = new Map((known ?? []).map((event) => [event.key, event]));
  for (const event of more) {
    const key = `${event.zone}/${event.gateway ?? ''}/${event.id}/${event.time}`;
    if (!all.has(key)) all.set(key, { ...event, key, at: parsed(event.time) ?? 0 });
  }
  return [...all.values()].sort((a, b) => b.at - a.at || b.id - a.id).slice(0, MOST_EVENTS);
}

export function takeEvents(answer, before) {
  const entries = answers(answer, Date.now());
  const list = entries.flatMap((entry) => (entry.answer?.events ?? []).map((event) => ({ zone: entry.zone, ...event })));
  return {
    list: mergeEvents(before?.list, list), kept: Math.max(0, ...entries.map((entry) => entry.answer?.kept_for_seconds ?? 0)),
    away: entries.filter((entry) => entry.state !== 'answered'), nobody: entries.every((entry) => entry.state !== 'answered'),
  };
}

/** What of an event wants to be noticed. */
export function tone(kind) {
  const text = String(kind ?? '');
  if (/(_ended|_up|_heard|_fresh|_found|_done|_renewed|_resumed|_healthy|undrained)$/.test(text) && text !== 'gateway_ended') return 'good';
  if (/(down|lost|withdrawn|revoked|abort|refused|expired|failed)/.test(text)) return 'bad';
  if (/(stall|suspect|failover|spill|shed|eject|pause|taken_back|broken_off|unhealthy|expiring)/.test(text)) return 'warn';
  if (/(drain|handed_over|took_over|_ended|removed)/.test(text)) return 'calm';
  return 'none';
}

export { items, least, most, sum, tags };
