// The slow path: where refills come from and what new slabs cost, step by step.
import { RowSpec, rate, ratio, select } from '../panels.js';

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
    {
      ...kThird,
      title: 'Share of CPU time in new slabs and kernel calls',
      about: 'Of all CPU time of the process. More than a tenth in superslab_refill is the finding refill_dominates.',
      unit: 'percentunit',
      softMax: 0.1,
      queries: [
        {
          expr: ratio(
            `sum by (instance) (${rate('hakmem_superslab_refill_seconds_sum')})`,
            `sum by (instance) (${rate('hakmem_process_cpu_seconds_total')})`,
          ),
          legend: 'superslab_refill {{instance}}',
        },
        {
          expr: ratio(
            `sum by (instance) (${rate('hakmem_kernel_call_seconds_total')})`,
            `sum by (instance) (${rate('hakmem_process_cpu_seconds_total')})`,
          ),
          legend: 'kernel calls {{instance}}',
        },
      ],
    },
    {
      ...kThird,
      title: 'Slow calls: p50 and p99',
      about: 'Whole calls of malloc and free that leave the fast path, one in 16 of them timed. This is latency that the program sees.',
      unit: 's',
      linesOnly: true,
      queries: [0.5, 0.99].map((quantile) => ({
        expr:
          `histogram_quantile(${quantile}, sum by (le, call) (${rate('hakmem_slow_call_seconds_bucket')}))` +
          ` and on (call) (sum by (call) (${rate('hakmem_slow_call_seconds_count')}) > 0)`,
        legend: `{{call}} p${quantile * 100}`,
      })),
    },
    {
      ...kThird,
      title: 'Kernel calls',
      about: 'Calls of the allocator for memory. mmap and munmap in step are huge blocks that come and go.',
      unit: 'ops',
      stacked: true,
      queries: [{ expr: `sum by (call) (${rate('hakmem_kernel_calls_total')})`, legend: '{{call}}' }],
    },
    {
      ...kThird,
      title: 'Time a kernel call',
      about: 'A rising time means that threads of the process contend for the kernel’s lock on its mappings.',
      unit: 's',
      linesOnly: true,
      queries: [
        {
          expr: ratio(
            `sum by (call) (${rate('hakmem_kernel_call_seconds_total')})`,
            `sum by (call) (${rate('hakmem_kernel_calls_total')})`,
          ),
          legend: '{{call}}',
        },
      ],
    },
    {
      ...kThird,
      title: 'Pages first touched',
      about: 'Each costs a page fault. Many in a heap that does not grow mean that memory is purged and taken again.',
      unit: 'ops',
      queries: [{ expr: `sum by (instance) (${rate('hakmem_first_touched_pages_total')})`, legend: '{{instance}}' }],
    },
    {
      ...kThird,
      title: 'Remote-free queues',
      about: 'Objects that wait on the lists of slabs until their owner looks. What stays there belongs to idle threads.',
      unit: 'short',
      queries: [
        { expr: `sum(${select('hakmem_remote_queue_objects')})`, legend: 'all' },
        { expr: `max(${select('hakmem_remote_queue_longest_objects')})`, legend: 'longest' },
      ],
    },
  ],
};
