// gRPC client of the interoperability cases, on @grpc/grpc-js. Arguments: HOST:PORT, then the names of cases.
//
// Prints `case NAME ok` or `case NAME: what is wrong`, and exits with 1 if one failed.
'use strict';
const assert = require('assert');
const grpc = require('@grpc/grpc-js');
const { testing, StatusDetails } = require('./load');

const LONGEST_MESSAGE = 16 * 1024 * 1024;
// Longest time for one call, in milliseconds, where a case is not about that.
const PATIENCE = 20000;
const INITIAL = 'x-grpc-test-echo-initial';
const TRAILING = 'x-grpc-test-echo-trailing-bin';
const SIZES = [[31415, 27182], [9, 8], [2653, 1828], [58979, 45904]];
const WHITESPACE = '\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n';

const [target, ...names] = process.argv.slice(2);
const options = { 'grpc.max_receive_message_length': LONGEST_MESSAGE, 'grpc.max_send_message_length': LONGEST_MESSAGE, 'grpc.enable_retries': 0 };
const open = (service, more) => new service(target, grpc.credentials.createInsecure(), { ...options, ...more });
const test = open(testing.TestService);
const compressing = open(testing.TestService, { 'grpc.default_compression_algorithm': 2 });
const observer = open(testing.Observer);
const none = open(testing.UnimplementedService);

const within = ms => ({ deadline: Date.now() + ms });
const payload = size => ({ body: Buffer.alloc(size) });
const simple = () => ({ responseSize: 314159, payload: payload(271828) });
const duplex = (size, sent) => ({ responseParameters: [{ size }], payload: payload(sent) });
// The same, whose second answer never comes: so the server is busy with it when the call is taken back, and sees that.
const duplexThenNothing = (size, sent) => ({ responseParameters: [{ size }, { size: 1, intervalUs: 60000000 }], payload: payload(sent) });

// A call with one answer.
function unary(client, method, request, metadata = new grpc.Metadata(), callOptions = within(PATIENCE)) {
  return new Promise((done, failed) => {
    const told = {};
    const call = client[method](request, metadata, callOptions, (error, answer) => {
      if (error) failed(error);
      else Object.assign(told, { answer });
    });
    call.on('metadata', initial => { told.initial = initial; });
    call.on('status', status => { told.status = status; if (status.code === 0) setImmediate(() => done(told)); });
  });
}

function input(client) {
  return new Promise((done, failed) => {
    const call = client.StreamingInputCall(within(PATIENCE), (error, answer) => (error ? failed(error) : done(answer)));
    for (const size of [27182, 8, 1828, 45904]) call.write({ payload: payload(size) });
    call.end();
  });
}

// Reads the answers of a stream; `next` is the next one, or null at its end.
function reader(call) {
  const ended = { status: null, initial: null };
  const queue = [];
  let wake = () => {};
  const put = entry => { queue.push(entry); wake(); };
  call.on('metadata', initial => { ended.initial = initial; });
  call.on('status', status => { ended.status = status; });
  call.on('data', answer => put({ answer }));
  call.on('end', () => put({ answer: null }));
  call.on('error', error => put({ error }));
  const next = async () => {
    while (!queue.length) await new Promise(done => { wake = done; });
    const { answer, error } = queue.shift();
    if (error) throw error;
    return answer;
  };
  const rest = async () => {
    const all = [];
    for (let answer = await next(); answer; answer = await next()) all.push(answer);
    return all;
  };
  return { next, rest, ended };
}

async function failsWith(code, call) {
  let error = null;
  try { await call(); } catch (thrown) { error = thrown; }
  assert(error, `the call succeeded, and should have ended with ${grpc.status[code]}`);
  assert.strictEqual(grpc.status[error.code], grpc.status[code], String(error));
  return error;
}

const seen = async (metadata, callOptions) => (await unary(observer, 'Observe', {}, metadata, callOptions)).answer;
async function untilCancelled(before) {
  const end = Date.now() + PATIENCE;
  while ((await seen()).cancelled === before) {
    assert(Date.now() < end, 'the server was never told that the call was taken back');
    await new Promise(done => setTimeout(done, 20));
  }
}

async function large(client) {
  const { answer } = await unary(client, 'UnaryCall', simple());
  assert.strictEqual(answer.payload.body.length, 314159);
}

async function output() {
  const sizes = [31415, 9, 2653, 58979];
  const answers = await reader(test.StreamingOutputCall({ responseParameters: sizes.map(size => ({ size })) }, within(PATIENCE))).rest();
  assert.deepStrictEqual(answers.map(answer => answer.payload.body.length), sizes);
}

async function status(message) {
  const responseStatus = { code: 2, message };
  const one = await failsWith(2, () => unary(test, 'UnaryCall', { responseStatus }));
  const two = await failsWith(2, () => {
    const call = test.FullDuplexCall(within(PATIENCE));
    call.write({ responseStatus });
    call.end();
    return reader(call).rest();
  });
  for (const error of [one, two]) assert.strictEqual(error.details, message);
}

