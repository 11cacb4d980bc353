// Slabs, superslabs, purging, huge allocations: the structure below the size classes.
import { RowSpec, rate, ratio, select } from '../panels.js';

const kThird = { kind: 'series', width: 8, height: 10 } as const;
const kHalf = { kind: 'series', width: 12, height: 10 } as const;

export const slabs: RowSpec = {
  title: 'Slabs and superslabs',
  collapsed: true,
  panels: [
    {
      ...kThird,
      title: 'Slabs by state',
      about: 'Many unowned or pooled slabs are what ended or idle threads have left behind.',
      unit: 'short',
      stacked: true,
      queries: [{ expr: `sum by (state) (${select('hakmem_slabs')})`, legend: '{{state}}' }],
    },
    {
      ...kThird,
      title: 'Superslabs by state',
      about: 'Empty superslabs are whole and can be purged; active ones are pinned by at least one slab.',
      unit: 'short',
      stacked: true,
      queries: [{ expr: `sum by (state) (${select('hakmem_superslabs')})`, legend: '{{state}}' }],
    },
    {
      ...kThird,
      title: 'Superslab bytes reserved, committed, in use',
      about: 'Reserved costs addresses only. Committed above in use is memory that no slab has.',
      unit: 'bytes',
      queries: [{ expr: `sum by (kind) (${select('hakmem_superslab_bytes')})`, legend: '{{kind}}' }],
    },
    {
      ...kThird,
      title: 'Slabs by occupancy',
      about: 'Slabs that hold objects, by the percentage of their blocks in use. Many at 0-25 are pinned by few objects.',
      unit: 'short',
      stacked: true,
      queries: [{ expr: `sum by (occupancy) (${select('hakmem_slabs_by_occupancy')})`, legend: '{{occupancy}}' }],
    },
    {
      ...kThird,
      title: 'Superslabs by occupancy',
      about: 'By the percentage of their units in slabs; what is free in them can be purged.',
      unit: 'short',
      stacked: true,
      queries: [{ expr: `sum by (occupancy) (${select('hakmem_superslabs_by_occupancy')})`, legend: '{{occupancy}}' }],
    },
    {
      ...kThird,
      title: 'What compaction could free',
      about:
        'Bytes of slabs that would be empty if the objects of each class stood together, beside the free bytes in slabs that ' +
        'hold objects. The recording rule instance:hakmem_compactable_bytes:deriv1h has the trend.',
      unit: 'bytes',
      queries: [
        { expr: `sum(${select('hakmem_compactable_bytes')})`, legend: 'compactable' },
        { expr: `sum(${select('hakmem_pinned_bytes')})`, legend: 'pinned' },
      ],
    },
    {
      ...kThird,
      title: 'Pinned bytes by size class',
      about: 'Free bytes in slabs that hold objects. The classes on top are those to look at.',
      unit: 'bytes',
      stacked: true,
      queries: [{ expr: `sum by (size_class) (${select('hakmem_pinned_bytes')})`, legend: '{{size_class}}' }],
    },
    {
      ...kThird,
      title: 'The heap at its peak',
      about: 'What was live and what was resident when most was live: the size that the machine needs.',
      unit: 'bytes',
      queries: [{ expr: `sum by (kind) (${select('hakmem_peak_bytes')})`, legend: '{{kind}}' }],
    },
    {
      ...kThird,
      title: 'Realized fragmentation',
      about: 'Share of the heap that was not live at the peak, in the worst of the selected processes.',
      unit: 'percentunit',
      queries: [
        { expr: `max by (instance) (${select('hakmem_realized_fragmentation_ratio')})`, legend: '{{instance}}' },
      ],
    },
    {
      ...kHalf,
      title: 'Slab bytes by size class',
      about: 'Which size classes have the slabs.',
      unit: 'bytes',
      stacked: true,
      queries: [{ expr: `sum by (size_class) (${select('hakmem_slab_bytes')})`, legend: '{{size_class}}' }],
    },
    {
      ...kHalf,
      title: 'Slab transitions',
      about: 'Claims, adoptions and retirements of slabs; a slab that retires can be used by another size class.',
      unit: 'ops',
      queries: [
        { expr: `sum(${rate('hakmem_slab_claims_total')})`, legend: 'claims' },
        { expr: `sum(${rate('hakmem_slab_adoptions_total')})`, legend: 'adoptions' },
        { expr: `sum(${rate('hakmem_slab_retirements_total')})`, legend: 'retirements' },
      ],
    },
  ],
};

