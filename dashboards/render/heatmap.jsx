// A heatmap of cumulative buckets. @grafana/ui exports none, so this one is drawn in SVG.
import React from 'react';
import { getValueFormat } from '@grafana/data';

const kAxis = 70;
const kBottom = 18;

/** Buckets in ascending order, with the counts of each bucket alone. */
function bucketsOf(series) {
  const bounds = series
    .map((one) => ({ le: one.metric.le === '+Inf' ? Infinity : Number(one.metric.le), values: one.values }))
    .sort((a, b) => a.le - b.le);
  return bounds.map((bucket, index) => {
    const below = new Map(index > 0 ? bounds[index - 1].values : []);
    return {
      le: bucket.le,
      cells: bucket.values.map(([time, value]) => [time, Math.max(0, Number(value) - Number(below.get(time) ?? 0))]),
    };
  });
}

export function Heatmap({ panel, series, width, height, theme }) {
  const buckets = bucketsOf(series);
  const times = [...new Set(buckets.flatMap((bucket) => bucket.cells.map(([time]) => time)))].sort((a, b) => a - b);
  const most = Math.max(...buckets.flatMap((bucket) => bucket.cells.map(([, count]) => count)), 1e-9);
  const format = getValueFormat(panel.options.yAxis.unit);
  const text = (le) => {
    if (le === Infinity) return '+Inf';
    const shown = format(le, 0);
    return `${shown.prefix ?? ''}${shown.text}${shown.suffix ?? ''}`;
  };
  const cellWidth = (width - kAxis) / times.length;
  const cellHeight = (height - kBottom) / buckets.length;
  const place = new Map(times.map((time, index) => [time, index]));
  const label = { fill: theme.colors.text.secondary, fontSize: 11 };
  const clock = (time) => new Date(time * 1000).toISOString().slice(11, 19);
  return (
    <svg width={width} height={height}>
      {buckets.map((bucket, row) => {
        const y = height - kBottom - (row + 1) * cellHeight;
        return (
          <g key={row}>
            {row % 3 === 0 && <text x={kAxis - 6} y={y + cellHeight / 2 + 4} textAnchor="end" {...label}>{text(bucket.le)}</text>}
            {bucket.cells.filter(([, count]) => count > 0).map(([time, count]) => (
              <rect key={time} x={kAxis + place.get(time) * cellWidth} y={y + 0.5}
                    width={Math.max(1, cellWidth - 0.5)} height={cellHeight - 1}
                    fill={`hsl(${42 - 27 * Math.sqrt(count / most)} 95% ${22 + 38 * Math.sqrt(count / most)}%)`} />
            ))}
          </g>
        );
      })}
      {[0, 0.33, 0.66].map((part) => {
        const time = times[Math.floor(part * times.length)];
        return <text key={part} x={kAxis + part * (width - kAxis)} y={height - 4} {...label}>{clock(time)}</text>;
      })}
    </svg>
  );
}