const cases = {
  // --- as the list has them ---
  async empty_unary() { assert.deepStrictEqual((await unary(test, 'EmptyCall', {})).answer, {}); },
  large_unary: () => large(test),
  async client_compressed_unary() { await large(compressing); await large(test); },
  // Both servers compress their answers.
  server_compressed_unary: () => large(test),
  async client_streaming() { assert.strictEqual((await input(test)).aggregatedPayloadSize, 74922); },
  async client_compressed_streaming() { assert.strictEqual((await input(compressing)).aggregatedPayloadSize, 74922); },
  server_streaming: output,
  server_compressed_streaming: output,
  async ping_pong() {
    const call = test.FullDuplexCall(within(PATIENCE));
    const { next } = reader(call);
    for (const [size, sent] of SIZES) {
      call.write(duplex(size, sent));
      assert.strictEqual((await next()).payload.body.length, size);
    }
    call.end();
    assert.strictEqual(await next(), null);
  },
  async empty_stream() {
    const call = test.FullDuplexCall(within(PATIENCE));
    call.end();
    assert.deepStrictEqual(await reader(call).rest(), []);
  },
  async custom_metadata() {
    const metadata = new grpc.Metadata();
    const value = Buffer.from('ababab', 'hex');
    metadata.set(INITIAL, 'test_initial_metadata_value');
    metadata.set(TRAILING, value);
    const one = await unary(test, 'UnaryCall', simple(), metadata);
    const call = test.FullDuplexCall(metadata, within(PATIENCE));
    const { rest, ended } = reader(call);
    call.write(duplex(314159, 271828));
    call.end();
    assert.strictEqual((await rest()).length, 1);
    for (const { initial, status: { metadata: trailing } } of [one, ended]) {
      assert.deepStrictEqual(initial.get(INITIAL), ['test_initial_metadata_value']);
      assert.deepStrictEqual(trailing.get(TRAILING), [value]);
    }
  },
  status_code_and_message: () => status('test status message'),
  special_status_message: () => status(WHITESPACE),
  unimplemented_method: () => failsWith(12, () => unary(test, 'UnimplementedCall', {})),
  unimplemented_service: () => failsWith(12, () => unary(none, 'UnimplementedCall', {})),
  cancel_after_begin: () => failsWith(1, () => new Promise((done, failed) => {
    const call = test.StreamingInputCall(within(PATIENCE), (error, answer) => (error ? failed(error) : done(answer)));
    call.cancel();
  })),
  async cancel_after_first_response() {
    const before = (await seen()).cancelled;
    const call = test.FullDuplexCall(within(PATIENCE));
    const { next } = reader(call);
    call.write(duplexThenNothing(31415, 27182));
    await next();
    call.cancel();
    await failsWith(1, next);
    await untilCancelled(before);
  },
  timeout_on_sleeping_server: () => failsWith(4, () => {
    const call = test.FullDuplexCall(within(1));
    call.on('error', () => {});
    call.write({ payload: payload(27182) });
    return reader(call).rest();
  }),
  async concurrent_large_unary() { await Promise.all(Array.from({ length: 100 }, () => large(test))); },

  // --- besides ---
  async a_deadline_is_told_to_the_server() {
    const { leftMs } = await seen(undefined, within(7000));
    // Either side rounds up.
    assert(leftMs > 5000 && leftMs <= 7100, `${leftMs} ms are left of 7 s`);
    assert.strictEqual((await seen(undefined, {})).leftMs, 0);
  },
  async a_deadline_ends_a_call_at_the_server() {
    const before = (await seen()).cancelled;
    const call = test.FullDuplexCall(within(500));
    const { next } = reader(call);
    call.write(duplexThenNothing(9, 8));
    assert.strictEqual((await next()).payload.body.length, 9);
    await failsWith(4, next);
    await untilCancelled(before);
  },
  async metadata_arrives_as_it_was_sent() {
    const sent = [
      ['x-text', 'one'],
      ['x-text', 'two, and three'],
      ['x-visible', '~!@#$%^&*()_+{}|:"<>?`-=[]\\;\',./ 09azAZ'],
      ['x-long', 'v'.repeat(5000)],
      ['x-every-bin', Buffer.from(Array.from({ length: 256 }, (_, byte) => byte))],
      ['authorization', 'Bearer abc.def'],
    ];
    const metadata = new grpc.Metadata();
    for (const [name, value] of sent) metadata.add(name, value);
    const found = (await seen(metadata)).metadata;
    for (const [name, value] of sent) {
      const line = `${name}: ${Buffer.isBuffer(value) ? value.toString('hex') : value}`;
      // One of several of a name may be joined to the other.
      assert(found.includes(line) || found.includes(`${name}: one, two, and three`), `${line} is not in ${found}`);
    }
  },
  async large_messages_go_both_ways() {
    const size = 8 * 1024 * 1024;
    const { answer } = await unary(test, 'UnaryCall', { responseSize: size, payload: payload(size) });
    assert.strictEqual(answer.payload.body.length, size);
  },
  async status_details_arrive() {
    const value = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte));
    const sent = { code: 9, message: 'not yet', details: [{ typeUrl: 'type.googleapis.com/x', value }] };
    const error = await failsWith(9, () => unary(observer, 'Fail', sent));
    assert.strictEqual(error.details, 'not yet');
    assert.deepStrictEqual(StatusDetails.decode(error.metadata.get('grpc-status-details-bin')[0]), sent);
  },
  async a_slow_stream_is_not_held_back() {
    const begun = Date.now();
    const { next } = reader(test.StreamingOutputCall({ responseParameters: Array.from({ length: 3 }, () => ({ size: 9, intervalUs: 200000 })) }, within(PATIENCE)));
    const waits = [];
    while (await next()) waits.push(Date.now() - begun);
    assert(waits.length === 3 && waits[0] < 500 && waits[2] - waits[0] > 300, `messages came after ${waits} ms`);
  },
};

(async () => {
  let code = 0;
  for (const name of names) {
    try {
      await cases[name]();
      console.log(`case ${name} ok`);
    } catch (error) {
      code = 1;
      console.log(`case ${name}: ${error.message || error}`);
    }
  }
  process.exit(code);
})();
