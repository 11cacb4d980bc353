// The linter has to find what it is there for: each case breaks the generated
// dashboard in one way and names the complaint it must lead to.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import test from 'node:test';
import { fileURLToPath, pathToFileURL } from 'node:url';

const root = resolve(dirname(fileURLToPath(import.meta.url)), '../..');
const dist = (name) => import(pathToFileURL(join(root, 'dashboards/dist', name)).href);
const { lint, allPanels } = await dist('lint.js');
const { parseCatalogue, readCatalogue } = await dist('catalogue.js');
const { parseRules } = await dist('rule_file.js');

const catalogue = readCatalogue(root);
const text = readFileSync(join(root, 'dashboards/generated/hakmem-fragmentation.json'), 'utf8');
const { rules, recorded } = parseRules(readFileSync(join(root, 'dashboards/rules/hakmem.rules.yml'), 'utf8'));

function complaints(breakIt, families = catalogue, brokenRules = rules) {
  const board = JSON.parse(text);
  breakIt(board, allPanels(board).filter((panel) => panel.type !== 'row'));
  return lint(board, brokenRules, recorded, families);
}

function expectComplaint(pattern, breakIt) {
  test(`finds: ${pattern}`, () => {
    const found = complaints(breakIt);
    assert.ok(found.some((line) => pattern.test(line)), `no complaint like ${pattern} in:\n${found.join('\n')}`);
  });
}

test('the dashboard as generated is clean', () => assert.deepEqual(complaints(() => {}), []));

const target = (expr) => (board, panels) => { panels[0].targets[0].expr = expr; };
const scope = 'job=~"$job", instance=~"$instance"';
expectComplaint(/syntax error/, target(`sum(hakmem_threads{${scope}}`));
expectComplaint(/selects nothing/, target('1 + 1'));
expectComplaint(/not in the catalogue/, target(`hakmem_nothing{${scope}}`));
expectComplaint(/not selected by instance/, target('hakmem_threads{job=~"$job"}'));
expectComplaint(/not selected by job/, target('hakmem_threads{instance=~"$instance"}'));
expectComplaint(/counter .* is not inside rate/, target(`hakmem_samples_total{${scope}}`));
expectComplaint(/counter .* is not inside rate/, target(`hakmem_superslab_refill_seconds_bucket{${scope}}`));
expectComplaint(/gauge .* is inside rate/, target(`rate(hakmem_threads{${scope}}[$__rate_interval])`));
expectComplaint(/is a histogram/, target(`hakmem_superslab_refill_seconds{${scope}}`));
expectComplaint(/range \[5m\]/, target(`rate(hakmem_samples_total{${scope}}[5m])`));
expectComplaint(/no description/, (board, panels) => { panels[3].description = ''; });
expectComplaint(/no title/, (board, panels) => { panels[3].title = ''; });
expectComplaint(/no unit/, (board, panels) => { delete panels[3].fieldConfig.defaults.unit; });
expectComplaint(/no target/, (board, panels) => { panels[3].targets = []; });
expectComplaint(/does not use \$datasource/, (board, panels) => { panels[3].datasource.uid = 'fixed'; });
expectComplaint(/no id of its own/, (board, panels) => { panels[3].id = panels[2].id; });
expectComplaint(/two panels have this title/, (board, panels) => { panels[3].title = panels[2].title; });
expectComplaint(/editable/, (board) => { board.editable = true; });
expectComplaint(/allValue of "instance"/, (board) => { board.templating.list[2].allValue = '.*'; });
expectComplaint(/"job" is not multi-value/, (board) => { board.templating.list[1].multi = false; });
expectComplaint(/not labelled "Data source"/, (board) => { board.templating.list[0].label = 'Source'; });
expectComplaint(/hakmem_huge_live_bytes is on no panel/, (board) => {
  for (const panel of allPanels(board))
    panel.targets = panel.targets?.filter((each) => !each.expr.includes('hakmem_huge_live_bytes'));
});

test('finds: a family of the catalogue that nothing shows', () => {
  const more = [...catalogue, { name: 'hakmem_new_total', kind: 'Counter', labelSet: 'None', help: 'New.' }];
  assert.ok(complaints(() => {}, more).includes('catalogue: hakmem_new_total is on no panel and in no rule'));
});

test('finds: a rule about a series that nobody records or exports', () => {
  const broken = [...rules, { rule: 'A', expr: 'instance:nothing:sum > 1' }, { rule: 'B', expr: 'hakmem_nothing > 1' }];
  const found = complaints(() => {}, catalogue, broken);
  assert.ok(found.some((line) => /rule A: instance:nothing:sum is recorded by no rule/.test(line)));
  assert.ok(found.some((line) => /rule B: hakmem_nothing is not in the catalogue/.test(line)));
});

test('a counter may be looked at by itself where its series begins, and only there', () => {
  const begins = 'hakmem_samples_total > 0 unless last_over_time(hakmem_samples_total[1d] offset 10m)';
  const expressions = [begins, 'hakmem_samples_total > 0', 'hakmem_samples_total > 0 unless hakmem_samples_total'];
  const found = complaints(() => {}, catalogue, [...rules, ...expressions.map((expr, i) => ({ rule: `R${i}`, expr }))]);
  assert.deepEqual(new Set(found.map((line) => line.slice(0, 7))), new Set(['rule R1', 'rule R2']));
});

test('a catalogue row that cannot be read is an error', () => {
  assert.throws(() => parseCatalogue('HAKMEM_METRIC(kA, Counter, Shard, None, "hakmem_a_total")'), /cannot read the row/);
  assert.throws(() => parseCatalogue('// nothing'), /no rows/);
});
