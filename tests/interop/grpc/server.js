// gRPC server of the interoperability cases, on @grpc/grpc-js. Argument: the port, on loopback.
'use strict';
const grpc = require('@grpc/grpc-js');
const { testing, StatusDetails } = require('./load');

const LONGEST_MESSAGE = 16 * 1024 * 1024;
let cancelled = 0;

const payload = size => ({ body: Buffer.alloc(size) });

// Sends back what the client asked for at the beginning; returns what it asked for at the end.
function echoMetadata(call) {
  const initial = new grpc.Metadata();
  const trailing = new grpc.Metadata();
  for (const value of call.metadata.get('x-grpc-test-echo-initial')) initial.add('x-grpc-test-echo-initial', value);
  for (const value of call.metadata.get('x-grpc-test-echo-trailing-bin')) trailing.add('x-grpc-test-echo-trailing-bin', value);
  if (Object.keys(initial.getMap()).length) call.sendMetadata(initial);
  return trailing;
}

const statusOf = request => {
  const status = request.responseStatus;
  return status && status.code ? { code: status.code, details: status.message } : null;
};

const sleep = ms => new Promise(done => setTimeout(done, ms));

async function outputs(request, call) {
  for (const { size, intervalUs } of request.responseParameters) {
    if (intervalUs) await sleep(intervalUs / 1000);
    call.write({ payload: payload(size) });
  }
}

const service = {
  EmptyCall: (call, answer) => answer(null, {}),
  UnaryCall(call, answer) {
    const trailing = echoMetadata(call);
    const status = statusOf(call.request);
    if (status) answer(status);
    else answer(null, { payload: payload(call.request.responseSize) }, trailing);
  },
  async StreamingOutputCall(call) {
    await outputs(call.request, call);
    call.end();
  },
  StreamingInputCall(call, answer) {
    let size = 0;
    call.on('cancelled', () => { cancelled += 1; });
    call.on('data', request => { size += request.payload.body.length; });
    call.on('end', () => { if (!call.cancelled) answer(null, { aggregatedPayloadSize: size }); });
    call.on('error', () => {});
  },
  FullDuplexCall(call) {
    const trailing = echoMetadata(call);
    let turn = Promise.resolve();
    let failed = false;
    call.on('cancelled', () => { cancelled += 1; });
    call.on('data', request => {
      const status = statusOf(request);
      if (status) {
        failed = true;
        turn = turn.then(() => call.emit('error', status));
      } else turn = turn.then(() => outputs(request, call));
    });
    call.on('end', () => { turn.then(() => { if (!failed && !call.cancelled) call.end(trailing); }); });
    call.on('error', () => {});
  },
};

const observer = {
  Observe(call, answer) {
    const deadline = call.getDeadline();
    const left = Number.isFinite(+deadline) ? Math.max(0, Math.round(+deadline - Date.now())) : 0;
    const metadata = [];
    for (const [name, values] of Object.entries(call.metadata.toHttp2Headers())) {
      for (const value of [values].flat()) {
        metadata.push(`${name}: ${name.endsWith('-bin') ? Buffer.from(value, 'base64').toString('hex') : value}`);
      }
    }
    answer(null, { cancelled, leftMs: left, metadata });
  },
  Fail(call, answer) {
    const metadata = new grpc.Metadata();
    metadata.set('grpc-status-details-bin', StatusDetails.encode(call.request));
    answer({ code: grpc.status.FAILED_PRECONDITION, details: call.request.message, metadata });
  },
};

const server = new grpc.Server({
  'grpc.max_receive_message_length': LONGEST_MESSAGE,
  'grpc.max_send_message_length': LONGEST_MESSAGE,
  'grpc.default_compression_algorithm': 2,
});
const { UnimplementedCall, ...offered } = testing.TestService.service;
server.addService(offered, service);
server.addService(testing.Observer.service, observer);
server.bindAsync(`127.0.0.1:${process.argv[2]}`, grpc.ServerCredentials.createInsecure(), error => {
  if (error) throw error;
});
