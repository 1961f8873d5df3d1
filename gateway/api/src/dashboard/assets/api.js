// What is asked of the admin API, and how often: only while somebody looks, less often when it takes long or fails. The token,
// where one is needed, is held in this module's memory, sent as a header, and gone with the page.

/** Longest wait for an answer, in milliseconds. */
const ANSWER_TIMEOUT = 12_000;
/** Longest pause between two tries, in milliseconds. */
const LONGEST_PAUSE = 30_000;
/** Times that an answer took: so long is the pause after it, so that a large federation is not asked all the time. */
const PAUSE_PER_ANSWER = 8;
/** And so many characters of answers a second, for one source. */
const MOST_PER_SECOND = 250_000;

let token = null;
const noticed = new Set();

/** Calls back when a token is set. */
export const onToken = (notice) => noticed.add(notice);
export const hasToken = () => token !== null;
export function setToken(text) {
  token = text || null;
  for (const notice of noticed) notice();
}

/** A refusal or failure of the API in its own words. */
export class ApiFailure extends Error {
  constructor(status, message, hint, details) {
    super(message);
    this.status = status;
    this.hint = hint ?? null;
    this.details = details ?? null;
  }
}

function headers(more) {
  const all = { accept: 'application/json', ...more };
  if (token !== null) all.authorization = `Bearer ${token}`;
  return all;
}

async function send(path, { method = 'GET', body, more, signal } = {}) {
  let answer;
  try {
    const how = { method, body, headers: headers(more), signal, cache: 'no-store', credentials: 'omit', redirect: 'error', referrerPolicy: 'no-referrer' };
    answer = await fetch(path, how);
  } catch (error) {
    if (error.name === 'TypeError' && token !== null && /[^\x20-\x7e]/.test(token)) throw new ApiFailure(401, 'this is no token: it has characters that no token has');
    throw new ApiFailure(0, error.name === 'AbortError' || error.name === 'TimeoutError' ? 'the gateway has not answered in time' : 'the gateway does not answer');
  }
  if (answer.ok) return answer;
  let said = null;
  try {
    said = await answer.json();
  } catch {
    // Whatever stands between may answer in a way of its own.
  }
  throw new ApiFailure(answer.status, said?.error ?? `the answer was ${answer.status}`, said?.hint, said?.details);
}

/** One question, one answer. */
export async function ask(path, options = {}) {
  const answer = await send(path, { ...options, signal: AbortSignal.timeout(ANSWER_TIMEOUT) });
  try {
    const text = await answer.text();
    options.sized?.(text.length);
    return JSON.parse(text);
  } catch (error) {
    throw new ApiFailure(0, error.name === 'SyntaxError' ? 'the answer is no JSON' : 'the answer broke off');
  }
}

/** Something that is asked again and again while a view needs it. */
export class Source {
  constructor(path, every, take) {
    Object.assign(this, { path, every, take, value: null, error: null, at: 0, asked: 0, failures: 0, version: 0 });
    this.wanted = false;
    this.busy = false;
    this.again = false;
    this.timer = 0;
    this.changed = () => {};
  }

  want(wanted) {
    const begins = wanted && !this.wanted;
    this.wanted = wanted;
    clearTimeout(this.timer);
    if (!wanted) return;
    const pause = begins ? Math.max(0, this.at + this.pause() - Date.now()) : this.pause();
    this.timer = setTimeout(() => this.refresh(), this.failures ? Math.min(pause, this.every) : pause);
  }

  pause() {
    if (this.failures) return Math.min(LONGEST_PAUSE, this.every * 2 ** Math.min(this.failures, 6));
    return Math.max(this.every, PAUSE_PER_ANSWER * this.took || 0, (1000 * this.size) / MOST_PER_SECOND || 0);
  }

  async question() {
    const path = typeof this.path === 'function' ? this.path(this) : this.path;
    const sized = (size) => (this.size = size);
    try {
      return await ask(path, { sized });
    } catch (error) {
      // A gateway that does not know this of all zones may know it of its own.
      if (error.status !== 400 || !path.includes('all=true')) throw error;
      return ask(path.replace(/all=true&?/, '').replace(/[?&]$/, ''), { sized });
    }
  }

  /** Now, or as soon as the answer that is under way is there. */
  async refresh() {
    clearTimeout(this.timer);
    if (!this.wanted || document.hidden) return;
    if (this.busy) {
      this.again = true;
      return;
    }
    this.busy = true;
    const begun = performance.now();
    try {
      const answer = await this.question();
      this.value = this.take ? this.take(answer, this.value) : answer;
      this.at = Date.now();
      this.error = null;
      this.failures = 0;
      this.version += 1;
    } catch (error) {
      this.error = error instanceof ApiFailure ? error : new ApiFailure(0, `the answer cannot be understood: ${error.message}`);
      this.failures += 1;
    }
    this.took = performance.now() - begun;
    this.busy = false;
    this.changed();
    if (!this.wanted) return;
    const again = this.again && !this.failures;
    this.again = false;
    this.timer = setTimeout(() => this.refresh(), again ? 50 : this.pause());
  }
}

/** Events as they happen. `EventSource` cannot send a token, so the stream is read by hand. */
export class EventStream {
  constructor(path, take) {
    Object.assign(this, { path, take, state: 'closed', failures: 0, last: null, error: null, abort: null, timer: 0 });
    this.changed = () => {};
  }

  open() {
    if (this.abort || document.hidden) return;
    clearTimeout(this.timer);
    this.abort = new AbortController();
    this.read(this.abort.signal).then(() => true, (error) => {
      this.error = error instanceof ApiFailure ? error : new ApiFailure(0, 'the stream broke off');
    }).then((whole) => {
      if (this.state === 'open') this.failures = 0;
      this.abort = null;
      if (!whole) this.become('closed');
      if (document.hidden) return;
      this.failures += 1;
      const absent = this.error?.status === 404;
      this.timer = setTimeout(() => this.open(), absent ? LONGEST_PAUSE : Math.min(LONGEST_PAUSE, 500 * 2 ** this.failures));
    });
  }

  close() {
    clearTimeout(this.timer);
    this.abort?.abort();
  }

  become(state) {
    if (this.state === state) return;
    this.state = state;
    this.changed();
  }

  async read(signal) {
    const more = { accept: 'text/event-stream' };
    if (this.last !== null) more['last-event-id'] = this.last;
    const answer = await send(this.path, { more, signal });
    this.error = null;
    this.become('open');
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = '';
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      rest += value;
      // A line is never that long; what sends one is no gateway.
      if (rest.length > 1_000_000) throw 0;
      const blocks = rest.split(/\r?\n\r?\n/);
      rest = blocks.pop();
      for (const block of blocks) this.block(block);
    }
  }

  block(block) {
    const data = [];
    for (const line of block.split(/\r?\n/)) {
      const [, name, text] = /^([a-z]+): ?(.*)$/s.exec(line) ?? [];
      if (name === 'data') data.push(text);
      if (name === 'id') this.last = text;
    }
    if (!data.length) return;
    try {
      this.take(JSON.parse(data.join('\n')));
    } catch {
      // One that cannot be read is found by the next question.
    }
  }
}
