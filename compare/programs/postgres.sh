# A server that sorts, joins and updates, one connection after the other.
# needs: postgres initdb psql runuser
# process: postgres
prepare() {
    chmod a+rwx . ..
    as initdb -D "$PWD/data" --no-sync -A trust >/dev/null
}
# The server refuses to run as root; Debian's package made a user for it.
as() { if [ "$(id -u)" = 0 ]; then runuser -u postgres -- "$@"; else "$@"; fi; }
run() {
    touch "$WHO_FILE" 2>/dev/null && chmod a+w "$WHO_FILE"
    # WHO_FILE and the rest of the environment go along.
    as env LD_PRELOAD="$PRELOAD" postgres -D "$PWD/data" -k "$PWD" -c listen_addresses='' -c fsync=off -c jit=off \
        -c shared_buffers=32MB -c work_mem=64MB -c max_parallel_workers_per_gather=0 -c autovacuum=off \
        >server.log 2>&1 &
    trap 'as kill -INT "$(head -1 data/postmaster.pid)" 2>/dev/null || true' EXIT
    ask() { as psql -qXAt -h "$PWD" postgres -c "$1"; }
    eventually ask 'select 1'
    start=$(now)
    ask "create temp table item as
            select i, md5(i::text) as name, i % 97 as class from generate_series(1, $((60000 * WORK))) i;
        select count(*) from (select name, count(*) from item group by name) x;
        select count(*) from item a join item b on a.name = b.name;
        select class, string_agg(name, ',' order by name) from item group by class;
        do 'begin for i in 1 .. 20000 loop perform length(repeat(chr(97 + i % 26), i % 500)); end loop; end';" \
        >/dev/null
    since "$start"
    as kill -INT "$(head -1 data/postmaster.pid)"
    wait
}
