// What Node.js takes from malloc: buffers and their backing stores, zlib's and
// OpenSSL's state, the compiler's zones; V8 maps the heap of its objects itself.
// Prints what came out.
"use strict";
const { createHash, createHmac } = require("node:crypto");
const { deflateSync, gzipSync, inflateSync, gunzipSync } = require("node:zlib");

// A generator that can be seeded (xorshift, Marsaglia 2003).
let state = 20240501;
function number(limit) {
  state ^= state << 13;
  state ^= state >>> 17;
  state ^= state << 5;
  return (state >>> 0) % limit;
}
function word() {
  let letters = "";
  for (let i = 2 + number(8); i > 0; --i) letters += String.fromCharCode(97 + number(16));
  return letters;
}
const words = Array.from({ length: 4000 }, word);
const text = (length) => Array.from({ length }, () => words[number(4000)]).join(" ");

const digest = createHash("sha256");

// Records through JSON, compression and checksums, some kept.
const kept = [];
for (let i = 0; i < 2500; ++i) {
  const record = { number: i, body: text(100 + number(200)), tags: Array.from({ length: 10 }, () => number(1000)) };
  const packed = (i % 2 ? deflateSync : gzipSync)(JSON.stringify(record), { level: 1 });
  kept[number(500)] = packed;
  const other = kept[number(500)];
  if (!other) continue;
  const unpacked = JSON.parse((other[0] === 0x1f ? gunzipSync : inflateSync)(other));
  digest.update(createHmac("sha1", "key").update(unpacked.body).digest());
}

// Buffers of 4 to 32 KiB that come and go, too large for the shared pool of small ones.
const buffers = [];
for (let i = 0; i < 40000; ++i) {
  const buffer = Buffer.alloc(4096 + number(28672));
  buffer.writeUInt32LE(i, number(4096 - 4));
  buffers[number(1000)] = buffer;
}
digest.update(Buffer.concat(buffers.filter(Boolean)));

// Functions that have to be compiled.
let sum = 0;
for (let i = 0; i < 3000; ++i) {
  const body = `let c = a * ${i}; for (let k = 0; k < b; ++k) c ^= k * ${number(99)}; return c;`;
  sum += new Function("a", "b", body)(i, 5);
}

console.log(digest.digest("hex"), sum);
