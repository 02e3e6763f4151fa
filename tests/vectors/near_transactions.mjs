// Writes near_transactions.json: what @near-js/transactions 2.5.1 makes of a few function calls.
//
// In an empty folder outside of this repository (Node.js 20 or newer):
//   npm install --ignore-scripts @near-js/transactions@2.5.1
//   cp .../tests/vectors/near_transactions.mjs . && node near_transactions.mjs > near_transactions.json
//
// The seeds are made up here and hold nothing.
import { KeyPairEd25519 } from '@near-js/crypto';
import { actionCreators, createTransaction, encodeTransaction, SignedTransaction, Signature } from '@near-js/transactions';
import { baseEncode } from '@near-js/utils';
import { createHash } from 'node:crypto';
import { ed25519 } from '@noble/curves/ed25519';

const hex = (bytes) => Buffer.from(bytes).toString('hex');
const sha256 = (bytes) => createHash('sha256').update(bytes).digest();
const U64_MAX = (1n << 64n) - 1n;
const U128_MAX = (1n << 128n) - 1n;

const cases = [
  { name: 'one_call', seed: '01'.repeat(32), signer: 'worker.testnet', receiver: 'offchainvm.testnet', nonce: 1n, block: '22'.repeat(32),
    calls: [{ method: 'resolve_execution', args: Buffer.from('{"request_id":7}'), gas: 300000000000000n, deposit: 0n }] },
  { name: 'largest_numbers', seed: 'ff'.repeat(32), signer: 'a.near', receiver: 'b.near', nonce: U64_MAX, block: '00'.repeat(31) + '01',
    calls: [{ method: 'm', args: Buffer.alloc(0), gas: U64_MAX, deposit: U128_MAX }] },
  { name: 'two_calls', seed: '0a'.repeat(32), signer: 'worker.near', receiver: 'outlayer.near', nonce: 104000000000017n, block: 'ab'.repeat(32),
    calls: [
      { method: 'submit_execution_output', args: Buffer.from('{"request_id":1,"output":{"Text":"\u00e9\u20ac"}}'), gas: 100000000000000n, deposit: 0n },
      { method: 'resolve_execution', args: Buffer.from([0, 255, 1, 254]), gas: 200000000000000n, deposit: 1n },
    ] },
  { name: 'implicit_account', seed: '7e'.repeat(32), signer: '98'.repeat(32), receiver: 'outlayer.near', nonce: 2n, block: 'cd'.repeat(32),
    calls: [{ method: 'request_execution', args: Buffer.from('{}'), gas: 30000000000000n, deposit: 70001000000000000000000n }] },
];

const vectors = cases.map((one) => {
  const seed = Buffer.from(one.seed, 'hex');
  const secret = Buffer.concat([seed, Buffer.from(ed25519.getPublicKey(seed))]);
  const pair = new KeyPairEd25519(baseEncode(secret));
  const actions = one.calls.map((call) => actionCreators.functionCall(call.method, call.args, call.gas, call.deposit));
  const transaction = createTransaction(one.signer, pair.getPublicKey(), one.receiver, one.nonce, actions, Buffer.from(one.block, 'hex'));
  const encoded = encodeTransaction(transaction);
  const digest = sha256(encoded);
  const signature = new Signature({ keyType: transaction.publicKey.keyType, data: pair.sign(digest).signature });
  const signed = new SignedTransaction({ transaction, signature });
  return {
    name: one.name, signer_id: one.signer, receiver_id: one.receiver, nonce: String(one.nonce), block_hash: one.block,
    secret_key: pair.toString(), public_key: pair.getPublicKey().toString(),
    calls: one.calls.map((call) => ({ method: call.method, args: hex(call.args), gas: String(call.gas), deposit: String(call.deposit) })),
    transaction: hex(encoded), hash: baseEncode(digest), signed: hex(encodeTransaction(signed)),
  };
});
console.log(JSON.stringify({ made_with: '@near-js/transactions 2.5.1', vectors }, null, 1));
