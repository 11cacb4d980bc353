// Draws a dashboard from its JSON and the answers of a real Prometheus, with the
// components that Grafana itself is made of (@grafana/ui). It is a picture of
// the dashboard, not Grafana: no queries, no interaction.
import React from 'react';
import { createRoot } from 'react-dom/client';
import { FieldColorModeId, FieldType, ThemeContext, createTheme, dateTime, getDisplayProcessor,
         getFieldDisplayName, toDataFrame } from '@grafana/data';
import { BigValue, BigValueColorMode, BigValueGraphMode, GlobalStyles, PanelChrome, TimeSeries } from '@grafana/ui';
import { Heatmap } from './heatmap.jsx';
import { SizeClassTable } from './table.jsx';

const { dashboard, answers, start, end } = window.HAKMEM_PICTURE;
const theme = createTheme({ colors: { mode: 'dark' } });
const kColumns = 24;
const kCell = 38;
const kGap = 8;
const kWidth = 1600;
const timeRange = { from: dateTime(start * 1000), to: dateTime(end * 1000), raw: { from: 'now-1m', to: 'now' } };

const columnWidth = (kWidth - kGap) / kColumns;

function legendOf(format, labels) {
  if (!format || format === '__auto') return Object.values(labels).join(' ') || 'value';
  return format.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, name) => labels[name] ?? '').trim();
}

/** One frame for each series of each query of a panel, as Grafana's Prometheus data source makes them. */
function framesOf(panel) {
  const frames = panel.targets.flatMap((target, index) =>
    answers[panel.id][index].map((series) =>
      toDataFrame({
        refId: target.refId,
        fields: [
          { name: 'Time', type: FieldType.time, values: series.values.map(([time]) => time * 1000), config: {} },
          {
            name: 'Value',
            type: FieldType.number,
            values: series.values.map(([, value]) => Number(value)),
            labels: series.metric,
            config: { displayNameFromDS: legendOf(target.legendFormat, series.metric) },
          },
        ],
      }),
    ),
  );
  let seriesIndex = 0;
  for (const frame of frames)
    for (const field of frame.fields) {
      if (field.type === FieldType.number) configure(panel, field, frame, seriesIndex++);
      field.display = getDisplayProcessor({ field, theme, timeZone: 'utc' });
    }
  return frames;
}

// The options of the panel, and those that an override gives to a line by its name.
function configure(panel, field, frame, seriesIndex) {
  const { defaults, overrides = [] } = panel.fieldConfig;
  field.state = { seriesIndex };
  field.config = {
    color: { mode: FieldColorModeId.PaletteClassic },
    ...defaults,
    ...field.config,
    custom: { ...defaults.custom },
  };
  const name = getFieldDisplayName(field, frame);
  for (const { matcher, properties } of overrides)
    if (matcher.id === 'byName' && matcher.options === name)
      for (const { id, value } of properties)
        if (id.startsWith('custom.')) field.config.custom[id.slice('custom.'.length)] = value;
        else field.config[id] = value;
}

function Stat({ panel, width, height }) {
  const [time, field] = framesOf(panel)[0].fields;
  const last = field.values[field.values.length - 1];
  const [min, max] = [Math.min(...field.values), Math.max(...field.values)];
  field.state.range = { min, max, delta: max - min };
  const shown = field.display(last);
  return (
    <BigValue
      theme={theme}
      width={width}
      height={height}
      value={shown}
      colorMode={BigValueColorMode.Value}
      graphMode={BigValueGraphMode.Area}
      sparkline={{ x: time, y: field, timeRange }}
    />
  );
}

function Series({ panel, width, height }) {
  return (
    <TimeSeries
      frames={framesOf(panel)}
      timeRange={timeRange}
      timeZone="utc"
      width={width}
      height={height}
      legend={panel.options.legend}
    />
  );
}

const kContent = {
  stat: Stat,
  timeseries: Series,
  heatmap: (properties) => <Heatmap {...properties} series={answers[properties.panel.id][0]} theme={theme} />,
  table: (properties) => <SizeClassTable {...properties} answers={answers[properties.panel.id]} theme={theme} />,
};

function Row({ panel, style }) {
  return (
    <div style={{ ...style, display: 'flex', alignItems: 'center', fontWeight: 500, fontSize: 16 }}>
      <span style={{ width: 20, color: theme.colors.text.secondary }}>{panel.collapsed ? '›' : '⌄'}</span>
      {panel.title}
      {panel.collapsed && (
        <span style={{ marginLeft: 10, fontSize: 12, fontStyle: 'italic', color: theme.colors.text.secondary }}>
          ({panel.panels.length} panels)
        </span>
      )}
    </div>
  );
}

function Panel({ panel, top }) {
  const { x, w, h } = panel.gridPos;
  const style = {
    position: 'absolute',
    left: kGap + x * columnWidth,
    top: kGap + top * kCell,
    width: w * columnWidth - kGap,
    height: h * kCell - kGap,
  };
  if (panel.type === 'row') return <Row panel={panel} style={style} />;
  const Content = kContent[panel.type];
  return (
    <div style={style}>
      <PanelChrome title={panel.title} width={style.width} height={style.height} description={panel.description}>
        {(width, height) => <Content panel={panel} width={width} height={height} />}
      </PanelChrome>
    </div>
  );
}

/** Panels with the line they stand in: the panels of folded rows take no room, so what follows moves up. */
function placed() {
  const lines = [];
  let folded = 0;
  for (const panel of dashboard.panels) {
    lines.push({ panel, top: panel.gridPos.y - folded });
    if (panel.collapsed) folded += Math.max(...panel.panels.map((each) => each.gridPos.y + each.gridPos.h)) - panel.gridPos.y - 1;
  }
  return lines;
}

function Page() {
  return (
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <div style={{ position: 'absolute', top: 10, left: 14, fontSize: 20, fontWeight: 500 }}>{dashboard.title}</div>
      <div style={{ position: 'absolute', top: 16, right: 14, color: theme.colors.text.secondary }}>
        a run of ./run demo, rendered with @grafana/ui
      </div>
      <div style={{ position: 'absolute', top: 48, left: 0 }}>
        {placed().map(({ panel, top }) => <Panel key={panel.id} panel={panel} top={top} />)}
      </div>
    </ThemeContext.Provider>
  );
}

createRoot(document.getElementById('root')).render(<Page />);