export const purging: RowSpec = {
  title: 'Purging',
  collapsed: true,
  panels: [
    {
      ...kThird,
      title: 'Purged bytes',
      about: 'Purging that goes with as much mapping is churn: the process takes back what it gave.',
      unit: 'binBps',
      queries: [{ expr: `sum by (instance) (${rate('hakmem_purged_bytes_total')})`, legend: '{{instance}}' }],
    },
    {
      ...kThird,
      title: 'Purge runs',
      about: 'That purging happens at all.',
      unit: 'ops',
      queries: [{ expr: `sum by (instance) (${rate('hakmem_purge_runs_total')})`, legend: '{{instance}}' }],
    },
    {
      ...kThird,
      title: 'Purge time',
      about: 'Share of one CPU.',
      unit: 'percentunit',
      queries: [{ expr: `sum by (instance) (${rate('hakmem_purge_seconds_total')})`, legend: '{{instance}}' }],
    },
    {
      ...kHalf,
      title: 'Purge backlog and hold-back',
      about:
        'Backlog is what exceeds the hold-back. A backlog and no runs: purging does not run. No backlog and much slab_free: it ' +
        'cannot help.',
      unit: 'bytes',
      queries: [
        { expr: `sum(${select('hakmem_purge_backlog_bytes')})`, legend: 'backlog' },
        { expr: `sum(${select('hakmem_purge_hold_back_bytes')})`, legend: 'held back' },
      ],
    },
    {
      ...kHalf,
      title: 'Time since the last purge, and since the peak',
      about: 'Of the process that waits longest. No line for one that never purged.',
      unit: 's',
      queries: [
        { expr: `time() - min(${select('hakmem_last_purge_timestamp_seconds')})`, legend: 'purge' },
        { expr: `time() - min(${select('hakmem_peak_timestamp_seconds')})`, legend: 'peak' },
      ],
    },
    {
      ...kHalf,
      title: 'What purging can reach',
      about: 'retained and empty_slab can be given back; slab_free cannot, because live objects share its pages.',
      unit: 'bytes',
      stacked: true,
      queries: [
        {
          expr: `sum by (part) (${select('hakmem_resident_bytes', 'part=~"retained|empty_slab|slab_free"')})`,
          legend: '{{part}}',
        },
      ],
    },
    {
      ...kHalf,
      title: 'Bytes purged a run',
      about: 'Small purges cost a system call each for little memory.',
      unit: 'bytes',
      queries: [
        {
          expr: ratio(
            `sum by (instance) (${rate('hakmem_purged_bytes_total')})`,
            `sum by (instance) (${rate('hakmem_purge_runs_total')})`,
          ),
          legend: '{{instance}}',
        },
      ],
    },
  ],
};

export const huge: RowSpec = {
  title: 'Huge allocations',
  collapsed: true,
  panels: [
    {
      ...kThird,
      title: 'Huge live bytes',
      about: 'Memory in mappings of their own.',
      unit: 'bytes',
      queries: [{ expr: `sum by (instance) (${select('hakmem_huge_live_bytes')})`, legend: '{{instance}}' }],
    },
    {
      ...kThird,
      title: 'Huge live objects',
      about: 'How many there are.',
      unit: 'short',
      queries: [{ expr: `sum by (instance) (${select('hakmem_huge_live_objects')})`, legend: '{{instance}}' }],
    },
    {
      ...kThird,
      title: 'Huge allocations, frees, remaps',
      about: 'What is freed is used again for a while, else each costs kernel calls and pages: keep such buffers.',
      unit: 'ops',
      queries: [
        { expr: `sum(${rate('hakmem_huge_allocations_total')})`, legend: 'allocations' },
        { expr: `sum(${rate('hakmem_huge_frees_total')})`, legend: 'frees' },
        { expr: `sum(${rate('hakmem_huge_remaps_total')})`, legend: 'remaps' },
      ],
    },
  ],
};
