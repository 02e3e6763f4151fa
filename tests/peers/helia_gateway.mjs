// A trustless gateway made of Helia: what it answers is @helia/verified-fetch's doing, HTTP around it is ours.
//   node helia_gateway.mjs <port>
// GET  /ipfs/<cid>...    as the specification says
// POST /add?cidVersion=1&rawLeaves=true&chunkBytes=262144&width=174&reduce=true    imports the body, answers its CID
// DELETE /block/<cid>    forgets a block, so that what is above it has a hole
// Prints READY once it listens on 127.0.0.1; ends on SIGTERM.
import { createServer } from 'node:http'
import { Readable } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import { pipeline } from 'node:stream/promises'
import { unixfs } from '@helia/unixfs'
import { createVerifiedFetchWithHelia } from '@helia/verified-fetch'
import { MemoryBlockstore } from 'blockstore-core/memory'
import { createHeliaLight } from 'helia'
import { fixedSize } from 'ipfs-unixfs-importer/chunker'
import { balanced } from 'ipfs-unixfs-importer/layout'
import { CID } from 'multiformats/cid'

const LONGEST_MILLISECONDS = 5000

// Helia refuses to work without anybody to ask for blocks, so it gets somebody who has none.
const nobody = {
  name: 'nobody',
  createSession: () => nobody,
  async retrieve (cid) {
    const error = new Error(`nobody has ${cid}`)
    error.name = 'NotFoundError'
    throw error
  }
}
const blockstore = new MemoryBlockstore()
const helia = createHeliaLight({ blockstore, routers: [], blockBrokers: [nobody] })
const verifiedFetch = await createVerifiedFetchWithHelia(helia, {})
const files = unixfs(helia)

async function add (url, request) {
  const asked = url.searchParams
  return files.addBytes(await buffer(request), {
    cidVersion: Number(asked.get('cidVersion')),
    rawLeaves: asked.get('rawLeaves') === 'true',
    chunker: fixedSize({ chunkSize: Number(asked.get('chunkBytes')) }),
    layout: balanced({ maxChildrenPerNode: Number(asked.get('width')) }),
    reduceSingleLeafToSelf: asked.get('reduce') === 'true'
  })
}

async function serve (url, request, response) {
  const headers = {}
  for (const name of ['accept', 'range']) {
    if (request.headers[name] !== undefined && request.headers[name] !== '*/*') {
      headers[name] = request.headers[name]
    }
  }
  const signal = AbortSignal.timeout(LONGEST_MILLISECONDS)
  const answer = await verifiedFetch(`ipfs://${url.pathname.slice('/ipfs/'.length)}${url.search}`, { headers, signal })
  response.writeHead(answer.status, Object.fromEntries(answer.headers))
  if (answer.body === null || request.method === 'HEAD') {
    response.end()
  } else {
    await pipeline(Readable.fromWeb(answer.body), response)
  }
}

async function route (request, response) {
  const url = new URL(request.url, 'http://localhost')
  if (request.method === 'POST' && url.pathname === '/add') {
    response.end((await add(url, request)).toString())
  } else if (request.method === 'DELETE' && url.pathname.startsWith('/block/')) {
    await blockstore.delete(CID.parse(url.pathname.slice('/block/'.length)))
    response.end()
  } else if (url.pathname.startsWith('/ipfs/')) {
    await serve(url, request, response)
  } else {
    response.writeHead(404).end()
  }
}

const server = createServer((request, response) => {
  route(request, response).catch((error) => {
    console.error(request.method, request.url, error.name, error.message)
    if (response.headersSent) {
      response.destroy() // the client sees a stream that was cut
    } else {
      response.writeHead(error.name === 'TimeoutError' ? 504 : 500).end(error.message)
    }
  })
})
// For a block that is missing, a promise inside Helia rejects that nobody waits for; Node.js would end over it.
process.on('unhandledRejection', (error) => console.error('unhandled', error.name, error.message))
process.on('SIGTERM', () => process.exit(0))
server.listen(Number(process.argv[2]), '127.0.0.1', () => console.log('READY'))
