// Holds a dashboard and the rules against the catalogue and the linter's rules.
//   node dist/lint_main.js [DASHBOARD.json]
import { readFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { readCatalogue } from './catalogue.js';
import { DashboardJson, allPanels, lint } from './lint.js';
import { parseRules } from './rule_file.js';

const here = resolve(dirname(fileURLToPath(import.meta.url)), '..');
const path = process.argv[2] ?? join(here, 'generated/hakmem-fragmentation.json');
const board = JSON.parse(readFileSync(path, 'utf8')) as DashboardJson;
const { rules, recorded } = parseRules(readFileSync(join(here, 'rules/hakmem.rules.yml'), 'utf8'));
const catalogue = readCatalogue(resolve(here, '..'));

const errors = lint(board, rules, recorded, catalogue);
for (const error of errors) console.error(error);
if (errors.length > 0) process.exit(1);
const panels = allPanels(board).filter((panel) => panel.type !== 'row').length;
console.log(`${panels} panels and ${rules.length} rules cover the ${catalogue.length} families of the catalogue`);
