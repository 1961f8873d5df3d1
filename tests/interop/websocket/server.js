// WebSocket server on `ws`. Argument: the port, on loopback.
//
// Echoes messages. `close CODE REASON` has it close so, `ping` has it send a ping and say when the pong has come, and /refuse is answered with 403.
'use strict';
const { WebSocketServer } = require('ws');

const server = new WebSocketServer({
  host: '127.0.0.1',
  port: Number(process.argv[2]),
  perMessageDeflate: true,
  handleProtocols: offered => (offered.has('second') ? 'second' : false),
  verifyClient: ({ req }, say) => say(req.url !== '/refuse', 403, 'not here\n'),
});
server.on('connection', socket => {
  // What a client does wrong ends its connection only.
  socket.on('error', () => {});
  socket.on('message', (data, isBinary) => {
    const text = isBinary ? '' : data.toString();
    if (text.startsWith('close ')) {
      const [, code, ...reason] = text.split(' ');
      socket.close(Number(code), reason.join(' '));
    } else if (text === 'ping') {
      socket.once('pong', () => socket.send('pong came'));
      socket.ping('from the server');
    } else socket.send(data, { binary: isBinary });
  });
});
