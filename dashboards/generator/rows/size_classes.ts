// The same memory by size class: which sizes are fragmented, and how.
import { PanelSpec, RowSpec, rate, ratio, select } from '../panels.js';

const kThird = { kind: 'series', width: 8, height: 11 } as const;
const bySizeClass = (expr: string): string => `sum by (size_class) (${expr})`;
const fragmentation = (kind: string): string => select('hakmem_size_class_fragmentation_bytes', `kind="${kind}"`);

const nowBySizeClass: PanelSpec = {
  kind: 'table',
  title: 'Size classes now',
  about: 'One row a size class, the most wasteful first. A low occupancy with many bytes of slabs is what to look for.',
  unit: 'bytes',
  width: 12,
  height: 11,
  key: 'size_class',
  keyTitle: 'Size class',
  queries: [
    { title: 'External', unit: 'bytes', expr: bySizeClass(fragmentation('external')) },
    { title: 'Internal', unit: 'bytes', expr: bySizeClass(fragmentation('internal')) },
    { title: 'Live', unit: 'bytes', expr: bySizeClass(select('hakmem_live_bytes')) },
    { title: 'Slabs', unit: 'bytes', expr: bySizeClass(select('hakmem_slab_bytes')) },
    {
      title: 'Occupancy',
      unit: 'percentunit',
      expr: `min by (size_class) (${select('hakmem_slab_occupancy_ratio')})`,
    },
  ],
  sortBy: 'External',
};

export const sizeClasses: RowSpec = {
  title: 'By size class',
  collapsed: false,
  panels: [
    {
      ...kThird,
      title: 'Live bytes by size class',
      about: 'What the program holds, by the size class it is held in.',
      unit: 'bytes',
      stacked: true,
      queries: [{ expr: bySizeClass(select('hakmem_live_bytes')), legend: '{{size_class}}' }],
    },
    {
      ...kThird,
      title: 'Occupancy by size class',
      about: 'The emptiest process of the selected ones.',
      unit: 'percentunit',
      max: 1,
      linesOnly: true,
      queries: [
        { expr: `min by (size_class) (${select('hakmem_slab_occupancy_ratio')})`, legend: '{{size_class}}' },
      ],
    },
    {
      ...kThird,
      title: 'External fragmentation by size class',
      about: 'Free bytes in slabs that still hold something. They can serve this size class only.',
      unit: 'bytes',
      stacked: true,
      queries: [{ expr: bySizeClass(fragmentation('external')), legend: '{{size_class}}' }],
    },
    nowBySizeClass,
    {
      kind: 'series',
      title: 'Internal fragmentation by size class',
      about: 'Bytes allocated beyond what was asked for. A size just above a class boundary shows here.',
      unit: 'bytes',
      width: 12,
      height: 11,
      stacked: true,
      queries: [{ expr: bySizeClass(fragmentation('internal')), legend: '{{size_class}}' }],
    },
  ],
};

export const requests: RowSpec = {
  title: 'Requests and objects',
  collapsed: true,
  panels: [
    {
      ...kThird,
      title: 'Live objects by size class',
      about: 'How many objects the program holds.',
      unit: 'short',
      stacked: true,
      queries: [{ expr: bySizeClass(select('hakmem_live_objects')), legend: '{{size_class}}' }],
    },
    {
      ...kThird,
      title: 'Fragmentation ratio by size class',
      about: 'The worst process of the selected ones, by kind and size class.',
      unit: 'percentunit',
      linesOnly: true,
      queries: [
        {
          expr: `max by (kind, size_class) (${select('hakmem_size_class_fragmentation_ratio')})`,
          legend: '{{kind}} {{size_class}}',
        },
      ],
    },
    {
      ...kThird,
      title: 'Mean requested size by size class',
      about: 'What the program asks for, of the requests whose size was observed. Far below the class size is internal fragmentation.',
      unit: 'bytes',
      linesOnly: true,
      queries: [
        {
          expr: ratio(
            bySizeClass(rate('hakmem_requested_bytes_observed_total')),
            bySizeClass(rate('hakmem_requests_observed_total')),
          ),
          legend: '{{size_class}}',
        },
      ],
    },
    {
      ...kThird,
      width: 12,
      title: 'Allocations by size class',
      about: 'Where the allocation traffic is, as of each thread\'s last refill of the class, or of when a sample of it was due.',
      unit: 'ops',
      stacked: true,
      queries: [{ expr: bySizeClass(rate('hakmem_allocations_total')), legend: '{{size_class}}' }],
    },
    {
      ...kThird,
      width: 12,
      title: 'Objects handed out less objects seen freed',
      about: 'Growth by size class. A class that stays above zero for hours is a candidate for a leak.',
      unit: 'ops',
      linesOnly: true,
      queries: [
        {
          expr: `${bySizeClass(rate('hakmem_refill_objects_total'))} - ${bySizeClass(rate('hakmem_collected_objects_total'))}`,
          legend: '{{size_class}}',
        },
      ],
    },
  ],
};
