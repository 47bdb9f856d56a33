# A database in memory: rows inserted, indexed, joined, changed, deleted.
# needs: sqlite3
# process: sqlite3
prepare() {
    cat >work.sql <<SQL
create table item(id integer primary key, name text, weight real, class int);
with recursive n(i) as (select 1 union all select i + 1 from n where i < $((100000 * WORK)))
insert into item select i, printf('%x-%s', i * 7919, substr('abcdefghijklmnopqrstuvwxyz', i % 26 + 1, i % 9)),
    (i * 31 % 1009) / 8.0, i % 97 from n;
create index item_class on item(class, weight);
create index item_name on item(name);
select count(*), sum(a.id) from item a join item b on b.name = a.name where a.class < 9;
update item set name = upper(name) || name where id % 5 = 0;
select class, length(group_concat(name)) from item group by class;
delete from item where id % 3 = 0;
SQL
}
run() { peer sqlite3 :memory: <work.sql >/dev/null; }
