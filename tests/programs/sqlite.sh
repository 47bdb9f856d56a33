# A million rows in memory: inserted, indexed, joined, deleted, and summed up, as without the library.
cat >work.sql <<'SQL'
create table item(id integer primary key, name text, weight real, class int);
with recursive n(i) as (select 1 union all select i + 1 from n where i < 1000000)
insert into item select i, printf('%x-%s', i * 7919, substr('abcdefghijklmnopqrstuvwxyz', i % 26 + 1, i % 9)),
    (i * 31 % 1009) / 8.0, i % 97 from n;
create index item_class on item(class, weight);
create index item_name on item(name);
create table class(id integer primary key, title text);
insert into class select distinct class, 'class ' || class from item;
select count(*), sum(id), sum(length(name)), sum(weight), min(name), max(name) from item;
select title, count(*), total(weight) from item join class on class.id = item.class group by title order by title;
update item set name = upper(name) || name where id % 5 = 0;
delete from item where id % 3 = 0;
select count(*), sum(length(name)) from item;
select sum(a.id), count(*) from item a join item b on b.name = a.name where a.class < 9;
select class, group_concat(name) from (select * from item where id < 30000 order by id) group by class;
drop index item_class;
vacuum;
pragma integrity_check;
SQL
served sqlite3 :memory: 'select 1'
sqlite3 :memory: <work.sql >expected &
preloaded sqlite3 :memory: <work.sql >found
wait $!
same found expected
tail -1 found | grep -x ok
