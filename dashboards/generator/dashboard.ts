// Puts the rows together: identities, positions, descriptions, variables.
import * as cog from '@grafana/grafana-foundation-sdk/cog';
import * as dashboard from '@grafana/grafana-foundation-sdk/dashboard';
import { Family, familyOf } from './catalogue.js';
import { PanelSpec, RowSpec, buildPanel } from './panels.js';
import { seriesOf } from './promql.js';
import { holders } from './rows/holders.js';
import { memory, strip } from './rows/overview.js';
import { refills } from './rows/refills.js';
import { requests, sizeClasses } from './rows/size_classes.js';
import { huge, purging, slabs } from './rows/structure.js';
import { telemetry, threads } from './rows/threads.js';

const kGridColumns = 24;
const kRows: RowSpec[] = [memory, sizeClasses, holders, refills, slabs, purging, threads, huge, requests, telemetry];

/** Lays panels out from left to right and then down, as one reads. */
class Flow {
  private x = 0;
  private y = 0;
  private lineHeight = 0;

  place(width: number, height: number): dashboard.GridPos {
    if (this.x + width > kGridColumns) this.newLine();
    const position = { x: this.x, y: this.y, w: width, h: height };
    this.x += width;
    this.lineHeight = Math.max(this.lineHeight, height);
    return position;
  }

  newLine(): void {
    this.y += this.lineHeight;
    this.x = 0;
    this.lineHeight = 0;
  }
}

/** The author's sentence, and below it what the catalogue says of each metric. */
function describe(spec: PanelSpec, catalogue: Family[]): string {
  const families = new Set<Family>();
  for (const query of spec.queries)
    for (const series of seriesOf(query.expr)) {
      const family = familyOf(series, catalogue);
      if (!family) throw new Error(`panel "${spec.title}": ${series} is not in the catalogue`);
      families.add(family);
    }
  return [spec.about, ...[...families].map((family) => `\`${family.name}\`: ${family.help}`)].join('\n\n');
}

function scopeVariable(name: string, label: string, query: string): dashboard.QueryVariableBuilder {
  return new dashboard.QueryVariableBuilder(name)
    .label(label)
    .datasource({ type: 'prometheus', uid: '${datasource}' })
    .query({ query, refId: `Prometheus-${name}` })
    .definition(query)
    .refresh(dashboard.VariableRefresh.OnTimeRangeChanged)
    .sort(dashboard.VariableSort.AlphabeticalAsc)
    .multi(true)
    .includeAll(true)
    .allValue('.+')
    .current({ selected: true, text: ['All'], value: ['$__all'] });
}

/** The dashboard "hakmem / Fragmentation", as Grafana imports it. */
export function fragmentationDashboard(catalogue: Family[]): dashboard.Dashboard {
  const flow = new Flow();
  let nextId = 1;
  const build = (spec: PanelSpec): cog.Builder<dashboard.Panel> =>
    buildPanel(spec, nextId++, flow.place(spec.width, spec.height), describe(spec, catalogue));

  const result = new dashboard.DashboardBuilder('hakmem / Fragmentation')
    .uid('hakmem-fragmentation')
    .description('Where the memory of processes under hakmem is, which size classes are fragmented, and what refills cost.')
    .tags(['hakmem', 'memory'])
    .readonly()
    .tooltip(dashboard.DashboardCursorSync.Crosshair)
    .refresh('10s')
    .time({ from: 'now-30m', to: 'now' })
    .timezone('browser')
    .withVariable(
      new dashboard.DatasourceVariableBuilder('datasource')
        .label('Data source')
        .type('prometheus')
        .current({ selected: true, text: 'default', value: 'default' }),
    )
    .withVariable(scopeVariable('job', 'Job', 'label_values(hakmem_build_info, job)'))
    .withVariable(scopeVariable('instance', 'Instance', 'label_values(hakmem_build_info{job=~"$job"}, instance)'));

  for (const spec of strip) result.withPanel(build(spec));
  for (const row of kRows) {
    flow.newLine();
    const header = new dashboard.RowBuilder(row.title).id(nextId++).gridPos(flow.place(kGridColumns, 1));
    flow.newLine();
    header.collapsed(row.collapsed);
    const panels = row.panels.map(build);
    // Grafana keeps the panels of a folded row inside it and those of an open row after it.
    if (row.collapsed) panels.forEach((panel) => header.withPanel(panel));
    result.withRow(header);
    if (!row.collapsed) panels.forEach((panel) => result.withPanel(panel));
  }
  return result.build();
}
