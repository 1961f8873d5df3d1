// The contract, for both programs on @grpc/grpc-js.
'use strict';
const path = require('path');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const definition = loader.loadSync(path.join(__dirname, 'testing.proto'), { defaults: true });
const { testing } = grpc.loadPackageDefinition(definition).grpc;
const fail = testing.Observer.service.Fail;

module.exports = {
  testing,
  StatusDetails: { encode: fail.requestSerialize, decode: fail.requestDeserialize },
};
