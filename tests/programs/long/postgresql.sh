# PostgreSQL under pgbench: what the clients wrote adds up, also after a backend was killed and after a restart.
#
# Set PGBENCH_SECONDS for longer rounds.
seconds=${PGBENCH_SECONDS:-60}
bin=$(dirname "$(ls /usr/lib/postgresql/*/bin/postgres | tail -1)")
port=$(free_port)

# The server refuses to run as root: then everything runs as the user that Debian's package made.
as=()
if [ "$(id -u)" = 0 ]; then
    as=(runuser -u postgres --)
    chown postgres . ..
    chmod a+x .. ../..
fi
home=$PWD
own() { "${as[@]}" env PATH="$bin:$PATH" PGHOST="$home" PGPORT="$port" PGDATABASE=postgres "$@"; }
preloaded_own() {
    if [ -n "$LIBRARY" ]; then own LD_PRELOAD="$LIBRARY" "$@"; else own "$@"; fi
}
ask() { own psql -XAtc "$1"; }

if [ -n "$LIBRARY" ]; then
    own test -r "$LIBRARY" || fail "the user postgres cannot read $LIBRARY"
fi
served "$bin/postgres" --version
own initdb -D "$home/data" --no-sync -A trust >initdb.log
start() {
    preloaded_own pg_ctl -D "$home/data" -l "$home/data/server.log" -w start -o \
        "-p $port -k $home -c listen_addresses='' -c shared_buffers=128MB -c max_parallel_workers_per_gather=2 \
         -c fsync=off -c max_wal_size=2GB -c work_mem=16MB"
    loaded "$(head -1 data/postmaster.pid)"
}
stop() { own pg_ctl -D "$home/data" -m fast -w stop; }

# Every transaction adds one amount to an account, a teller, a branch and the history.
balanced() {
    sums=$(ask "select (select sum(abalance) from pgbench_accounts), (select sum(tbalance) from pgbench_tellers),
        (select sum(bbalance) from pgbench_branches), (select sum(delta) from pgbench_history)")
    echo "sums: $sums"
    [ "$(echo "$sums" | tr '|' '\n' | sort -u | wc -l)" = 1 ] || fail "the sums differ: $sums"
}
digest() {
    ask "select md5(string_agg(aid || ':' || abalance, ',' order by aid)) from pgbench_accounts"
}

# The server is in a session of its own, and would outlive a check that fails.
trap 'own pg_ctl -D "$home/data" -m immediate stop >/dev/null 2>&1 || true' EXIT
start
preloaded_own pgbench -q -i -s 10 2>&1 | tail -1
preloaded_own pgbench -c 16 -j 4 -T "$seconds" -n | grep -E 'processed|failed|tps'
balanced
preloaded_own pgbench -c 32 -j 4 -T "$seconds" -S -M prepared -n | grep -E 'processed|failed|tps'
# Large sorts, hashes and aggregates, by parallel workers, against the same without them.
heavy="select count(*), sum(hashtext(a.filler || b.aid)::bigint), count(distinct a.abalance)
    from pgbench_accounts a join pgbench_accounts b on a.aid = b.aid + 1"
[ "$(ask "$heavy")" = "$(ask "set max_parallel_workers_per_gather = 0; $heavy" | tail -1)" ] || fail "two answers"
ask "create index on pgbench_accounts(abalance, aid)"
ask "vacuum full analyze pgbench_accounts"
# One connection for each transaction: a process each.
preloaded_own pgbench -C -c 8 -j 2 -t 100 -n | grep -E 'processed|failed'
balanced

# A backend that is killed makes the server end all others and recover from its log.
victim=$(own psql -XAtc "select pg_backend_pid()" -c "select pg_sleep(30)" >victim & sleep 1; cat victim; rm -f victim)
kill -KILL "$victim"
sleep 1
eventually ask "select 1"
grep 'terminated by signal 9' data/server.log
balanced
before=$(digest)
stop
start
[ "$(digest)" = "$before" ] || fail "other data after the restart"
preloaded_own pg_dump -f "$home/data/dump.sql"
ask "create extension amcheck" && preloaded_own pg_amcheck --heapallindexed
ask "create database copy"
own psql -q -d copy -v ON_ERROR_STOP=1 -f "$home/data/dump.sql" >/dev/null
copied=$(own psql -XAt -d copy -c "select md5(string_agg(aid || ':' || abalance, ',' order by aid)) from pgbench_accounts")
[ "$copied" = "$before" ] || fail "the copy holds other data"
stop
if grep -E 'PANIC|TRAP|specmalloc:' data/server.log; then fail "the server complained"; fi
