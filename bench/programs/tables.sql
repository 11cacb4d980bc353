-- Tables that grow, change and are asked; everything follows from the numbers
-- of a linear congruential generator. Prints what came out.
PRAGMA synchronous = OFF;
PRAGMA journal_mode = MEMORY;
PRAGMA cache_size = -16384;
CREATE TABLE person (id INTEGER PRIMARY KEY, name TEXT, town TEXT, born INTEGER, notes TEXT);
CREATE TABLE event (id INTEGER PRIMARY KEY, person INTEGER, kind INTEGER, weight REAL, document TEXT);

BEGIN;
WITH RECURSIVE number(i, x) AS (
  SELECT 1, 20240501 UNION ALL SELECT i + 1, (x * 1103515245 + 12345) & 0x7fffffff FROM number WHERE i < 45000)
INSERT INTO person
SELECT i, printf('%c%c%x', 97 + (x >> 9) % 26, 97 + (x >> 17) % 26, x >> 11), 'town ' || ((x >> 12) % 400),
       1930 + (x >> 15) % 80, replace(hex(zeroblob((x >> 13) % 120)), '00', printf('%x ', x >> 20))
FROM number;

WITH RECURSIVE number(i, x) AS (
  SELECT 1, 77345 UNION ALL SELECT i + 1, (x * 1103515245 + 12345) & 0x7fffffff FROM number WHERE i < 90000)
INSERT INTO event
SELECT i, (x >> 10) % 45000 + 1, (x >> 14) % 12, ((x >> 7) % 1000) / 10.0,
       json_object('number', i, 'tags', json_array(x >> 12, x >> 16, 'tag ' || (x >> 19)), 'size', (x >> 9) % 500)
FROM number;
COMMIT;

CREATE INDEX event_person ON event (person, kind);
CREATE INDEX person_town ON person (town, born);

SELECT count(*), sum(length(notes)) FROM person;
SELECT town, count(*), round(avg(weight), 3) FROM person JOIN event ON event.person = person.id
GROUP BY town ORDER BY 3 DESC, town LIMIT 5;
SELECT kind, sum(json_extract(document, '$.size')), max(json_extract(document, '$.tags[2]')) FROM event
GROUP BY kind ORDER BY kind;
SELECT length(group_concat(name, ',')) FROM (SELECT name FROM person ORDER BY name DESC);
SELECT kind, total FROM (
  SELECT kind, weight, sum(weight) OVER (PARTITION BY kind ORDER BY id ROWS 50 PRECEDING) AS total FROM event)
ORDER BY total DESC, kind LIMIT 3;
SELECT count(DISTINCT substr(upper(name), 1, 3) || town) FROM person WHERE notes LIKE '%f%e%';

UPDATE person SET notes = substr(notes, 1, 20) || name || notes WHERE id % 3 = 0;
DELETE FROM event WHERE person IN (SELECT id FROM person WHERE born % 4 = 0);
SELECT count(*), sum(length(document)) FROM event;
VACUUM;
SELECT sum(length(notes)) FROM person;
