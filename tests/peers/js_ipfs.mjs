// js-ipfs as `jsipfs daemon --offline` starts it: its RPC API and its gateway, on 127.0.0.1 and nowhere else.
//   node js_ipfs.mjs <folder of its repo> <port of the API> <port of the gateway>
// Prints READY once both answer; ends on SIGTERM.
import { create } from 'ipfs-core'
import { HttpApi } from 'ipfs-http-server'
import { HttpGateway } from 'ipfs-http-gateway'

const [repo, apiPort, gatewayPort] = process.argv.slice(2)

const ipfs = await create({
  repo,
  offline: true,
  silent: true,
  preload: { enabled: false },
  init: { emptyRepo: true, algorithm: 'Ed25519' },
  config: {
    Addresses: { Swarm: [], API: `/ip4/127.0.0.1/tcp/${apiPort}`, Gateway: `/ip4/127.0.0.1/tcp/${gatewayPort}` },
    Bootstrap: [],
    Discovery: { MDNS: { Enabled: false }, webRTCStar: { Enabled: false } }
  }
})
const servers = [new HttpApi(ipfs), new HttpGateway(ipfs)]
for (const server of servers) {
  await server.start()
}

process.on('SIGTERM', async () => {
  await Promise.all(servers.map((server) => server.stop()))
  await ipfs.stop()
  process.exit(0)
})
console.log('READY')
