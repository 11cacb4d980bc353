// The slow path: where refills come from and what new slabs cost, step by step.
import { RowSpec, rate, ratio } from '../panels.js';

const kThird = { kind: 'series', width: 8, height: 10 } as const;

export const refills: RowSpec = {
  title: 'Refills and superslab_refill',
  collapsed: false,
  panels: [
    {
      ...kThird,
      title: 'superslab_refill by step',
      about: 'Share of one CPU by step: two threads can reach 200 %. The steps add up to all time spent on new slabs.',
      unit: 'percentunit',
      stacked: true,
      queries: [{ expr: `sum by (step) (${rate('hakmem_superslab_refill_seconds_sum')})`, legend: '{{step}}' }],
    },
    {
      ...kThird,
      title: 'superslab_refill p99 by step',
      about: 'The time that one call in a hundred exceeds, by step; this is latency that the program sees.',
      unit: 's',
      queries: [
        {
          expr:
            `histogram_quantile(0.99, sum by (le, step) (${rate('hakmem_superslab_refill_seconds_bucket')}))` +
            ` and on (step) (sum by (step) (${rate('hakmem_superslab_refill_seconds_count')}) > 0)`,
          legend: '{{step}}',
        },
      ],
    },
    {
      kind: 'heatmap',
      title: 'superslab_refill times',
      about: 'All steps together: how many took how long.',
      unit: 's',
      width: 8,
      height: 10,
      queries: [{ expr: `sum by (le) (${rate('hakmem_superslab_refill_seconds_bucket')})` }],
    },
    {
      ...kThird,
      title: 'Refills by source',
      about: 'A steady program refills from own_frees. remote_frees means that threads hand objects to one another.',
      unit: 'ops',
      stacked: true,
      queries: [{ expr: `sum by (source) (${rate('hakmem_refills_total')})`, legend: '{{source}}' }],
    },
    {
      ...kThird,
      title: 'Batch size by source',
      about: 'Objects a refill. Small batches cost refills, large ones cost cache lines.',
      unit: 'short',
      queries: [
        {
          expr: ratio(
            `sum by (source) (${rate('hakmem_refill_objects_total')})`,
            `sum by (source) (${rate('hakmem_refills_total')})`,
          ),
          legend: '{{source}}',
        },
      ],
    },
    {
      ...kThird,
      title: 'Refills by size class',
      about: 'The size classes that go through the slow path most often.',
      unit: 'ops',
      stacked: true,
      queries: [{ expr: `sum by (size_class) (${rate('hakmem_refills_total')})`, legend: '{{size_class}}' }],
    },
  ],
};
