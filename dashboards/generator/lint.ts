// The rules of Grafana's dashboard-linter, applied to the generated JSON as
// Grafana would read it, and the rule that catalogue and panels cover each other.
import { Family, familyOf } from './catalogue.js';
import { parseExpression } from './promql.js';

interface Target {
  expr?: string;
  refId?: string;
  datasource?: { type?: string; uid?: string };
}

interface Panel {
  id?: number;
  type: string;
  title?: string;
  description?: string;
  datasource?: { type?: string; uid?: string };
  gridPos?: { x: number; y: number; w: number; h: number };
  fieldConfig?: { defaults?: { unit?: string } };
  targets?: Target[];
  panels?: Panel[];
}

interface Variable {
  name: string;
  type: string;
  label?: string;
  multi?: boolean;
  includeAll?: boolean;
  allValue?: string;
  refresh?: number;
  query?: unknown;
  definition?: string;
  datasource?: { uid?: string };
}

export interface DashboardJson {
  title?: string;
  uid?: string;
  editable?: boolean;
  graphTooltip?: number;
  templating?: { list?: Variable[] };
  panels?: Panel[];
}

/** One expression of a rule file, with the name of the rule it belongs to. */
export interface RuleExpression {
  rule: string;
  expr: string;
}

const kRangeFunctionsOfCounters = ['rate', 'irate', 'increase'];
const kDatasource = '${datasource}';
const kScopes = ['job', 'instance'];

function lintVariables(board: DashboardJson, errors: string[]): void {
  const variables = new Map((board.templating?.list ?? []).map((variable) => [variable.name, variable]));
  const datasource = variables.get('datasource');
  if (datasource?.type !== 'datasource' || datasource.query !== 'prometheus')
    errors.push('variables: no datasource variable named "datasource" of type prometheus');
  else if (datasource.label !== 'Data source') errors.push('variables: "datasource" is not labelled "Data source"');
  for (const name of kScopes) {
    const variable = variables.get(name);
    if (variable?.type !== 'query') {
      errors.push(`variables: no query variable "${name}"`);
      continue;
    }
    if (!variable.multi) errors.push(`variables: "${name}" is not multi-value`);
    if (!variable.includeAll || variable.allValue !== '.+') errors.push(`variables: allValue of "${name}" is not ".+"`);
    if (variable.refresh !== 2) errors.push(`variables: "${name}" is not refreshed on time range change (2)`);
    if (variable.datasource?.uid !== kDatasource) errors.push(`variables: "${name}" does not use $datasource`);
    if (!variable.label) errors.push(`variables: "${name}" has no label`);
    if (!new RegExp(`^label_values\\(hakmem_\\w+({.*})?, ${name}\\)$`).test(variable.definition ?? ''))
      errors.push(`variables: "${name}" is not label_values of a hakmem metric`);
  }
}

function lintExpression(expr: string, where: string, catalogue: Family[], used: Set<string>, errors: string[]): void {
  const parsed = parseExpression(expr);
  for (const error of parsed.errors) errors.push(`${where}: ${error}`);
  if (parsed.selectors.length === 0) errors.push(`${where}: selects nothing`);
  for (const selector of parsed.selectors) {
    const family = familyOf(selector.metric, catalogue);
    if (!family) {
      errors.push(`${where}: ${selector.metric} is not in the catalogue`);
      continue;
    }
    used.add(family.name);
    const cumulative = family.kind === 'Counter' || (family.kind === 'Histogram' && selector.metric !== family.name);
    const inRate = kRangeFunctionsOfCounters.includes(selector.rangeFunction ?? '');
    if (family.kind === 'Histogram' && selector.metric === family.name)
      errors.push(`${where}: ${selector.metric} is a histogram and has no series of that name`);
    // A series that begins above zero has increased by nothing.
    const before = `last_over_time\\(${selector.metric}\\[\\w+\\] offset \\d+m\\)`;
    const begins = new RegExp(`\\b${selector.metric} > 0 unless ${before}`).test(expr);
    if (cumulative && !inRate && !begins) errors.push(`${where}: counter ${selector.metric} is not inside rate, irate or increase`);
    if (!cumulative && inRate) errors.push(`${where}: gauge ${selector.metric} is inside ${selector.rangeFunction}`);
  }
}

