// Node's http or https with the suite's application, on a listening socket that was inherited. Its routes are described
// in `servers`.
//
// Knows Node's own modules only. Arguments: the socket's number; a file with the pattern's one period; for TLS the files
// of certificate and key.
'use strict';

const crypto = require('node:crypto');
const fs = require('node:fs');
const http = require('node:http');
const https = require('node:https');
const zlib = require('node:zlib');

const TEXT = Buffer.from('All work and no play makes a dull server.\n'.repeat(20000));
const LIMIT = 1 << 20;
const EVENTS = 3;
const PACKED = { 'Content-Encoding': 'gzip', 'X-Packed-By': 'application' };

const [number, periodFile, certificate, key] = process.argv.slice(2);
const period = fs.readFileSync(periodFile);

// By stream: how many events were released and not sent, and who waits for one.
const streams = new Map();
function stream(name) {
  if (!streams.has(name)) streams.set(name, { permits: 0, waiting: null });
  return streams.get(name);
}

function answer(response, body, status = 200, headers = {}) {
  response.writeHead(status, { 'Content-Type': 'text/plain', 'Content-Length': body.length, ...headers });
  response.end(body);
}

function* pieces(size) {
  for (; size > 0; size -= period.length) yield period.subarray(0, size);
}

function download(url, response, size) {
  const headers = { 'Content-Type': 'application/octet-stream' };
  if (url.search !== '?chunked') headers['Content-Length'] = size;
  response.writeHead(200, headers);
  const left = pieces(size);
  const write = () => {
    for (;;) {
      const { value, done } = left.next();
      if (done) return response.end();
      if (!response.write(value)) return response.once('drain', write);
    }
  };
  write();
}

function receipt(request, response, limit) {
  const tooLarge = () => answer(response, 'too large\n', 413);
  if (Number(request.headers['content-length'] ?? 0) > limit) return tooLarge();
  const digest = crypto.createHash('sha256');
  let count = 0;
  const take = (piece) => {
    digest.update(piece);
    count += piece.length;
    if (count > limit) {
      request.off('data', take);
      request.off('end', finish);
      tooLarge();
    }
  };
  const finish = () => {
    const told = {
      bytes: count,
      sha256: digest.digest('hex'),
      'content-length': request.headers['content-length'] ?? null,
      'transfer-encoding': request.headers['transfer-encoding'] ?? null,
    };
    answer(response, JSON.stringify(told));
  };
  request.on('data', take);
  request.on('end', finish);
}

// The first at once, each other one when it is released.
async function events(response, name) {
  response.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-cache' });
  const from = stream(name);
  for (let n = 0; n < EVENTS; n++) {
    if (n && from.permits-- <= 0) await new Promise((resolve) => { from.waiting = resolve; });
    response.write(`id: ${n}\ndata: event ${n}\n\n`);
  }
  response.end();
}

function release(name) {
  const of = stream(name);
  of.permits++;
  of.waiting?.();
  of.waiting = null;
}

function listen(request, response) {
  const url = new URL(request.url, 'http://localhost');
  const name = url.searchParams.get('stream');
  if (url.pathname === '/hello') answer(response, 'hello\n');
  else if (url.pathname.startsWith('/bytes/')) download(url, response, Number(url.pathname.slice('/bytes/'.length)));
  else if (url.pathname === '/text') {
    const packed = /gzip/.test(request.headers['accept-encoding'] ?? '');
    answer(response, packed ? zlib.gzipSync(TEXT) : TEXT, 200, packed ? PACKED : {});
  } else if (url.pathname === '/upload') receipt(request, response, Infinity);
  else if (url.pathname === '/limited') receipt(request, response, LIMIT);
  else if (url.pathname === '/events') events(response, name);
  else if (url.pathname === '/release') {
    release(name);
    answer(response, '');
  } else answer(response, 'not here\n', 404);
}

const server = certificate
  ? https.createServer({ cert: fs.readFileSync(certificate), key: fs.readFileSync(key) }, listen)
  : http.createServer(listen);
server.listen({ fd: Number(number) });
