"""sqlite3 under the preload: a database built, queried, changed and checked."""

import hashlib
import os

import harness

SCRIPT = """
.bail on
pragma page_size = 4096;
pragma journal_mode = wal;
create table item (id integer primary key, name text, weight real, data blob);
create table tag (item integer references item, label text, primary key (item, label)) without rowid;
with recursive n(i) as (select 1 union all select i + 1 from n where i < 40000)
  insert into item select i, printf('item-%05d', (i * 7919) % 40000), (i * 37 % 1000) / 8.0,
                          zeroblob(i * 13 % 400) from n;
with recursive n(i) as (select 1 union all select i + 1 from n where i < 60000)
  insert or ignore into tag select 1 + i * 31 % 40000, 'label ' || (i % 97) from n;
create index item_name on item (name);
create index tag_label on tag (label, item);
analyze;
select count(*), sum(weight), min(name), max(length(data)) from item;
select label, count(*), round(avg(weight), 4) from tag join item on item.id = tag.item group by label order by label;
select id, name, rank() over (partition by id % 50 order by weight desc, id) r from item order by r, id limit 60;
select group_concat(name, ',') from (select name from item where name like '%99%' order by name);
begin;
update item set name = name || '-' || hex(substr(name, 1, 20)) where id % 3 = 0;
delete from item where id % 5 = 0;
update item set data = zeroblob(3000) where id % 40 = 1;
commit;
create virtual table words using fts5(body);
insert into words select name || ' ' || weight from item;
select count(*) from words where words match 'item';
select json_group_array(json_object('id', id, 'name', name)) from (select id, name from item where id < 300);
reindex;
vacuum;
pragma integrity_check;
pragma foreign_key_check;
select count(*), sum(length(data)) from item;
"""


class SqliteTest(harness.PreloadTest):
    def build(self, name, preload):
        path = os.path.join(self.scratch, name)
        status, output, errors = harness.run([harness.program("sqlite3"), path], preload, stdin=SCRIPT.encode())
        self.assertEqual((0, b""), (status, errors))
        self.assertIn(b"\nok\n", output)
        return path, output

    def test_same_database(self):
        plain, plain_output = self.build("plain.db", False)
        preloaded, preloaded_output = self.build("preloaded.db", True)
        self.assertEqual(plain_output, preloaded_output)
        dumps = [harness.run([harness.program("sqlite3"), path, ".dump"], preload)
                 for path, preload in ((plain, False), (preloaded, True))]
        self.assertEqual([0, 0], [dump[0] for dump in dumps])
        digests = {hashlib.sha256(dump[1]).hexdigest() for dump in dumps}
        self.assertEqual(1, len(digests), "the dumps differ")
        self.assertGreater(len(dumps[0][1]), 1 << 20)

    def test_error_is_reported(self):
        self.check_same([harness.program("sqlite3"), ":memory:", "select * from missing"])


if __name__ == "__main__":
    harness.main()