function lintTargets(panel: Panel, where: string, catalogue: Family[], used: Set<string>, errors: string[]): void {
  const refIds = new Set<string>();
  for (const target of panel.targets ?? []) {
    if (!target.expr) {
      errors.push(`${where}: a target without an expression`);
      continue;
    }
    if (!target.refId || refIds.has(target.refId)) errors.push(`${where}: targets without a refId of their own`);
    refIds.add(target.refId ?? '');
    if (target.datasource?.uid !== kDatasource) errors.push(`${where}: a target does not use $datasource`);
    lintExpression(target.expr, where, catalogue, used, errors);
    for (const selector of parseExpression(target.expr).selectors) {
      for (const scope of kScopes)
        if (!selector.matchers.includes(`${scope}=~"$${scope}"`))
          errors.push(`${where}: ${selector.metric} is not selected by ${scope}=~"$${scope}"`);
      if (selector.range !== undefined && selector.range !== '$__rate_interval')
        errors.push(`${where}: range [${selector.range}] is not [$__rate_interval]`);
    }
  }
}

function lintPanel(panel: Panel, ids: Set<number>, catalogue: Family[], used: Set<string>, errors: string[]): void {
  const where = `panel "${panel.title ?? `#${panel.id}`}"`;
  if (panel.id === undefined || ids.has(panel.id)) errors.push(`${where}: no id of its own`);
  ids.add(panel.id ?? -1);
  if (!panel.title) errors.push(`${where}: no title`);
  if (!panel.gridPos || panel.gridPos.x + panel.gridPos.w > 24) errors.push(`${where}: no place on the grid`);
  if (panel.type === 'row') return;
  if (!panel.description) errors.push(`${where}: no description`);
  if (!panel.fieldConfig?.defaults?.unit) errors.push(`${where}: no unit`);
  if (panel.datasource?.uid !== kDatasource) errors.push(`${where}: does not use $datasource`);
  if (!panel.targets?.length) errors.push(`${where}: no target`);
  lintTargets(panel, where, catalogue, used, errors);
}

/** All panels, those inside folded rows among them. */
export function allPanels(board: DashboardJson): Panel[] {
  return (board.panels ?? []).flatMap((panel) => [panel, ...(panel.panels ?? [])]);
}

/** Everything that is wrong with a dashboard, its rules, or their coverage of the catalogue. */
export function lint(board: DashboardJson, rules: RuleExpression[], recorded: string[], catalogue: Family[]): string[] {
  const errors: string[] = [];
  const used = new Set<string>();
  if (!board.title) errors.push('dashboard: no title');
  if (!board.uid) errors.push('dashboard: no uid');
  if (board.editable !== false) errors.push('dashboard: editable is not false');
  if (board.graphTooltip !== 1) errors.push('dashboard: tooltips are not shared');
  lintVariables(board, errors);

  const ids = new Set<number>();
  const titles = new Set<string>();
  for (const panel of allPanels(board)) {
    lintPanel(panel, ids, catalogue, used, errors);
    if (titles.has(panel.title ?? '')) errors.push(`panel "${panel.title}": two panels have this title`);
    titles.add(panel.title ?? '');
  }

  for (const { rule, expr } of rules) {
    const parsed = parseExpression(expr);
    const foreign = parsed.selectors.filter((selector) => selector.metric.includes(':'));
    for (const selector of foreign)
      if (!recorded.includes(selector.metric)) errors.push(`rule ${rule}: ${selector.metric} is recorded by no rule`);
    if (foreign.length < parsed.selectors.length)
      lintExpression(expr, `rule ${rule}`, [...catalogue, ...foreign.map(recordedFamily)], used, errors);
  }
  for (const family of catalogue)
    if (!used.has(family.name)) errors.push(`catalogue: ${family.name} is on no panel and in no rule`);
  return errors;
}

function recordedFamily(selector: { metric: string }): Family {
  return { name: selector.metric, kind: 'Gauge', labelSet: 'None', help: '' };
}
