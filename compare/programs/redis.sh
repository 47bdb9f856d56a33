# A server in memory under pipelined load. The load itself comes from a program without the allocator, and its time counts.
# needs: redis-server redis-benchmark redis-cli
# process: redis-server
prepare() { :; }
run() {
    socket="$PWD/socket"
    peer redis-server --port 0 --unixsocket "$socket" --save '' --appendonly no --dir "$PWD" >server.log &
    server=$!
    trap 'kill $server 2>/dev/null || true' EXIT
    eventually redis-cli -s "$socket" ping
    start=$(now)
    redis-benchmark -s "$socket" -q -P 32 -c 20 -n $((150000 * WORK)) -r 50000 -d 300 -t set,get,lpush,sadd >/dev/null
    redis-benchmark -s "$socket" -q -P 8 -c 20 -n $((4000 * WORK)) -t lrange_100 >/dev/null
    since "$start"
    redis-cli -s "$socket" shutdown nosave >/dev/null 2>&1 || true
    wait "$server" || true
}
