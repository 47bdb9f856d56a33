# A Redis server under load, its data saved by a child of fork, and read again by a second server.
#
# Debian's redis-server is linked with libjemalloc.so.2; a preloaded malloc comes before that.
port=$(free_port)
client="redis-cli -p $port"
served redis-server --version

# A server that is still reading its file answers, but not this.
ready() { $client ping | grep -qx PONG; }

bench() {
    preloaded redis-benchmark -p "$port" -q -P 16 -c 50 "$@" | tr '\r' '\n' | grep 'per second'
}

start() {
    preloaded redis-server --port "$port" --bind 127.0.0.1 --dir "$PWD" --dbfilename data.rdb --save '' \
        --enable-debug-command local --io-threads 2 --lazyfree-lazy-user-del yes --logfile "$1" &
    server=$!
    eventually ready
    loaded "$($client info server | tr -d '\r' | sed -n 's/^process_id://p')"
}

stop() {
    $client shutdown nosave
    wait "$server"
}

start first.log
bench -n 100000 -r 20000 -d 200 -t set,get,lpush,lpop,sadd,hset,zadd
bench -n 20000 -t lrange_100,lrange_300
bench -n 100000 --threads 2 -r 20000 -t set,get,lpush
# A large value, blocks of many sizes, and many that go.
head -c 1000000 /dev/zero | tr '\0' 'x' | $client -x set large >/dev/null
$client eval "for i = 1, 50000 do redis.call('set', 'key' .. i, string.rep('v', i % 3000)) end" 0
$client eval "for i = 1, 50000, 2 do redis.call('unlink', 'key' .. i) end" 0
[ "$($client strlen large)" = 1000000 ] || fail "the large value has another length"
[ "$($client strlen key49998)" = $((49998 % 3000)) ] || fail "a value has another length"

saved() { $client info persistence | grep -q rdb_bgsave_in_progress:0; }
$client bgsave
eventually saved
$client info persistence | grep rdb_last_bgsave_status:ok
digest=$($client debug digest) size=$($client dbsize)
echo "$size keys, digest $digest"
stop

preloaded redis-check-rdb data.rdb | tail -1
start second.log
[ "$($client dbsize)" = "$size" ] || fail "$($client dbsize) keys after the restart"
[ "$($client debug digest)" = "$digest" ] || fail "other data after the restart"
$client save
$client flushall
[ "$($client dbsize)" = 0 ] || fail "keys left"
stop
if grep -hiE 'bug report|crashed|assert' first.log second.log; then fail "a server complained"; fi
