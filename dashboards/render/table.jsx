// The table of size classes: the last value of each query, joined by the label that the panel joins by.
import React from 'react';
import { getValueFormat } from '@grafana/data';

const kLine = 30;

export function SizeClassTable({ panel, answers, height, theme }) {
  const by = panel.transformations.find(({ id }) => id === 'joinByField').options.byField;
  const names = panel.transformations.find(({ id }) => id === 'organize').options.renameByName;
  const columns = panel.targets.map((target) => names[`Value #${target.refId}`]);
  const unitOf = (title) =>
    panel.fieldConfig.overrides.find(({ matcher }) => matcher.options === title).properties.find(({ id }) => id === 'unit').value;

  const rows = new Map();
  answers.forEach((series, index) => {
    for (const one of series) {
      const key = one.metric[by];
      if (!rows.has(key)) rows.set(key, {});
      rows.get(key)[columns[index]] = Number(one.values[one.values.length - 1][1]);
    }
  });
  const { displayName, desc } = panel.options.sortBy[0];
  const sorted = [...rows].sort(([, a], [, b]) => (desc ? 1 : -1) * ((b[displayName] ?? 0) - (a[displayName] ?? 0)));
  const text = (title, value) => {
    if (value === undefined) return '';
    const shown = getValueFormat(unitOf(title))(value, 1);
    return `${shown.prefix ?? ''}${shown.text}${shown.suffix ?? ''}`;
  };
  const cell = { padding: '0 10px', height: kLine, borderBottom: `1px solid ${theme.colors.border.weak}` };
  const shown = Math.floor(height / kLine) - 1;
  return (
    <table style={{ width: '100%', borderCollapse: 'collapse', fontSize: 13 }}>
      <thead>
        <tr style={{ color: theme.colors.text.link, textAlign: 'left' }}>
          <th style={cell}>{names[by]}</th>
          {columns.map((title) => <th key={title} style={cell}>{title}{title === displayName ? ' ↓' : ''}</th>)}
        </tr>
      </thead>
      <tbody>
        {sorted.slice(0, shown).map(([key, row]) => (
          <tr key={key}>
            <td style={cell}>{key}</td>
            {columns.map((title) => <td key={title} style={cell}>{text(title, row[title])}</td>)}
          </tr>
        ))}
      </tbody>
    </table>
  );
}
