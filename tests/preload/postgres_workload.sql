-- Work for the memory of a PostgreSQL backend; its output is the same on every server. Run by postgres_test.py.
\set VERBOSITY terse
create table item as
  select id, id * 7919 % 1000 as kind, md5(id::text) as name, repeat(chr(97 + id % 26), id % 400) as body
  from generate_series(1, 15000) id;
create index item_name on item (name);
create index item_body on item using gin (to_tsvector('simple', body));
vacuum analyze item;
set work_mem = '256kB';
select kind % 10, count(*), sum(length(body)), min(name) from item group by 1 order by 1;
select md5(string_agg(name, ',' order by body, name)) from item;
select count(*), sum(a.id - b.id) from item a join item b on a.kind = b.kind and a.id % 10 = b.id % 9;
select md5(string_agg(r::text, '')) from
  (select rank() over (partition by kind order by name desc) r, id from item order by id) t;
set work_mem = '64MB';
select md5(json_agg(t)::text), length(array_agg(t)::text) from (select * from item where id < 4000 order by id) t;
with recursive walk(n, path) as (select 1, array[1] union all select n + 1, path || n from walk where n < 800)
  select count(*), sum(cardinality(path)) from walk;
select count(*) from item where name ~ '(ab|cd)+[0-9]{2}$';
create table large (id int, value text);
insert into large select n, repeat(md5(n::text), 60000 + n) from generate_series(1, 4) n;
update large set value = reverse(value) where id % 2 = 0;
select id, length(value), md5(value) from large order by id;
do $$
begin
  for i in 1 .. 3000 loop
    begin
      execute format('select %s / %s', i, i % 3);
    exception when division_by_zero then null;
    end;
  end loop;
end $$;
begin;
delete from item where id % 3 = 0;
update item set body = body || '.' where kind < 100;
savepoint here;
drop table large;
rollback to here;
commit;
select count(*), sum(length(body)) from item;
-- Plans that start workers, and one that compiles its expressions.
set parallel_setup_cost = 0;
set parallel_tuple_cost = 0;
set min_parallel_table_scan_size = 0;
set max_parallel_workers_per_gather = 2;
explain (analyze, costs off, timing off, summary off) select count(*) from item where length(name) = 32;
select kind % 7, count(*), max(name) from item group by 1 order by 1;
set jit_above_cost = 0;
set jit_optimize_above_cost = 0;
select sum(id * 2 + kind), count(*) filter (where body like 'a%') from item;
