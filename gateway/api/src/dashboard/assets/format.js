// Numbers, times and names as people read them. Pure.

const NONE = '–';

export const finite = Number.isFinite;

/** `1.2 k`, `34`, `0.4`: three digits at most. */
export function count(value) {
  if (!finite(value)) return NONE;
  const units = ['', ' k', ' M', ' G', ' T'];
  let unit = 0;
  while (Math.abs(value) >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return short(value) + units[unit];
}

function short(value) {
  const size = Math.abs(value);
  if (size >= 99.5 || Number.isInteger(value)) return String(Math.round(value));
  return size >= 9.95 ? trimmed(value.toFixed(1)) : trimmed(value.toFixed(size < 0.095 ? 2 : 1));
}

const trimmed = (text) => (text.includes('.') ? text.replace(/\.?0+$/, '') : text);

export const whole = (value) => (finite(value) ? Math.round(value).toLocaleString('en').replaceAll(',', '\u202f') : NONE);

/** Of a rate a second: `1.4 MB/s`. */
export function bytesPerSecond(value) {
  if (!finite(value)) return NONE;
  const units = ['B/s', 'kB/s', 'MB/s', 'GB/s'];
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${short(value)} ${units[unit]}`;
}

export const perSecond = (value) => (finite(value) ? `${count(value)}/s` : NONE);

export function milliseconds(value) {
  if (!finite(value)) return NONE;
  if (value >= 9950) return `${trimmed((value / 1000).toFixed(1))} s`;
  return value >= 9.95 ? `${Math.round(value)} ms` : `${short(value)} ms`;
}

/** Of a share between 0 and 1; never 100 % unless nothing is missing. */
export function percent(share) {
  if (!finite(share)) return NONE;
  const value = share * 100;
  if (share < 1 && value > 99.9) return `${(Math.floor(value * 100) / 100).toFixed(2)} %`;
  return `${value >= 99.95 || value === 0 ? Math.round(value) : trimmed(value.toFixed(1))} %`;
}

/** `4 s`, `3 min`, `5 h`, `2 d`. */
export function span(seconds) {
  if (!finite(seconds)) return NONE;
  const size = Math.max(0, seconds);
  if (size < 60) return `${Math.floor(size)} s`;
  if (size < 3600) return `${Math.floor(size / 60)} min`;
  if (size < 48 * 3600) {
    const minutes = Math.floor((size % 3600) / 60);
    return `${Math.floor(size / 3600)} h${size < 6 * 3600 && minutes ? ` ${minutes} min` : ''}`;
  }
  return `${Math.floor(size / 86400)} d`;
}

export function parsed(time) {
  const at = Date.parse(time ?? '');
  return finite(at) ? at : null;
}

/** Seconds since a moment in RFC 3339. */
export function since(time, now) {
  const at = parsed(time);
  return at === null ? NaN : (now - at) / 1000;
}

const two = (number) => String(number).padStart(2, '0');

/** `14:03:22`, in the reader's own time. */
export function clock(time) {
  const at = parsed(time);
  if (at === null) return NONE;
  const date = new Date(at);
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

/** `14:03`, of a number of milliseconds. */
export const minute = (at) => clock(new Date(at).toISOString()).slice(0, 5);

/** `2026-11-30 14:03:22`. */
export function moment(time) {
  const at = parsed(time);
  return at === null ? NONE : `${day(time)} ${clock(time)}`;
}

export function day(time) {
  const at = parsed(time);
  if (at === null) return NONE;
  const date = new Date(at);
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
}

/** `version=v2, region=eu`, with 2 before 10. */
export function tags(map) {
  const names = Object.keys(map ?? {}).sort(natural);
  return names.length ? names.map((name) => `${name}=${map[name]}`).join(', ') : 'any tags';
}

export const natural = (a, b) => a.localeCompare(b, 'en', { numeric: true });

export const plural = (number, one, many = `${one}s`) => `${whole(number)} ${number === 1 ? one : many}`;

/** `east, north and west`, the first ones of many. */
export function listed(names) {
  const list = [...names].sort(natural);
  if (list.length > 5) list.splice(4, list.length, `${list.length - 4} more`);
  const last = list.pop();
  return list.length ? `${list.join(', ')} and ${last}` : last ?? '';
}

/** No longer than so many characters, cut in the middle. */
export function cut(text, most) {
  const letters = [...String(text)];
  if (letters.length <= most) return letters.join('');
  const head = Math.ceil((most - 1) * 0.6);
  return `${letters.slice(0, head).join('')}…${letters.slice(letters.length - (most - 1 - head)).join('')}`;
}

export const word = (text) => String(text ?? '').replaceAll('_', ' ');
