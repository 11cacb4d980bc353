// The few kinds of panel that the dashboard is made of. Units, legends and
// tooltips are decided here once, so that all panels read alike.
import * as common from '@grafana/grafana-foundation-sdk/common';
import * as dashboard from '@grafana/grafana-foundation-sdk/dashboard';
import * as heatmap from '@grafana/grafana-foundation-sdk/heatmap';
import * as prometheus from '@grafana/grafana-foundation-sdk/prometheus';
import * as stat from '@grafana/grafana-foundation-sdk/stat';
import * as table from '@grafana/grafana-foundation-sdk/table';
import * as timeseries from '@grafana/grafana-foundation-sdk/timeseries';

/** One query: the expression and the name of its lines ("" leaves the name to Grafana). */
export interface Query {
  expr: string;
  legend?: string;
}

interface PanelBase {
  title: string;
  /** What the panel tells and what to do about it; help texts of the metrics are appended. */
  about: string;
  unit: string;
  width: number;
  height: number;
  queries: Query[];
}

export interface StatSpec extends PanelBase {
  kind: 'stat';
  /** Values from which the figure turns orange and red. */
  warn?: [number, number];
  decimals?: number;
  /** Shows the name of the series instead of its value. */
  nameOnly?: boolean;
}

export interface SeriesSpec extends PanelBase {
  kind: 'series';
  stacked?: boolean;
  max?: number;
  /** An axis as high as this at least, for figures that are close to zero when all is well. */
  softMax?: number;
  /** For many lines that cross: no colour below them. */
  linesOnly?: boolean;
  /** Names of lines that are drawn dashed over the stack. */
  overlay?: string[];
  /** Colours of lines by name, where a colour means something. */
  colors?: Record<string, string>;
}

export interface HeatmapSpec extends PanelBase {
  kind: 'heatmap';
}

/** A query that fills a column of a table. */
export interface Column extends Query {
  title: string;
  unit: string;
}

export interface TableSpec extends PanelBase {
  kind: 'table';
  /** The label that joins the columns; one row of the table for each of its values. */
  key: string;
  keyTitle: string;
  queries: Column[];
  sortBy: string;
}

export type PanelSpec = StatSpec | SeriesSpec | HeatmapSpec | TableSpec;

export interface RowSpec {
  title: string;
  collapsed: boolean;
  panels: PanelSpec[];
}

/** The part of a selector that every query has, or the linter complains. */
export const kScope = 'job=~"$job", instance=~"$instance"';

/** Selector of a family within the chosen jobs and instances. */
export function select(family: string, matchers = ''): string {
  return `${family}{${kScope}${matchers ? `, ${matchers}` : ''}}`;
}

/** Per-second rate of a counter over Grafana's own interval. */
export function rate(family: string, matchers = ''): string {
  return `rate(${select(family, matchers)}[$__rate_interval])`;
}

/** a / b, without the points where b is zero: they have no ratio, not a ratio of NaN. */
export function ratio(a: string, b: string): string {
  return `${a} / (${b} > 0)`;
}

const kDatasource: common.DataSourceRef = { type: 'prometheus', uid: '${datasource}' };

function targets(spec: PanelSpec): prometheus.DataqueryBuilder[] {
  return spec.queries.map((query, index) => {
    const target = new prometheus.DataqueryBuilder()
      .datasource(kDatasource)
      .expr(query.expr)
      .refId(String.fromCharCode('A'.charCodeAt(0) + index));
    if (spec.kind === 'table') return target.instant().format(prometheus.PromQueryFormat.Table);
    if (spec.kind === 'heatmap')
      return target.range().format(prometheus.PromQueryFormat.Heatmap).legendFormat('{{le}}');
    return target.range().legendFormat(query.legend ?? '__auto');
  });
}

function statPanel(spec: StatSpec): stat.PanelBuilder {
  const steps: dashboard.Threshold[] = [{ value: null as unknown as number, color: spec.warn ? 'green' : 'blue' }];
  if (spec.warn) steps.push({ value: spec.warn[0], color: 'orange' }, { value: spec.warn[1], color: 'red' });
  const panel = new stat.PanelBuilder()
    .graphMode(spec.nameOnly ? common.BigValueGraphMode.None : common.BigValueGraphMode.Area)
    .colorMode(common.BigValueColorMode.Value)
    .textMode(spec.nameOnly ? common.BigValueTextMode.Name : common.BigValueTextMode.Value)
    .reduceOptions(new common.ReduceDataOptionsBuilder().calcs(['lastNotNull']).values(false))
    .colorScheme(new dashboard.FieldColorBuilder().mode(dashboard.FieldColorModeId.Thresholds))
    .thresholds(new dashboard.ThresholdsConfigBuilder().mode(dashboard.ThresholdsMode.Absolute).steps(steps));
  return spec.decimals === undefined ? panel : panel.decimals(spec.decimals);
}

