// Who holds the memory, as far as the samples of a process with an endpoint tell.
import { RowSpec, rate, select } from '../panels.js';

export const holders: RowSpec = {
  title: 'Who holds the memory',
  collapsed: true,
  panels: [
    {
      kind: 'stat',
      title: 'Leak suspects',
      about: 'Call sites that keep growing, in the worst of the selected processes. After a start, caches that fill are among them.',
      unit: 'none',
      warn: [1, 1000],
      width: 4,
      height: 10,
      queries: [{ expr: `max(${select('hakmem_leak_suspects')})`, legend: 'suspects' }],
    },
    {
      kind: 'series',
      title: 'Leak suspects: live bytes',
      about: 'A line that ends was a cache that filled up. Where the stack is: /debug/leaks of the process.',
      unit: 'bytes',
      width: 10,
      height: 10,
      queries: [
        { expr: `sum by (site, instance) (${select('hakmem_leak_suspect_bytes')})`, legend: '{{site}} {{instance}}' },
      ],
    },
    {
      kind: 'table',
      title: 'Leak suspects now',
      about: 'What each call site holds, and for how long that has been growing.',
      unit: 'none',
      width: 10,
      height: 10,
      key: 'site',
      keyTitle: 'Call site',
      queries: [
        { title: 'Holds', unit: 'bytes', expr: `sum by (site) (${select('hakmem_leak_suspect_bytes')})` },
        { title: 'Growing for', unit: 's', expr: `max by (site) (${select('hakmem_leak_suspect_age_seconds')})` },
      ],
      sortBy: 'Holds',
    },
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
      title: 'Lifetimes: p50 and p90 by size class',
      about: 'Objects of one class that live for very different times leave slabs part-full. The ten classes of which most samples were freed.',
      unit: 's',
      width: 12,
      height: 10,
      linesOnly: true,
      queries: [0.5, 0.9].map((quantile) => ({
        expr:
          `histogram_quantile(${quantile}, sum by (le, size_class) (${rate('hakmem_sampled_lifetime_seconds_bucket')}))` +
          ` and on (size_class) topk(10, sum by (size_class) (${rate('hakmem_sampled_lifetime_seconds_count')}) > 0)`,
        legend: `{{size_class}} p${quantile * 100}`,
      })),
    },
  ],
};
