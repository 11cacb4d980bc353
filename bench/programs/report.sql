-- One transaction of pgbench: what a web application asks of its database, then a report over a part of it.
\set first random(1, 99000)
\set change random(-5000, 5000)
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + :change WHERE aid = :first;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (1, 1, :first, :change, now());
SELECT abalance FROM pgbench_accounts WHERE aid = :first;
END;
SELECT aid % 50 AS part, count(*), jsonb_agg(jsonb_build_object('aid', aid, 'text', md5(aid::text)) ORDER BY aid DESC),
       string_agg(upper(regexp_replace(filler || aid, '\s+', '-')), ',' ORDER BY abalance, aid)
FROM pgbench_accounts WHERE aid BETWEEN :first AND :first + 400 GROUP BY 1 HAVING count(*) > 2 ORDER BY 2, 1;
WITH chosen AS (SELECT aid, array_agg(n) AS numbers FROM pgbench_accounts, generate_series(1, 20) AS n
                WHERE aid BETWEEN :first AND :first + 100 GROUP BY aid)
SELECT sum(cardinality(a.numbers)), max(b.numbers::text) FROM chosen a JOIN chosen b ON a.aid = b.aid + 1;
