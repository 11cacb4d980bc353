// The metric catalogue, read from the rows the allocator itself is compiled from,
// so that names and help texts on the dashboard cannot differ from the exported ones.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

export type Kind = 'Counter' | 'Gauge' | 'Histogram';

export interface Family {
  name: string;
  kind: Kind;
  labelSet: string;
  help: string;
}

const kRow = /^HAKMEM_METRIC\(\s*(\w+)\s*,\s*(\w+)\s*,\s*(\w+)\s*,\s*(\w+)\s*,\s*"([^"]+)"\s*,\s*"((?:[^"\\]|\\.)*)"\s*\)/;

/** Parses catalogue.def; throws on a row it cannot read, so that none is lost silently. */
export function parseCatalogue(text: string): Family[] {
  const families: Family[] = [];
  for (const line of text.split('\n')) {
    if (!line.startsWith('HAKMEM_METRIC(')) continue;
    const row = kRow.exec(line);
    if (!row) throw new Error(`catalogue.def: cannot read the row: ${line}`);
    const [, , kind, , labelSet, name, help] = row as unknown as string[];
    if (kind !== 'Counter' && kind !== 'Gauge' && kind !== 'Histogram')
      throw new Error(`catalogue.def: unknown kind ${kind} of ${name}`);
    families.push({ name: name!, kind, labelSet: labelSet!, help: help!.replace(/\\(.)/g, '$1') });
  }
  if (families.length === 0) throw new Error('catalogue.def: no rows');
  return families;
}

/** The catalogue of the source tree at `root`. */
export function readCatalogue(root: string): Family[] {
  return parseCatalogue(readFileSync(join(root, 'allocator/metrics/catalogue.def'), 'utf8'));
}

/** The family a series name belongs to: a histogram has three series names. */
export function familyOf(series: string, catalogue: Family[]): Family | undefined {
  const exact = catalogue.find((family) => family.name === series);
  if (exact) return exact;
  const base = series.replace(/_(bucket|sum|count)$/, '');
  return catalogue.find((family) => family.kind === 'Histogram' && family.name === base);
}
