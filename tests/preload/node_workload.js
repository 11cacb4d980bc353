// Worker threads of Node.js: buffers that change hands, compression, digests, tables.
const { Worker, isMainThread, parentPort, workerData } = require('worker_threads');
const crypto = require('crypto');
const zlib = require('zlib');

const WORKERS = 6;
const ROUNDS = 60;

// The same numbers for the same seed.
function* numbers(seed) {
  for (let state = seed + 1; ; ) yield (state = (state * 48271) % 2147483647);
}

function filled(size, seed) {
  const source = numbers(seed);
  const buffer = Buffer.alloc(size);
  for (let i = 0; i < size; ++i) buffer[i] = (source.next().value % 23) * (i % 5);
  return buffer;
}

if (!isMainThread) {
  parentPort.on('message', ({ round, bytes }) => {
    const input = Buffer.from(bytes);
    const quality = { params: { [zlib.constants.BROTLI_PARAM_QUALITY]: 3 } };
    const packed = round % 2 ? zlib.gzipSync(input) : zlib.brotliCompressSync(input, quality);
    const restored = round % 2 ? zlib.gunzipSync(packed) : zlib.brotliDecompressSync(packed);
    const table = new Map();
    for (let i = 0; i < 2000; ++i) table.set(`key${(i * 7919) % 1000}`, { i, text: 'x'.repeat(i % 50) });
    const digest = crypto.createHash('sha256').update(restored).update(JSON.stringify([...table])).digest('hex');
    const result = new Uint8Array(restored).buffer;
    parentPort.postMessage({ round, worker: workerData, digest, size: packed.length, result }, [result]);
  });
} else {
  const lines = [];
  let ended = 0;
  for (let number = 0; number < WORKERS; ++number) {
    const worker = new Worker(__filename, { workerData: number });
    const send = (round) => {
      const bytes = new Uint8Array(filled(1 + ((round * 7001 + number * 977) % 60000), round)).buffer;
      worker.postMessage({ round, bytes }, [bytes]);
    };
    worker.on('message', ({ round, digest, size, result }) => {
      const own = crypto.createHash('md5').update(Buffer.from(result)).digest('hex');
      lines.push(`${number} ${String(round).padStart(3)} ${size} ${digest} ${own}`);
      if (round + 1 < ROUNDS) send(round + 1);
      else worker.terminate();
    });
    worker.on('exit', () => {
      if (++ended < WORKERS) return;
      console.log(lines.sort().join('\n'));
      process.exitCode = 17;
    });
    send(0);
  }
}
