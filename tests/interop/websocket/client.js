// WebSocket client on `ws`. Arguments: HOST:PORT, then the names of cases.
//
// Prints `case NAME ok` or `case NAME: what is wrong`, and exits with 1 if one failed.
'use strict';
const assert = require('assert');
const { once } = require('events');
const WebSocket = require('ws');

// Longest time for one case, in milliseconds.
const PATIENCE = 20000;
// Around the borders of how a length is written, and more than any buffer on the way holds.
const SIZES = [0, 1, 125, 126, 127, 65535, 65536, 300000, 3000000];
const [address, ...names] = process.argv.slice(2);

const connect = (path = '/', protocols = [], more = {}) => new WebSocket(`ws://${address}${path}`, protocols, { maxPayload: 2 ** 25, ...more });
async function open(...how) {
  const socket = connect(...how);
  await once(socket, 'open');
  return socket;
}
async function asked(socket, message, isBinary) {
  socket.send(message);
  const [data, binary] = await once(socket, 'message');
  assert(data.equals(Buffer.from(message)) && binary === isBinary, `a message of ${message.length} came back as one of ${data.length}`);
}
async function echoes(perMessageDeflate) {
  const socket = await open('/', [], { perMessageDeflate });
  for (const size of SIZES) {
    await asked(socket, 'ä'.repeat(size / 2), false);
    await asked(socket, Buffer.from(Array.from({ length: size }, (_, at) => at % 256)), true);
  }
  socket.close();
}
async function closed(socket) {
  const [code, reason] = await once(socket, 'close');
  return [code, reason.toString()];
}

const cases = {
  messages_of_every_length: () => echoes(false),
  messages_that_are_compressed: () => echoes(true),
  async fragments_are_one_message() {
    const socket = await open();
    for (let number = 0; number < 1000; number += 1) socket.send(String(number), { fin: number === 999 });
    const [data] = await once(socket, 'message');
    assert.strictEqual(data.toString(), Array.from({ length: 1000 }, (_, number) => number).join(''));
    socket.close();
  },
  async many_messages_before_the_first_is_read() {
    const socket = await open();
    const text = number => `${number} ${'x'.repeat(500)}`;
    const all = new Promise(done => {
      let number = 0;
      socket.on('message', data => {
        assert.strictEqual(data.toString(), text(number));
        number += 1;
        if (number === 5000) done();
      });
    });
    for (let number = 0; number < 5000; number += 1) socket.send(text(number));
    await all;
    socket.close();
  },
  async pings_go_both_ways() {
    const socket = await open();
    socket.ping('from the client');
    assert.strictEqual((await once(socket, 'pong'))[0].toString(), 'from the client');
    socket.send('ping');
    assert.strictEqual((await once(socket, 'message'))[0].toString(), 'pong came');
    socket.close();
  },
  async the_client_closes_with_a_code() {
    const socket = await open();
    socket.close(4001, 'enough');
    assert.deepStrictEqual(await closed(socket), [4001, 'enough']);
  },
  async the_server_closes_with_a_code() {
    const socket = await open();
    socket.send('close 4002 no more of this');
    assert.deepStrictEqual(await closed(socket), [4002, 'no more of this']);
  },
  async a_subprotocol_is_agreed_on() {
    const socket = await open('/', ['first', 'second']);
    assert(['first', 'second'].includes(socket.protocol), socket.protocol);
    socket.close();
    const other = await open('/', ['second']);
    assert.strictEqual(other.protocol, 'second');
    other.close();
  },
  async a_server_may_refuse() {
    const [, answer] = await once(connect('/refuse').on('error', () => {}), 'unexpected-response');
    assert.strictEqual(answer.statusCode, 403);
  },
  async fifty_at_once() {
    await Promise.all(Array.from({ length: 50 }, async (_, number) => {
      const socket = await open();
      await asked(socket, `I am ${number}`, false);
      socket.close();
    }));
  },
};

(async () => {
  let code = 0;
  for (const name of names) {
    const late = new Promise((_, failed) => { setTimeout(() => failed(new Error('it took too long')), PATIENCE).unref(); });
    try {
      await Promise.race([cases[name](), late]);
      console.log(`case ${name} ok`);
    } catch (error) {
      code = 1;
      console.log(`case ${name}: ${error.message}`);
    }
  }
  process.exit(code);
})();
