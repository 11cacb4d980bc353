// Writes generated/*.json from the catalogue and the rows, or checks that it is up to date.
//   node dist/main.js --write | --check
import { readFileSync, writeFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { readCatalogue } from './catalogue.js';
import { fragmentationDashboard } from './dashboard.js';

const here = resolve(dirname(fileURLToPath(import.meta.url)), '..');
const path = join(here, 'generated/hakmem-fragmentation.json');
const text = JSON.stringify(fragmentationDashboard(readCatalogue(resolve(here, '..'))), null, 2) + '\n';

const mode = process.argv[2];
if (mode === '--write') {
  writeFileSync(path, text);
  console.log(`wrote ${path}`);
} else if (mode === '--check') {
  let present = '';
  try {
    present = readFileSync(path, 'utf8');
  } catch {
    // A missing file is stale, too.
  }
  if (present !== text) {
    console.error(`${path} is stale: run "npm run generate" in dashboards/ and commit the result`);
    process.exit(1);
  }
  console.log('generated files are up to date');
} else {
  console.error('usage: main.js --write | --check');
  process.exit(2);
}
