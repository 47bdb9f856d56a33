# Buffers, strings and JSON: what of V8 goes through malloc.
# needs: node
# process: node
prepare() {
    cat >work.js <<JS
const zlib = require('zlib');
let sum = 0;
for (let turn = 0; turn < $WORK; turn++) {
  let kept = [];
  for (let i = 0; i < 60000; i++) {
    kept.push(Buffer.allocUnsafeSlow(16 + (i * 7919) % 4000).fill(i & 255));
    if (kept.length > 2000) kept = kept.slice(1000);
  }
  const text = JSON.stringify(Array.from({length: 30000}, (_, i) => ({id: i, name: 'item ' + i})));
  for (let i = 0; i < 5; i++) sum += zlib.gzipSync(text, {level: 1}).length + JSON.parse(text).length;
}
console.log(sum);
JS
}
run() { peer node work.js >/dev/null; }
