# Node.js: documents, buffers, compression, worker threads that end, as without the library.
cat >work.js <<'JS'
const { Worker, isMainThread, parentPort, workerData } = require('worker_threads');
const crypto = require('crypto'), zlib = require('zlib');
function work(seed) {
  let state = seed;
  const next = () => (state = (Math.imul(state, 1103515245) + 12345) >>> 0) >>> 8;
  const hash = crypto.createHash('sha256'), kept = [];
  for (let i = 0; i < 10000; i++) {
    const document = { id: i, name: 'x'.repeat(next() % 200), list: Array.from({ length: next() % 20 }, next) };
    hash.update(JSON.stringify(JSON.parse(JSON.stringify(document))));
    kept[next() % 300] = Buffer.alloc(next() % 20000, i % 256);
  }
  for (const buffer of kept) if (buffer) hash.update(zlib.inflateSync(zlib.deflateSync(buffer)));
  return hash.digest('hex');
}
async function main() {
  console.log(work(1));
  for (let round = 0; round < 3; round++) {
    const results = await Promise.all([2, 3, 4, 5].map(seed => new Promise((resolve, reject) => {
      const worker = new Worker(__filename, { workerData: seed + round });
      worker.on('message', resolve);
      worker.on('error', reject);
    })));
    console.log(results.join('\n'));
  }
  const zipped = await Promise.all([...Array(8).keys()].map(i => new Promise((resolve, reject) =>
    zlib.gzip(Buffer.alloc(3000000, 'text ' + i), (error, data) => error ? reject(error) : resolve(data)))));
  console.log(zipped.map(data => zlib.gunzipSync(data).length).join());
}
if (isMainThread) main(); else parentPort.postMessage(work(workerData));
JS
served node --version
node work.js >expected &
preloaded node work.js >found
wait $!
same found expected
[ "$(wc -l <found)" = 14 ] || fail "not fourteen lines"
