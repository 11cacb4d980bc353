// Who holds the memory, as far as the samples of a process with an endpoint tell.
import { RowSpec, rate } from '../panels.js';

export const holders: RowSpec = {
  title: 'Who holds the memory',
  collapsed: true,
  panels: [
    {
      kind: 'heatmap',
      title: 'Lifetimes',
      about: 'Samples that were freed, all sizes together: how many had lived for how long.',
      unit: 's',
      width: 12,
      height: 10,
      queries: [{ expr: `sum by (le) (${rate('hakmem_sampled_lifetime_seconds_bucket')})` }],
    },
    {
      kind: 'series',
      title: 'Lifetimes: p50 and p90 by size',
      about: 'Objects of one size that live for very different times leave slabs part-full.',
      unit: 's',
      width: 12,
      height: 10,
      linesOnly: true,
      queries: [0.5, 0.9].map((quantile) => ({
        expr:
          `histogram_quantile(${quantile}, sum by (le, size) (${rate('hakmem_sampled_lifetime_seconds_bucket')}))` +
          ` and on (size) (sum by (size) (${rate('hakmem_sampled_lifetime_seconds_count')}) > 0)`,
        legend: `{{size}} p${quantile * 100}`,
      })),
    },
  ],
};