function seriesPanel(spec: SeriesSpec): timeseries.PanelBuilder {
  const panel = new timeseries.PanelBuilder()
    .drawStyle(common.GraphDrawStyle.Line)
    .lineWidth(1)
    .fillOpacity(spec.linesOnly ? 0 : spec.stacked ? 40 : 10)
    .showPoints(common.VisibilityMode.Never)
    .stacking(
      new common.StackingConfigBuilder()
        .mode(spec.stacked ? common.StackingMode.Normal : common.StackingMode.None)
        .group('A'),
    )
    .tooltip(
      new common.VizTooltipOptionsBuilder()
        .mode(common.TooltipDisplayMode.Multi)
        .sort(common.SortOrder.Descending),
    )
    .legend(
      new common.VizLegendOptionsBuilder()
        .displayMode(common.LegendDisplayMode.Table)
        .placement(common.LegendPlacement.Bottom)
        .showLegend(true)
        .calcs(['min', 'mean', 'max'])
        .sortBy('Max')
        .sortDesc(true),
    );
  panel.axisSoftMin(0);
  if (spec.max !== undefined) panel.max(spec.max);
  if (spec.softMax !== undefined) panel.axisSoftMax(spec.softMax);
  for (const name of spec.overlay ?? [])
    panel.overrideByName(name, [
      { id: 'custom.stacking', value: { mode: 'none', group: 'B' } },
      { id: 'custom.fillOpacity', value: 0 },
      { id: 'custom.lineStyle', value: { fill: 'dash', dash: [8, 6] } },
    ]);
  for (const [name, fixedColor] of Object.entries(spec.colors ?? {}))
    panel.overrideByName(name, [{ id: 'color', value: { mode: 'fixed', fixedColor } }]);
  return panel;
}

function heatmapPanel(spec: HeatmapSpec): heatmap.PanelBuilder {
  return new heatmap.PanelBuilder()
    .calculate(false)
    .cellGap(1)
    .color(
      new heatmap.HeatmapColorOptionsBuilder()
        .mode(heatmap.HeatmapColorMode.Scheme)
        .scheme('Oranges')
        .exponent(0.5)
        .steps(64),
    )
    .yAxis(new heatmap.YAxisConfigBuilder().unit(spec.unit))
    .tooltip(new heatmap.HeatmapTooltipBuilder().mode(common.TooltipDisplayMode.Single).yHistogram(true));
}

function tablePanel(spec: TableSpec): table.PanelBuilder {
  const rename: Record<string, string> = { [spec.key]: spec.keyTitle };
  const panel = new table.PanelBuilder()
    .cellHeight(common.TableCellHeight.Sm)
    .sortBy([new common.TableSortByFieldStateBuilder().displayName(spec.sortBy).desc(true)])
    .withTransformation({ id: 'joinByField', options: { byField: spec.key, mode: 'outer' } });
  const exclude: Record<string, boolean> = {};
  spec.queries.forEach((column, index) => {
    // joinByField numbers the equal field names of its frames: "Time 1", "Time 2", ...
    exclude[spec.queries.length > 1 ? `Time ${index + 1}` : 'Time'] = true;
    rename[`Value #${String.fromCharCode('A'.charCodeAt(0) + index)}`] = column.title;
    panel.overrideByName(column.title, [{ id: 'unit', value: column.unit }]);
  });
  return panel.withTransformation({ id: 'organize', options: { excludeByName: exclude, renameByName: rename } });
}

/** Builds one panel. The caller says where it stands and what its description is. */
export function buildPanel(
  spec: PanelSpec,
  id: number,
  gridPos: dashboard.GridPos,
  description: string,
): timeseries.PanelBuilder | stat.PanelBuilder | heatmap.PanelBuilder | table.PanelBuilder {
  const panel =
    spec.kind === 'stat'
      ? statPanel(spec)
      : spec.kind === 'series'
        ? seriesPanel(spec)
        : spec.kind === 'heatmap'
          ? heatmapPanel(spec)
          : tablePanel(spec);
  return panel
    .id(id)
    .title(spec.title)
    .description(description)
    .datasource(kDatasource)
    .gridPos(gridPos)
    .unit(spec.unit)
    .targets(targets(spec));
}
